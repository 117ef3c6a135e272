"""Other users of policy routing on the same machine: containers behind a bridge, a mesh VPN."""

from __future__ import annotations

import re
import socket
from pathlib import Path as FilePath

import pytest

from tests.netns.conftest import FAR, TwoNetworks
from tests.netns.routes import CELLULAR, FULL, answering, exchange, run
from tools.netlab import Lab, Namespace
from tunnel.bind import OuterSockets
from tunnel.policy.apply import MachineRoutes
from tunnel.policy.monitor import PathMonitor
from tunnel.settings import RoutingPolicy, TunnelSettings
from tunnel.tun import Tun

pytestmark = pytest.mark.root


MASQUERADE = """
table ip docker {
  chain post {
    type nat hook postrouting priority 100
    ip saddr 172.17.0.0/16 oifname != docker0 masquerade
  }
}
"""
EVERYTHING = RoutingPolicy(include_all_networks=True, exclude_local_networks=True)


def container(lab: Lab, client: Namespace) -> Namespace:
    """A container as Docker makes it: a bridge, a veth pair, forwarding and masquerading."""
    inside = lab.namespace("box")
    client.ip("link add docker0 type bridge")
    client.ip("addr add 172.17.0.1/16 dev docker0")
    client.ip("link set docker0 up")
    lab.link(inside, "eth0", client, "veth1")
    client.ip("link set veth1 master docker0")
    inside.ip("addr add 172.17.0.2/16 dev eth0")
    inside.ip("route add default via 172.17.0.1")
    client.sysctl("net.ipv4.ip_forward", 1)
    client.run("nft -f -", input=MASQUERADE)
    return inside


def test_containers_go_on_and_binding_holds(
    lab: Lab, networks: TwoNetworks, tmp_path: FilePath
) -> None:
    client = networks.client
    for scope in ("all", "wwan0", "wlan0"):
        client.sysctl(f"net.ipv4.conf.{scope}.rp_filter", 1)
    box = container(lab, client)
    from_box = f"route get {FAR} from 172.17.0.2 iif docker0"

    async def work(monitor: PathMonitor, routes: MachineRoutes) -> None:
        box.run(f"ping -c1 -W2 {FAR}")  # the control
        await routes.apply(None, TunnelSettings(), monitor.path)
        outer = OuterSockets()
        outer.open(interface="wwan0")
        with answering(networks.cell, socket.AF_INET) as at:
            sent = networks.wifi.packets("down0", "rx")
            assert exchange(outer, at, FAR)
            assert networks.wifi.packets("down0", "rx") == sent
        outer.close()
        box.run(f"ping -c1 -W2 {FAR}")
        box.run("ping -c1 -W2 172.17.0.1")
        with Tun.create("tt0"):
            # A tunnel for everything takes them along, but not from each other or the machine.
            for policy in (RoutingPolicy(), EVERYTHING):
                await routes.apply("tt0", FULL, monitor.path, policy)
                assert "dev tt0" in client.ip(from_box)
                box.run("ping -c1 -W2 172.17.0.1")
                assert "dev docker0" in client.ip("route get 172.17.0.2")
            await routes.clear()
        box.run(f"ping -c1 -W2 {FAR}")

    run(networks, tmp_path, work, CELLULAR)


MESH = """
rule add pref 5210 fwmark 0x80000/0xff0000 lookup main
rule add pref 5230 fwmark 0x80000/0xff0000 lookup default
rule add pref 5250 fwmark 0x80000/0xff0000 unreachable
rule add pref 5270 lookup 52
route add 100.64.0.0/10 dev mesh0 table 52
"""


def test_a_mesh_vpn_keeps_its_networks(networks: TwoNetworks, tmp_path: FilePath) -> None:
    """Rules as a well-known mesh VPN makes them: its own networks in a table, its mark past it."""
    client = networks.client
    client.sysctl("net.ipv4.conf.all.rp_filter", 1)
    before = client.ip("rule")

    def device(extra: str) -> str:
        found = re.search(r"dev (\S+)", client.ip(f"route get {extra}"))
        return "" if found is None else found[1]

    async def work(monitor: PathMonitor, routes: MachineRoutes) -> None:
        with Tun.create("mesh0"), Tun.create("tt0"):
            client.ip("addr add 100.64.0.7/32 dev mesh0")
            client.ip("link set mesh0 up")
            client.run("ip -batch -", input=MESH)
            rules = client.ip("rule")
            in_force = await routes.apply("tt0", FULL, await monitor.refresh())
            assert device("100.64.0.9") == "mesh0"
            assert device(FAR) == "tt0"
            assert device(f"{FAR} mark 0x80000") == "wlan0"
            assert device(f"{FAR} oif wwan0 mark {in_force.mark}") == "wwan0"
            outer = OuterSockets()
            outer.open(interface="wwan0", mark=in_force.mark)
            with answering(networks.cell, socket.AF_INET) as at:
                assert exchange(outer, at, FAR)
            outer.close()
            # It becomes an exit node, for everything: now ours must come first to hold.
            client.ip("route add default dev mesh0 table 52")
            in_force = await routes.apply("tt0", FULL, await monitor.refresh())
            assert device(FAR) == "tt0"
            assert device(f"{FAR} oif wwan0 mark {in_force.mark}") == "wwan0"
            await routes.clear()
            assert client.ip("rule") == rules
            client.run("ip -batch -", input=MESH.replace("add", "del"))
        assert client.ip("rule") == before

    run(networks, tmp_path, work)
