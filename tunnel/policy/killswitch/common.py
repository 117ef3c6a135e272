"""What several chains of the kill switch have in common: rules for one purpose each. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from typing import Final, Protocol

from tunnel.policy.killswitch import match
from tunnel.policy.killswitch.match import ACCEPTED, Match, Verdict
from tunnel.policy.killswitch.ruleset import TIMERS, Chain, Rule
from tunnel.policy.killswitch.state import Desired, Endpoint, Resolver
from tunnel.settings import Address, Inbound

TIMER_CONFIRM, TIMER_PORTAL = 1, 2
LOOPBACK: Final = "lo"
UNCONFIRMED: Final = "not confirmed in time"

#: RFC 1918, RFC 3927, RFC 4193, RFC 4291: what no public network may claim, and multicast.
LOCAL: Final = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "224.0.0.0/4",
        "255.255.255.255/32", "fc00::/7", "fe80::/10", "ff00::/8",
    )
)  # fmt: skip
#: Where DHCP servers are: everywhere at first, at renewal behind a relay (RFC 6598 among them).
_DHCP: Final = tuple(
    ip_network(text)
    for text in (
        "255.255.255.255/32", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",
        "169.254.0.0/16", "100.64.0.0/10",
    )
)  # fmt: skip
_DHCPV6: Final = tuple(ip_network(text) for text in ("ff02::1:2/128", "fe80::/10"))
_LINK_LOCAL: Final = ip_network("fe80::/10")
#: RFC 4861 (the hop limit says that no router has passed it on), RFC 2710, RFC 3810.
_DISCOVERY_OUT: Final = {133: "router solicitation", 135: "neighbour solicitation",
                         136: "neighbour advertisement"}  # fmt: skip
_DISCOVERY_IN: Final = {134: "router advertisement", 135: "neighbour solicitation",
                        136: "neighbour advertisement"}  # fmt: skip
_LISTENER_OUT: Final = {131: "listener report", 132: "listener done", 143: "listener report v2"}
_DNS_PORTS: Final = (("udp", 53), ("tcp", 53), ("udp", 853), ("tcp", 853))
PROTOCOLS: Final = {"tcp": match.TCP, "udp": match.UDP}


class Side(Protocol):
    """match.into or match.out_of."""

    def __call__(self, name: str, *, other: bool) -> Match:
        """Match an interface's name, or every other."""


def unconfirmed(wanted: Desired) -> Iterable[Rule]:
    """The dead man's switch, in the kernel's hands: it opens even if tunneld is killed."""
    if wanted.confirm is not None:
        ended = match.running(TIMERS, TIMER_CONFIRM, ended=True)
        yield Rule(UNCONFIRMED, (ended,), ACCEPTED)


def keep_alive_out(*, netdev: bool) -> Iterable[Rule]:
    """Yield what a machine sends to have addresses and neighbours at all."""
    four, six = match.version(4, netdev=netdev), match.version(6, netdev=netdev)
    udp, icmp = match.protocol(match.UDP), match.protocol(match.ICMPV6)
    ports = (match.source_port("udp", 68), match.destination_port("udp", 67))
    for network in _DHCP:
        yield Rule(f"DHCP {network}", (four, match.destination(network), udp, *ports), ACCEPTED)
    ports = (match.source_port("udp", 546), match.destination_port("udp", 547))
    for network in _DHCPV6:
        yield Rule(f"DHCPv6 {network}", (six, match.destination(network), udp, *ports), ACCEPTED)
    for number, name in _DISCOVERY_OUT.items():
        this = (six, match.hop_limit(255), icmp, match.icmpv6_type(number))
        yield Rule(name, this, ACCEPTED)
    for number, name in _LISTENER_OUT.items():
        this = (six, match.destination(ip_network("ff02::/16")), icmp, match.icmpv6_type(number))
        yield Rule(name, this, ACCEPTED)


def keep_alive_in() -> Iterable[Rule]:
    """Yield what it is answered."""
    four, six = match.version(4), match.version(6)
    udp, icmp = match.protocol(match.UDP), match.protocol(match.ICMPV6)
    ports = (match.source_port("udp", 67), match.destination_port("udp", 68))
    yield Rule("DHCP", (four, udp, *ports), ACCEPTED)
    ports = (match.source_port("udp", 547), match.destination_port("udp", 546))
    yield Rule("DHCPv6", (six, match.source(_LINK_LOCAL), udp, *ports), ACCEPTED)
    for number, name in _DISCOVERY_IN.items():
        this = (six, match.hop_limit(255), icmp, match.icmpv6_type(number))
        yield Rule(name, this, ACCEPTED)
    query = (six, match.source(_LINK_LOCAL), icmp, match.icmpv6_type(130))
    yield Rule("listener query", query, ACCEPTED)


def related(name: str, link: Iterable[Match]) -> Iterable[Rule]:
    """Errors about a flow that we have (too big, unreachable), which are its path's to tell."""
    for number, word in ((match.ICMP, "ICMP"), (match.ICMPV6, "ICMPv6")):
        this = (*link, match.protocol(number), match.connection("related"))
        yield Rule(f"{word} errors about our packets{name}", this, ACCEPTED)


def portal_out(wanted: Desired, *, netdev: bool) -> Iterable[Rule]:
    """Yield what a captive portal's opening lets through.

    At a device's egress nobody can ask for a socket's control group. There it is the mark that
    tells, which its sockets get when they are made (cgroup.py).
    """
    portal = wanted.portal
    if portal is None:
        return
    here = (match.into(portal.interface), match.running(TIMERS, TIMER_PORTAL))
    if portal.user is not None:
        yield Rule(str(portal), (*here, match.user(portal.user)), ACCEPTED)
    elif portal.cgroup is not None:
        group = portal.cgroup
        who = [match.mark(portal.mark)]
        if not netdev:
            who.append(match.control_group(group.level, group.number, group.path))
        yield Rule(str(portal), (*here, *who), ACCEPTED)
    yield from portal_names(wanted, netdev=netdev)


def portal_names(wanted: Desired, *, netdev: bool) -> Iterable[Rule]:
    """A portal's page has a name, which the machine's resolver asks for, not the user's program."""
    portal = wanted.portal
    if portal is None:
        return
    for address in portal.resolvers:
        way = (
            match.into(portal.interface),
            match.running(TIMERS, TIMER_PORTAL),
            match.version(address.version, netdev=netdev),
            match.destination(address),
        )
        for kind in ("udp", "tcp"):
            port = (match.protocol(PROTOCOLS[kind]), match.destination_port(kind, 53))
            yield Rule(f"captive portal's names {kind} {address}", (*way, *port), ACCEPTED)


def dns_elsewhere(verdict: Verdict) -> Iterable[Rule]:
    """Yield the end of every lookup past the tunnel, plain or encrypted (RFC 7858)."""
    for kind, port in _DNS_PORTS:
        this = (match.protocol(PROTOCOLS[kind]), match.destination_port(kind, port))
        yield Rule(f"DNS past the tunnel ({kind}/{port})", this, verdict)


def local(wanted: Desired) -> Iterable[Rule]:
    """Yield what leads to the local networks."""
    if wanted.local_networks:
        yield Rule("to local networks", (), match.jump("local"))


def local_both(wanted: Desired) -> Iterable[Rule]:
    """Between two local addresses, whichever of them began."""
    if not wanted.local_networks:
        return
    for near in LOCAL:
        if not near.is_multicast and near.prefixlen < near.max_prefixlen:  # nobody sends from there
            here = (match.version(near.version), match.source(near))
            yield Rule(f"from local network {near}", here, match.jump("local"))


def excluded_out(wanted: Desired, *, netdev: bool) -> Iterable[Rule]:
    """Yield what leads to the networks that the tunnel's routes exclude."""
    for network in wanted.excluded:
        to = (match.version(network.version, netdev=netdev), match.destination(network))
        yield Rule(f"excluded route {network}", to, ACCEPTED)


def excluded_in(wanted: Desired) -> Iterable[Rule]:
    """What comes back from there; what begins there stays outside."""
    for network in wanted.excluded:
        back = (match.version(network.version), match.source(network))
        states = match.connection("established", "related")
        yield Rule(f"answers from excluded route {network}", (*back, states), ACCEPTED)


def local_chain(wanted: Desired, *, netdev: bool) -> Iterable[Chain]:
    """Yield the chain of the local networks' addresses."""
    if wanted.local_networks:
        yield Chain(
            "local",
            tuple(
                Rule(
                    f"local network {network}",
                    (match.version(network.version, netdev=netdev), match.destination(network)),
                    ACCEPTED,
                )
                for network in LOCAL
            ),
        )


def answers(inbound: Inbound, *, connection: bool) -> Rule:
    """What a service answers. A program that begins from its port is not answering.

    For TCP the first segment tells. For UDP it takes connection tracking, which a device's egress
    does not have.
    """
    way = (match.into(inbound.interface), match.protocol(PROTOCOLS[inbound.protocol]))
    port = match.source_port(inbound.protocol, inbound.port)
    begun: tuple[Match, ...] = (match.no_first_segment(),)
    if inbound.protocol == "udp":
        begun = (match.connection("established"),) if connection else ()
    return Rule(f"answers of {inbound}", (*way, port, *begun), ACCEPTED)


def links(wanted: Desired, side: Side) -> Iterable[tuple[str, tuple[Match, ...]]]:
    """Yield each permitted interface: how to say it, how to match it."""
    if wanted.interfaces is not None:
        yield from ((f" on {name}", (side(name, other=False),)) for name in wanted.interfaces)
    else:
        yield "", (side(wanted.tunnel, other=True),)


def endpoints(wanted: Desired) -> Sequence[Endpoint]:
    """Return the far ends that may be reached; without a mark nothing could be told apart."""
    return wanted.endpoints if wanted.open_tunnel and wanted.mark else ()


def resolvers(wanted: Desired) -> Sequence[Resolver]:
    """Return the resolvers that may be asked for the far ends' names."""
    return wanted.resolvers if wanted.open_tunnel and wanted.mark else ()


def udp(number: int) -> tuple[Match, Match]:
    """Match UDP over one version of IP."""
    return match.version(number), match.protocol(match.UDP)


def over(number: int, kind: str) -> tuple[Match, Match]:
    """Match tcp or udp over one version of IP."""
    return match.version(number), match.protocol(PROTOCOLS[kind])


def at(address: Address, port: int) -> str:
    """Return an address and a port as people write them."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
