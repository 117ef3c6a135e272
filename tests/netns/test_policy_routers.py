"""Two routers on one link that advertise a prefix each (RFC 8028), with real advertisements.

client wwan0 --+-- one   fe80::1  2001:db8:1::/64
            bridge
               +-- two   fe80::2  2001:db8:2::/64     both own FAR6
"""

from __future__ import annotations

import asyncio
import socket
import struct
from ipaddress import IPv6Network
from pathlib import Path as FilePath

import pytest

from tests.netns.conftest import FAR6
from tools.netlab import Lab, Namespace
from tunnel.policy.apply import MachineRoutes
from tunnel.policy.binding import BindingPolicy, Term
from tunnel.policy.monitor import PathMonitor
from tunnel.settings import TunnelSettings

pytestmark = pytest.mark.root


def advertise(router: Namespace, number: int, preferred: int = 600) -> None:
    """Send one advertisement of the router's prefix to all nodes."""
    network = IPv6Network(f"2001:db8:{number}::/64")
    data = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    data += struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, preferred, 0)
    data += network.network_address.packed
    with router.entered():
        one = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        index = socket.if_nametoindex("down0")
    with one:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        one.sendto(data, ("ff02::1", 0, 0, index))


def gateway(client: Namespace, extra: str) -> str:
    words = client.ip(f"-6 route get {FAR6} {extra}").split()
    return words[words.index("via") + 1]


def test_each_address_leaves_by_its_router(lab: Lab, tmp_path: FilePath) -> None:
    client, middle = lab.namespace("client"), lab.namespace("middle")
    routers = [lab.namespace("one"), lab.namespace("two")]
    middle.ip("link add bridge0 type bridge")
    middle.ip("link set bridge0 up")
    lab.link(client, "wwan0", middle, "p0")
    for number, router in enumerate(routers, start=1):
        lab.link(router, "down0", middle, f"p{number}")
        router.ip("-6 addr flush dev down0")
        router.ip(f"-6 addr add fe80::{number}/64 dev down0 nodad")
        router.ip(f"-6 addr add {FAR6}/128 dev lo nodad")
    for port in ("p0", "p1", "p2"):
        middle.ip(f"link set {port} master bridge0")
    client.sysctl("net.ipv6.conf.wwan0.accept_ra", 2)

    async def main() -> None:
        routes = MachineRoutes(run=tmp_path)
        async with PathMonitor(BindingPolicy((Term("wwan0"),))) as monitor:

            async def until_known(count: int) -> None:
                async with asyncio.timeout(10):
                    while True:
                        found = monitor.path.interface
                        if found is not None and len(found.prefixes) == count:
                            return
                        await anext(monitor)

            for number, router in enumerate(routers, start=1):
                advertise(router, number)
            async with asyncio.timeout(10):
                while client.ip("-6 addr show dev wwan0 scope global").count("inet6") < 2:
                    await anext(monitor)
            for number, router in enumerate(routers, start=1):
                advertise(router, number)  # heard by us too, now that there are two
            await until_known(2)
            own = {
                str(a.ip).split(":")[2]: str(a.ip)
                for a in monitor.path.interfaces[0].addresses
                if not a.ip.is_link_local
            }
            # The control: the main table sends both addresses to one router.
            assert len({gateway(client, f"from {own[n]} oif wwan0") for n in "12"}) == 1
            await routes.apply(None, TunnelSettings(), monitor.path)
            # `from` alone, as a reply to the address would be looked up.
            assert gateway(client, f"from {own['1']}") == "fe80::1"
            assert gateway(client, f"from {own['2']}") == "fe80::2"
            first = gateway(client, "oif wwan0")
            chosen = client.ip(f"-6 route get {FAR6} oif wwan0").split("src ")[1].split()[0]
            assert chosen == own[first[-1]]
            # That router's prefix is deprecated: new packets go to the other one.
            advertise(routers[int(first[-1]) - 1], int(first[-1]), preferred=0)
            async with asyncio.timeout(10):
                while gateway(client, "oif wwan0") == first:
                    await asyncio.sleep(0.05)
                    await monitor.refresh()
                    await routes.apply(None, TunnelSettings(), monitor.path)
            chosen = client.ip(f"-6 route get {FAR6} oif wwan0").split("src ")[1].split()[0]
            assert chosen != own[first[-1]]
            assert gateway(client, f"from {own[first[-1]]}") == first
            await routes.clear()

    with client.entered():
        asyncio.run(main())
