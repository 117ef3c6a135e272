"""The chain that judges each frame as it leaves a device, whoever made it. Pure.

It keeps no state and sees packet sockets, bridges and children in other namespaces as well, whose
senders may say of a frame what they like: so Ethernet types are read in the frame itself. For local
programs it lets through a little more than the chains above it, and never what those have no words
for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tunnel.policy.killswitch import match
from tunnel.policy.killswitch.common import (
    LOOPBACK,
    PROTOCOLS,
    answers,
    dns_elsewhere,
    endpoints,
    excluded_out,
    keep_alive_out,
    local,
    portal_out,
    resolvers,
    unconfirmed,
)
from tunnel.policy.killswitch.match import ACCEPTED, DROPPED
from tunnel.policy.killswitch.ruleset import Rule
from tunnel.policy.killswitch.state import Desired

#: EtherTypes that keep a link alive, and carry no IP of their own choice.
_LINK_FRAMES: Final = {0x0806: "ARP", 0x888E: "802.1X", 0x8863: "PPPoE discovery",
                       0x8864: "PPPoE session"}  # fmt: skip


def frames(wanted: Desired) -> Iterable[Rule]:
    """Yield the rules of what may leave a device."""
    yield from unconfirmed(wanted)
    yield Rule("loopback", (match.into(LOOPBACK),), ACCEPTED)
    if wanted.open_tunnel:
        yield Rule("the tunnel", (match.into(wanted.tunnel),), ACCEPTED)
    for number, name in _LINK_FRAMES.items():
        yield Rule(name, (match.frame_type(number),), ACCEPTED)
        tag = match.frame_type(0x8100)
        yield Rule(f"{name} in a VLAN", (tag, match.frame_type(number, tagged=True)), ACCEPTED)
    no_ip = [match.frame_type(number, other=True) for number in match.ETHERTYPE_IP.values()]
    yield Rule("bridges' and bonds' own", (match.link_local_group(), *no_ip), ACCEPTED)
    yield from keep_alive_out(netdev=True)
    for endpoint in dict.fromkeys(e.address for e in endpoints(wanted)):
        # No port: of a packet in fragments only the first has one. The mark is on all of them.
        way = (match.version(endpoint.version, netdev=True), match.destination(endpoint))
        udp = match.protocol(match.UDP)
        yield Rule(f"server {endpoint}", (match.mark(wanted.mark), *way, udp), ACCEPTED)
    for address in dict.fromkeys(resolver.address for resolver in resolvers(wanted)):
        for kind in ("udp", "tcp"):
            yield Rule(
                f"endpoint names {kind} {address}",
                (
                    match.mark(wanted.mark),
                    match.version(address.version, netdev=True),
                    match.destination(address),
                    match.protocol(PROTOCOLS[kind]),
                    match.destination_port(kind, 53),
                ),
                ACCEPTED,
            )
    yield from portal_out(wanted, netdev=True)
    yield from dns_elsewhere(DROPPED)
    yield from local(wanted)
    yield from excluded_out(wanted, netdev=True)
    for inbound in wanted.inbound:
        yield answers(inbound, connection=False)
    yield Rule("everything else", (), DROPPED)
