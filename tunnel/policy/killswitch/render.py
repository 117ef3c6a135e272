"""The firewall that a desired state means. Pure: values in, values out.

Two tables judge, both in force. `inet` judges what goes through the IP stack, by its state, sender
and interface. `netdev` judges each frame as it leaves a device, whoever made it: packet sockets,
bridges, macvlan children in other namespaces. It keeps no state, so it lets through a little more
than `inet` does for local programs, and never what `inet` has no words for.

What is named nowhere is refused: local senders learn it at once, all others are dropped. Before
the local networks come the DNS ports, or the resolver of the local network would learn every name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tunnel.policy.killswitch import match, nfnl
from tunnel.policy.killswitch.common import (
    LOOPBACK,
    PROTOCOLS,
    TIMER_CONFIRM,
    TIMER_PORTAL,
    answers,
    at,
    dns_elsewhere,
    endpoints,
    excluded_in,
    excluded_out,
    keep_alive_in,
    keep_alive_out,
    links,
    local,
    local_both,
    local_chain,
    over,
    portal_out,
    related,
    resolvers,
    udp,
    unconfirmed,
)
from tunnel.policy.killswitch.frames import frames
from tunnel.policy.killswitch.match import ACCEPTED, DROPPED, REJECTED
from tunnel.policy.killswitch.ruleset import TIMERS, Chain, Hook, Rule, Ruleset, Table
from tunnel.policy.killswitch.state import Desired

TABLE: Final = "tunneld"
DEVICES_MAX: Final = 255
"""Devices that one egress chain takes (NFT_NETDEVICE_MAX less one)."""


def render(wanted: Desired, now: float, devices: Sequence[str] = ()) -> Ruleset:
    """Return the firewall of a state that is not OFF.

    `devices` are those whose egress is judged. `now` is on the clock of `wanted`'s times.
    """
    inet = Table(
        nfnl.INET,
        TABLE,
        (
            *local_chain(wanted, netdev=False),
            Chain("raw", tuple(_raw(wanted)), Hook(nfnl.PRE_ROUTING, -310, drops=False)),
            Chain("restore", tuple(_restore(wanted)), Hook(nfnl.PRE_ROUTING, -150, drops=False)),
            Chain("save", tuple(_save(wanted)), Hook(nfnl.POST_ROUTING, -150, drops=False)),
            Chain("input", tuple(_input(wanted)), Hook(nfnl.LOCAL_IN, 0, drops=True)),
            Chain("output", tuple(_output(wanted)), Hook(nfnl.LOCAL_OUT, 0, drops=True)),
            Chain("forward", tuple(_forward(wanted)), Hook(nfnl.FORWARD, 0, drops=True)),
        ),
    )
    every = Rule("every device", (), match.jump("frames"))
    chains = [*local_chain(wanted, netdev=True), Chain("frames", tuple(frames(wanted)))]
    for number, first in enumerate(range(0, len(devices), DEVICES_MAX)):
        some = tuple(devices[first : first + DEVICES_MAX])
        hook = Hook(nfnl.EGRESS, 0, drops=True, devices=some)
        chains.append(Chain(f"egress{number}", (every,), hook))
    timers = []
    for key, end in (
        (TIMER_CONFIRM, wanted.confirm),
        (TIMER_PORTAL, None if wanted.portal is None else wanted.portal_until),
    ):
        if end is not None and end > now:
            timers.append((key, end - now))
    tables = (inet, *_arp(wanted), Table(nfnl.NETDEV, TABLE, tuple(chains)))
    return Ruleset(comment(wanted), tables, tuple(timers))


def comment(wanted: Desired) -> str:
    """Return what the tables say of themselves: `tunneld kill switch: STATE [tunnel NAME]`."""
    of = f" tunnel {wanted.tunnel}" if wanted.tunnel else ""
    return f"tunneld kill switch: {wanted.phase.value}{of}"


# ---- the chains ----


def _raw(wanted: Desired) -> Iterable[Rule]:
    """CVE-2019-14899: what is for the tunnel's address comes through the tunnel, or from here."""
    for address in wanted.addresses:
        yield Rule(
            f"for {address.ip} from elsewhere",
            (
                match.out_of(wanted.tunnel, other=True),
                match.version(address.version),
                match.destination(address.ip),
                match.source_not_ours(),
            ),
            DROPPED,
        )


def _arp(wanted: Desired) -> Iterable[Table]:
    """Questions of neighbours get our mark as well: the kernel answers none whose sender it would
    route elsewhere (rp_filter), and what has no mark it routes into the tunnel.
    """
    if wanted.mark:
        rule = Rule("neighbours get our mark", (match.set_mark(wanted.mark),), ACCEPTED)
        yield Table(
            nfnl.ARP, TABLE, (Chain("neighbours", (rule,), Hook(nfnl.ARP_IN, 0, drops=False)),)
        )


def _save(wanted: Desired) -> Iterable[Rule]:
    """The mark of our packets is kept with their connection, for `restore`."""
    if wanted.mark:
        way = (match.protocol(match.UDP), match.mark(wanted.mark))
        yield Rule("our mark is kept", (*way, match.keep_mark(wanted.mark)), ACCEPTED)
    portal = wanted.portal
    if portal is not None:
        who = match.mark(portal.mark) if portal.user is None else match.user(portal.user)
        keep = match.keep_mark(portal.mark)
        theirs = (match.into(portal.interface), who, keep)
        yield Rule(f"{portal}: answers come back", theirs, ACCEPTED)


def _restore(wanted: Desired) -> Iterable[Rule]:
    """Replies get our mark, so that the reverse-path check looks them up as we route them.

    Errors about our packets do too: they belong to the connection that they are about.
    """
    portal = wanted.portal
    if portal is not None:
        theirs = (match.connection_mark(portal.mark), match.set_mark(portal.mark))
        yield Rule(f"{portal}: answers get its mark", theirs, ACCEPTED)
    if wanted.mark:
        ours = (match.connection_mark(wanted.mark), match.set_mark(wanted.mark))
        yield Rule("answers get our mark", (match.protocol(match.UDP), *ours), ACCEPTED)
        for number, name in ((match.ICMP, "ICMP"), (match.ICMPV6, "ICMPv6")):
            yield Rule(f"{name} errors get our mark", (match.protocol(number), *ours), ACCEPTED)


def _input(wanted: Desired) -> Iterable[Rule]:
    yield from unconfirmed(wanted)
    yield Rule("loopback", (match.out_of(LOOPBACK),), ACCEPTED)
    if wanted.open_tunnel:
        yield Rule("the tunnel", (match.out_of(wanted.tunnel),), ACCEPTED)
    yield from keep_alive_in()
    ways = list(links(wanted, match.out_of))
    for endpoint in endpoints(wanted):
        for name, link in ways:
            far = (match.source(endpoint.address), match.source_port("udp", endpoint.port))
            yield Rule(
                f"server {at(endpoint.address, endpoint.port)}{name}",
                (*link, *udp(endpoint.address.version), *far),
                ACCEPTED,
            )
    if wanted.open_tunnel:
        for name, link in ways:
            yield from related(name, link)
    for resolver in resolvers(wanted):
        for kind in ("udp", "tcp"):
            yield Rule(
                f"endpoint names {kind} {resolver.address} on {resolver.interface}",
                (
                    match.out_of(resolver.interface),
                    *over(resolver.address.version, kind),
                    match.source(resolver.address),
                    match.source_port(kind, 53),
                    match.connection("established"),
                ),
                ACCEPTED,
            )
    if wanted.portal is not None:
        yield Rule(
            str(wanted.portal),
            (
                match.out_of(wanted.portal.interface),
                match.running(TIMERS, TIMER_PORTAL),
                match.connection("established", "related"),
            ),
            ACCEPTED,
        )
    for inbound in wanted.inbound:
        way = (match.out_of(inbound.interface), match.protocol(PROTOCOLS[inbound.protocol]))
        port = match.destination_port(inbound.protocol, inbound.port)
        yield Rule(f"inbound {inbound}", (*way, port), ACCEPTED)
    for name in dict.fromkeys(inbound.interface for inbound in wanted.inbound):
        yield from related(f" on {name} (inbound)", (match.out_of(name),))
    yield from local_both(wanted)
    yield from excluded_in(wanted)
    yield Rule("everything else", (), DROPPED)


def _output(wanted: Desired) -> Iterable[Rule]:
    yield from unconfirmed(wanted)
    yield Rule("loopback", (match.into(LOOPBACK),), ACCEPTED)
    if wanted.open_tunnel:
        yield Rule("the tunnel", (match.into(wanted.tunnel),), ACCEPTED)
    yield from keep_alive_out(netdev=False)
    ways = list(links(wanted, match.into))
    for endpoint in endpoints(wanted):
        for name, link in ways:
            far = (
                match.destination(endpoint.address),
                match.destination_port("udp", endpoint.port),
            )
            yield Rule(
                f"server {at(endpoint.address, endpoint.port)}{name}",
                (*link, match.mark(wanted.mark), *udp(endpoint.address.version), *far),
                ACCEPTED,
            )
    for resolver in resolvers(wanted):
        for kind in ("udp", "tcp"):
            yield Rule(
                f"endpoint names {kind} {resolver.address} on {resolver.interface}",
                (
                    match.into(resolver.interface),
                    match.mark(wanted.mark),
                    *over(resolver.address.version, kind),
                    match.destination(resolver.address),
                    match.destination_port(kind, 53),
                ),
                ACCEPTED,
            )
    yield from portal_out(wanted, netdev=False)
    yield from dns_elsewhere(REJECTED)
    yield from local(wanted)
    yield from excluded_out(wanted, netdev=False)
    for inbound in wanted.inbound:
        yield answers(inbound, connection=True)
    yield Rule("everything else", (), REJECTED)


def _forward(wanted: Desired) -> Iterable[Rule]:
    yield from unconfirmed(wanted)
    if wanted.open_tunnel:
        yield Rule("into the tunnel", (match.into(wanted.tunnel),), ACCEPTED)
        yield Rule("out of the tunnel", (match.out_of(wanted.tunnel),), ACCEPTED)
    yield from dns_elsewhere(DROPPED)
    yield from local_both(wanted)
    yield from excluded_out(wanted, netdev=False)
    yield from excluded_in(wanted)
    yield Rule("everything else", (), DROPPED)
