"""Include-all-networks, enforce-routes and their exceptions, asked of the kernel."""

from __future__ import annotations

import itertools
import re
import socket
from ipaddress import ip_address, ip_network
from pathlib import Path as FilePath

import pytest

from tests.netns.conftest import FAR, FAR6, TwoNetworks
from tests.netns.routes import CELLULAR, FULL, answering, exchange, footprint, run
from tools.netlab import Namespace
from tunnel.bind import OuterSockets
from tunnel.policy.apply import MachineRoutes
from tunnel.policy.binding import BindingPolicy
from tunnel.policy.connection import Connection
from tunnel.policy.lookup import Packet, Tables
from tunnel.policy.monitor import PathMonitor
from tunnel.settings import RoutingPolicy, TunnelSettings
from tunnel.tun import Tun

pytestmark = pytest.mark.root

ALL = RoutingPolicy(include_all_networks=True, exclude_local_networks=True)
ENFORCE = RoutingPolicy(enforce_routes=True, excluded_routes=(ip_network("198.51.100.0/24"),))


def device(space: Namespace, destination: str, extra: str = "") -> str:
    """The interface that the kernel would send by; its refusal, where it refuses."""
    done = space.run(f"ip route get {destination} {extra}", check=False)
    found = re.search(r"dev (\S+)", done.stdout)
    return found[1] if found else "refused"


@pytest.mark.parametrize("policy", [ALL, ENFORCE], ids=["include all", "enforce"])
@pytest.mark.parametrize("binding", [BindingPolicy(), CELLULAR], ids=["unbound", "bound"])
def test_the_kernel_agrees_with_the_lookup(
    networks: TwoNetworks, tmp_path: FilePath, policy: RoutingPolicy, binding: BindingPolicy
) -> None:
    """Every kind of destination, bound or not, marked or not: `ip route get` is the oracle."""
    client = networks.client
    client.ip("route add 192.0.0.0/8 via 10.1.0.66 dev wlan0 onlink")  # TunnelVision
    client.ip("route add 203.0.113.0/24 dev wlan0")
    destinations = (FAR, "9.9.9.9", "203.0.113.9", "198.51.100.9", "10.1.0.9", "10.9.0.9",
                    FAR6, "fd00:1::9", "fd09::9")  # fmt: skip

    async def work(monitor: PathMonitor, routes: MachineRoutes) -> None:
        assert device(client, FAR) == "wlan0"
        with Tun.create("tt0"):
            wanted = await routes.apply("tt0", FULL, monitor.path, policy)
            connection = Connection()
            dump = connection.read()
            connection.close()
            tables = Tables(dump)
            for far, oif, mark in itertools.product(
                destinations, (None, "wlan0", "wwan0"), (0, wanted.mark)
            ):
                address = ip_address(far)
                found = tables.look_up(Packet(address, oif=oif, mark=mark))
                extra = f"mark {mark}" + (f" oif {oif}" if oif else "")
                said = device(client, far, extra)
                # Asked with an interface, IPv4 takes what it has no route to for a neighbour.
                if not (oif and address.version == 4 and not found.index):
                    expected = dump.name(found.index) if found.index else "refused"
                    assert said == expected, (far, extra, client.ip("rule"))
            assert device(client, FAR) == device(client, FAR6) == "tt0"
            assert device(client, "10.1.0.9") == ("wlan0" if policy is ALL else "tt0")
            if policy is ENFORCE:
                assert device(client, "198.51.100.9") == "wlan0"
        # The link is gone, and its routes: closed.
        for far in (FAR, FAR6, "9.9.9.9"):
            assert device(client, far) == "refused"
            assert device(client, far, f"mark {wanted.mark}") in ("wlan0", "wwan0")
        await routes.clear()
        assert device(client, FAR) == "wlan0"

    run(networks, tmp_path, work, binding)


def test_closed_before_the_link_is_there(networks: TwoNetworks, tmp_path: FilePath) -> None:
    client = networks.client
    before = footprint(client)

    async def work(monitor: PathMonitor, routes: MachineRoutes) -> None:
        await routes.apply(None, TunnelSettings(), monitor.path, ALL)
        for far in (FAR, FAR6):
            assert device(client, far) == "refused"
        await routes.clear()
        assert footprint(client) == before

    run(networks, tmp_path, work)


def test_enforced_traffic_is_not_taken_elsewhere_and_excluded_traffic_is_free(
    networks: TwoNetworks, tmp_path: FilePath
) -> None:
    """Programs that bind to another interface are refused at once; the tap is a real listener."""
    client = networks.client
    for router in (networks.wifi, networks.cell):
        router.ip("addr add 198.51.100.9/32 dev lo")

    def send(far: str, port: int = 7000, oif: str | None = None) -> str:
        with client.entered():
            one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with one:
            if oif:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, oif.encode())
            try:
                one.sendto(b"app", (far, port))
            except OSError as error:
                return type(error).__name__
        return ""

    def heard(at: socket.socket) -> bool:
        at.settimeout(0.3)
        try:
            return at.recv(99) == b"app"
        except TimeoutError:
            return False

    async def work(monitor: PathMonitor, routes: MachineRoutes) -> None:
        with answering(networks.wifi, socket.AF_INET) as at:
            assert send(FAR, oif="wlan0") == ""  # the control: without the policy it arrives
            assert heard(at)
            with Tun.create("tt0"):
                await routes.apply("tt0", FULL, monitor.path, ENFORCE)
                assert send(FAR, oif="wlan0") == "PermissionError"
                assert not heard(at)
                assert send(FAR) == ""  # into the tunnel
                assert not heard(at)
                with networks.wifi.entered():
                    free = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                with free:
                    free.bind(("198.51.100.9", 7000))
                    assert send("198.51.100.9") == ""
                    assert heard(free)
                    assert send("198.51.100.9", oif="wlan0") == ""
                    assert heard(free)

    run(networks, tmp_path, work, BindingPolicy())


@pytest.mark.parametrize("policy", [ALL, ENFORCE], ids=["include all", "enforce"])
def test_replies_pass_a_strict_reverse_path_check(
    networks: TwoNetworks, tmp_path: FilePath, policy: RoutingPolicy
) -> None:
    """The interface rules ask for the mark then, so the replies must carry it too."""
    client = networks.client
    for scope in ("all", "wwan0", "wlan0"):
        client.sysctl(f"net.ipv4.conf.{scope}.rp_filter", 1)

    async def work(monitor: PathMonitor, routes: MachineRoutes) -> None:
        with Tun.create("tt0"):
            wanted = await routes.apply("tt0", FULL, monitor.path, policy)
            outer = OuterSockets()
            outer.open(interface="wwan0", mark=wanted.mark)
            with answering(networks.cell, socket.AF_INET) as at:
                assert exchange(outer, at, FAR)
                # The control: without the mark's way back the reply is dropped.
                client.run("nft flush ruleset")
                outer.close()
                outer.open(interface="wwan0", mark=wanted.mark)
                assert not exchange(outer, at, FAR)
            with answering(networks.cell, socket.AF_INET6) as at:
                assert exchange(outer, at, FAR6)
            outer.close()

    run(networks, tmp_path, work)
