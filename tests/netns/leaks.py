"""Senders that a kill switch must stop, and the lab in which it is seen whether it does.

         wlan0 -- wifi .
    client              . server
         wwan0 -- cell .
     eth9 in br0 -- wifi (down1)
     br0 -- bridged,  wlan0 -- macvlan child,  veb0 -- behind (forwarded, with NAT)

Each router counts, as a frame comes in from the client, what is neither the tunnel's nor keeps a
network alive (`leak`), and the DHCP packets that may pass (`alive`).
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.netns.senders import INJECTED, MARKER
from tests.netns.world import FAR, PORT, World
from tools.netlab import Lab, Namespace

SENDERS = str(Path(__file__).with_name("senders.py"))


@dataclass
class Leaks:
    """The taps of a world, and the namespaces behind its client."""

    world: World
    children: list[Namespace]

    def count(self, what: str = "leak") -> int:
        """How many packets the routers have seen so far."""
        total = 0
        for router in self.world.routers.values():
            listed = json.loads(router.run(f"nft -j list counter netdev leaks {what}").stdout)
            total += int(listed["nftables"][1]["counter"]["packets"])
        return total

    def probe(self) -> int:
        """Send everything from everywhere; return what leaked, once the taps are known to see."""
        before, alive = self.count(), self.count("alive")
        senders = [self.world.client.start([sys.executable, SENDERS, "wlan0,wwan0,eth9,br0"])]
        senders += [child.start([sys.executable, SENDERS, "eth0"]) for child in self.children]
        assert [sender.wait(30) for sender in senders] == [0] * len(senders)
        self.world.client.run([sys.executable, SENDERS, "--alive", "wlan0"])
        deadline = time.monotonic() + 5
        while self.count("alive") == alive and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.count("alive") > alive, "the tap saw not even what must pass"
        return self.count() - before


def make_leaks(lab: Lab, world: World) -> Leaks:
    """Put the taps and the namespaces behind the client into a world."""
    client, wifi = world.client, world.routers["wlan0"]
    lab.link(client, "eth9", wifi, "down1")
    wifi.ip("addr add 10.5.0.1/24 dev down1")
    client.ip("link add br0 type bridge")
    client.ip("link set eth9 master br0")
    client.ip("link set br0 up")
    for metric, device in enumerate(("wlan0", "wwan0"), start=5):
        client.ip(f"route add 203.0.113.0/24 dev {device} metric {metric}")
    client.ip(f"route add {INJECTED}/32 via 10.1.0.1")
    bridged, child, behind = (lab.namespace(n) for n in ("bridged", "child", "behind"))
    lab.link(client, "vbr0", bridged, "eth0")
    client.ip("link set vbr0 master br0")
    _give(bridged, "10.5.0.9/24", "10.5.0.1")
    client.ip("link add mv0 link wlan0 type macvlan mode bridge")
    client.ip(f"link set mv0 netns {child.name} name eth0")
    _give(child, "10.1.0.9/24", "10.1.0.1")
    lab.link(client, "veb0", behind, "eth0")
    client.ip("addr add 10.6.0.1/24 dev veb0")
    _give(behind, "10.6.0.2/24", "10.6.0.1")
    client.sysctl("net.ipv4.ip_forward", 1)
    client.run(
        ["nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; "
         '}; add rule ip nat post oifname { "wlan0", "wwan0" } masquerade']
    )  # fmt: skip
    for name, router in world.routers.items():
        devices = "down0, down1" if name == "wlan0" else "down0"
        router.run(["nft", _taps(devices)])
    return Leaks(world, [bridged, child, behind])


def _give(space: Namespace, address: str, gateway: str) -> None:
    space.ip("link set eth0 up")
    space.ip(f"addr add {address} dev eth0")
    space.ip(f"route add default via {gateway}")


def _taps(devices: str) -> str:
    marker = int.from_bytes(MARKER, "big")
    rules = (
        f"udp dport {PORT} @th,64,32 {marker:#x} counter name leak return",
        f"ip daddr {FAR} udp dport {PORT} return",
        "udp sport 68 udp dport 67 counter name alive return",
        "icmpv6 type { 131, 132, 133, 135, 136, 143 } return",
        "meta protocol { ip, ip6 } counter name leak",
    )
    chain = f"{{ type filter hook ingress devices = {{ {devices} }} priority 1; }}"
    return "; ".join(
        ["add table netdev leaks", "add counter netdev leaks leak",
         "add counter netdev leaks alive", f"add chain netdev leaks in {chain}",
         *(f"add rule netdev leaks in {rule}" for rule in rules)]
    )  # fmt: skip
