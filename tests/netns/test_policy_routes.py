"""Routes, rules and firewall on the machine: what they let through, and what stays behind."""

from __future__ import annotations

import asyncio
import re
import socket
from ipaddress import ip_interface, ip_network
from pathlib import Path as FilePath

import pytest

from tests.netns.conftest import FAR, FAR6, TwoNetworks, address
from tests.netns.routes import CELLULAR, FULL, answering, exchange, footprint, run
from tunnel.bind import OuterSockets
from tunnel.errors import MissingFacilityError
from tunnel.policy.apply import MachineRoutes
from tunnel.policy.binding import BindingPolicy
from tunnel.policy.monitor import PathMonitor
from tunnel.policy.routing import Desired
from tunnel.settings import Table, TunnelSettings
from tunnel.tun import Tun

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("family", "far"), [(socket.AF_INET, FAR), (socket.AF_INET6, FAR6)], ids=["ipv4", "ipv6"]
)
def test_strict_reverse_path_does_not_break_a_bound_socket(
    networks: TwoNetworks, tmp_path: FilePath, family: int, far: str
) -> None:
    for scope in ("all", "wwan0", "wlan0"):
        networks.client.sysctl(f"net.ipv4.conf.{scope}.rp_filter", 1)

    async def work(monitor: PathMonitor, routes: MachineRoutes) -> None:
        outer = OuterSockets()
        outer.open(interface="wwan0")
        with answering(networks.cell, family) as at:
            # The control: without our tables strict rp_filter drops the answer (IPv4 only has it).
            assert exchange(outer, at, far) == (family == socket.AF_INET6)
            await routes.apply(None, TunnelSettings(), monitor.path)
            assert exchange(outer, at, far)
        outer.close()

    run(networks, tmp_path, work)


def test_everything_is_taken_back(networks: TwoNetworks, tmp_path: FilePath) -> None:
    client = networks.client
    client.run("nft add table inet other")
    before = footprint(client)

    async def work(monitor: PathMonitor, routes: MachineRoutes) -> None:
        with Tun.create("tt0"):
            in_force = await routes.apply("tt0", FULL, monitor.path)
            during = footprint(client)
            assert in_force.mark
            assert f"not from all fwmark {in_force.mark:#x}" in during
            assert "suppress_prefixlength 0" in during
            assert "table inet tunneld-" in during
            assert "net.ipv4.conf.all.src_valid_mark = 1" in during
            assert "oif wwan0" in during
            # A second time changes nothing.
            assert await routes.apply("tt0", FULL, monitor.path) == in_force
            assert footprint(client) == during
            await routes.clear()
        assert footprint(client) == before

    run(networks, tmp_path, work)
    assert list(tmp_path.iterdir()) == []
    assert footprint(client) == before


def test_default_route_takes_all_but_the_marked_and_the_excluded(
    networks: TwoNetworks, tmp_path: FilePath
) -> None:
    client = networks.client

    def device(destination: str, extra: str = "") -> str:
        words = client.ip(f"route get {destination} {extra}").split()
        return words[words.index("dev") + 1]

    async def work(monitor: PathMonitor, routes: MachineRoutes) -> None:
        settings = TunnelSettings(
            addresses=FULL.addresses,
            included_routes=FULL.included_routes,
            excluded_routes=(ip_network("198.51.100.0/24"), ip_network("2001:db8:51::/48")),
        )
        assert device(FAR) == "wlan0"
        with Tun.create("tt0"):
            in_force = await routes.apply("tt0", settings, monitor.path)
            for far in (FAR, FAR6):
                assert device(far) == "tt0"
                assert device(far, f"mark {in_force.mark}") == "wlan0"
                assert device(far, "oif wwan0") == "wwan0"
            assert device("198.51.100.9") == device("2001:db8:51::9") == "wlan0"
            # The local networks keep their own routes, and so does the tunnel's.
            assert device("10.1.0.9") == "wlan0"
            assert device("10.9.0.9") == "tt0"
            assert "mtu 1420" in client.ip("link show tt0")
            smaller = TunnelSettings(addresses=FULL.addresses[:1], mtu=1300)
            await routes.apply("tt0", smaller, monitor.path)
            assert device(FAR) == "wlan0"
            assert "mtu 1300" in client.ip("link show tt0")
            assert "fd09::2" not in client.ip("addr show tt0")
            assert "tunneld-" not in client.run("nft list ruleset").stdout

    run(networks, tmp_path, work)


@pytest.mark.parametrize(
    ("table", "shown"),
    [(Table.AUTO, "main"), (4711, "4711"), (Table.OFF, None)],
)
def test_tables_as_wg_quick_knows_them(
    networks: TwoNetworks, tmp_path: FilePath, table: Table | int, shown: str | None
) -> None:
    client = networks.client

    async def work(monitor: PathMonitor, routes: MachineRoutes) -> None:
        settings = TunnelSettings(
            addresses=(ip_interface("10.9.0.2/24"),),
            included_routes=(ip_network("10.9.0.0/25"), ip_network("10.77.0.0/16")),
            excluded_routes=(ip_network("10.77.128.0/17"),),
            table=table,
        )
        with Tun.create("tt0"):
            in_force = await routes.apply("tt0", settings, monitor.path)
            assert in_force.mark == 0
            found = client.ip("route show table all dev tt0")
            assert ("10.77.0.0/17" in found) == (shown is not None)
            assert "10.77.128.0" not in found
            assert "10.77.0.0/16" not in found
            # The address's own network covers this one in the main table.
            assert ("10.9.0.0/25" in found) == (shown == "4711")
            if shown is not None:
                assert "10.77.0.0/17" in client.ip(f"route show table {shown}")

    run(networks, tmp_path, work)


def test_rebuilt_after_down_and_up_and_for_a_link_made_again(
    networks: TwoNetworks, tmp_path: FilePath
) -> None:
    client, cell = networks.client, networks.cell

    async def usable(monitor: PathMonitor) -> None:
        async with asyncio.timeout(10):
            while monitor.path.interface is None or monitor.path.interface.routed != {4, 6}:
                await anext(monitor)

    async def work(monitor: PathMonitor, routes: MachineRoutes) -> None:
        outer = OuterSockets()
        await routes.apply(None, TunnelSettings(), monitor.path)
        table = client.ip("rule").split("oif wwan0 lookup ")[1].split()[0]
        assert "default via 10.2.0.1" in client.ip(f"route show table {table}")
        client.ip("link set wwan0 down")
        assert client.ip(f"route show table {table}") == ""  # the control: silently gone
        client.ip("link set wwan0 up")
        address(client, "wwan0", 2, 700)
        await usable(monitor)
        await routes.apply(None, TunnelSettings(), monitor.path)
        assert "default via 10.2.0.1" in client.ip(f"route show table {table}")
        client.ip("link del wwan0")
        client.ip(f"link add wwan0 type veth peer name down0 netns {cell.name}")
        cell.ip("link set down0 up")
        cell.ip("addr add 10.2.0.1/24 dev down0")
        cell.ip("-6 addr add fd00:2::1/64 dev down0 nodad")
        client.ip("link set wwan0 up")
        address(client, "wwan0", 2, 700)
        await anext(monitor)
        await usable(monitor)
        await routes.apply(None, TunnelSettings(), monitor.path)
        assert "default via 10.2.0.1" in client.ip(f"route show table {table}")
        client.sysctl("net.ipv4.conf.all.rp_filter", 1)
        client.sysctl("net.ipv4.conf.wwan0.rp_filter", 1)
        outer.open(interface="wwan0")
        with answering(cell, socket.AF_INET) as at:
            assert exchange(outer, at, FAR)
        outer.close()

    run(networks, tmp_path, work)


def test_a_path_that_is_gone_takes_its_tables_along(
    networks: TwoNetworks, tmp_path: FilePath
) -> None:
    before = footprint(networks.client)

    async def work(monitor: PathMonitor, routes: MachineRoutes) -> None:
        await routes.apply(None, TunnelSettings(), monitor.path)
        assert footprint(networks.client) != before
        nothing = CELLULAR.decide(())
        assert await routes.apply(None, TunnelSettings(), nothing) == Desired()
        assert footprint(networks.client) == before

    run(networks, tmp_path, work)


def test_rules_come_before_a_vpn_that_starts_later(
    networks: TwoNetworks, tmp_path: FilePath
) -> None:
    client = networks.client

    async def work(monitor: PathMonitor, routes: MachineRoutes) -> None:
        await routes.apply(None, TunnelSettings(), monitor.path)
        client.ip("route add default via 10.1.0.1 dev wlan0 table 51820")
        # As wg-quick does it: no preference, so the kernel takes those just above the lowest.
        client.ip("rule add not fwmark 7 table 51820")
        client.ip("rule add table main suppress_prefixlength 0")
        order = re.findall(r"51820|oif wwan0", client.ip("rule"))
        assert order == ["51820", "oif wwan0"]
        await anext(monitor)
        await routes.apply(None, TunnelSettings(), monitor.path)
        order = re.findall(r"51820|oif wwan0", client.ip("rule"))
        assert order == ["oif wwan0", "51820"]
        client.ip("rule del not fwmark 7 table 51820")
        client.ip("rule del table main suppress_prefixlength 0")

    run(networks, tmp_path, work)


def test_packets_for_the_tunnel_address_from_a_link_are_dropped(
    networks: TwoNetworks, tmp_path: FilePath
) -> None:
    wifi = networks.wifi
    wifi.ip("route add 10.9.0.2/32 via 10.1.0.2")

    def probe(listener: socket.socket) -> bool:
        with wifi.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(b"probe", ("10.9.0.2", 7000))
        try:
            return listener.recv(99) == b"probe"
        except TimeoutError:
            return False

    async def work(monitor: PathMonitor, routes: MachineRoutes) -> None:
        with (
            Tun.create("tt0"),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener,
        ):
            listener.bind(("", 7000))
            listener.settimeout(0.5)
            part = TunnelSettings(addresses=FULL.addresses)
            await routes.apply("tt0", part, monitor.path)
            assert probe(listener)  # the control: a tunnel that takes only its own network
            await routes.apply("tt0", FULL, monitor.path)
            assert not probe(listener)
            # Our own packets to ourselves are not what it is about.
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.sendto(b"own", ("10.9.0.2", 7000))
            assert listener.recv(99) == b"own"

    run(networks, tmp_path, work)


def test_unbound_replies_pass_strict_reverse_path_by_their_mark(
    networks: TwoNetworks, tmp_path: FilePath
) -> None:
    client = networks.client
    for scope in ("all", "wlan0"):
        client.sysctl(f"net.ipv4.conf.{scope}.rp_filter", 1)

    async def work(monitor: PathMonitor, routes: MachineRoutes) -> None:
        with Tun.create("tt0"), answering(networks.wifi, socket.AF_INET) as at:
            in_force = await routes.apply("tt0", FULL, monitor.path)
            outer = OuterSockets()
            outer.open(mark=in_force.mark)
            assert exchange(outer, at, FAR)
            # The control: without the sysctl the answer is looked up as if it went to the tunnel.
            client.sysctl("net.ipv4.conf.all.src_valid_mark", 0)
            assert not exchange(outer, at, FAR)
            outer.close()

    run(networks, tmp_path, work, BindingPolicy())


def test_without_its_interface_it_says_so(networks: TwoNetworks, tmp_path: FilePath) -> None:
    async def work(monitor: PathMonitor, routes: MachineRoutes) -> None:
        with pytest.raises(MissingFacilityError, match="tt0"):
            await routes.apply("tt0", FULL, monitor.path)

    run(networks, tmp_path, work)
