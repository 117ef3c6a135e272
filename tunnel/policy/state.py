"""NetworkState: the machine's interfaces and what routing there is, at one moment.

Built by a pure function from a complete rtnetlink dump and what sysfs, the resolvers' files and the
network managers say beside it. What tunneld itself has put into the kernel (recognised by its
protocol number) is left out, so that our own changes do not look like a change of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from tunnel.errors import ConfigError, Where
from tunnel.policy.classify import Facts, classify, read_facts
from tunnel.policy.dns import dns_servers, search_domains
from tunnel.policy.interface import Classification, Interface, InterfaceType
from tunnel.policy.numbers import PROTOCOL, TABLE_MAIN
from tunnel.policy.rtnl import RTN_UNICAST, Dump, Link, Route, Rule
from tunnel.settings import Address, InterfaceAddress, Network

if TYPE_CHECKING:
    from tunnel.config import InterfaceOverride


_HALF = 1
"""Two routes of this length make a default route that outdoes the machine's own (OpenVPN)."""


@dataclass(frozen=True, slots=True)
class Override:
    """What the user knows better of one interface; None leaves it to the evidence."""

    type: InterfaceType | None = None
    expensive: bool | None = None
    constrained: bool | None = None
    ultra_constrained: bool | None = None
    dns: tuple[Address, ...] = ()

    @classmethod
    def from_config(
        cls, name: str, config: InterfaceOverride, where: Where | None = None
    ) -> Override:
        """Check the words of [interfaces.NAME] or --classify. Raises ConfigError."""
        return cls(
            type=None if config.type is None else parse_type(config.type, name, where),
            expensive=config.expensive,
            constrained=config.constrained,
            ultra_constrained=config.ultra_constrained,
            dns=tuple(_dns_address(word, name, where) for word in config.dns),
        )


def parse_type(word: str, name: str, where: Where | None = None) -> InterfaceType:
    """Return the type that a word of the configuration means. Raises ConfigError."""
    try:
        return InterfaceType(word)
    except ValueError:
        types = ", ".join(type_.value for type_ in InterfaceType)
        raise ConfigError(
            f"{word!r} is no type of interface",
            where=where,
            key=f"interfaces.{name}.type",
            mend=f"the types are {types}",
        ) from None


def _dns_address(word: str, name: str, where: Where | None) -> Address:
    try:
        return ip_address(word)
    except ValueError:
        raise ConfigError(
            f"{word!r} is no address",
            where=where,
            key=f"interfaces.{name}.dns",
            mend="give each DNS server as an IPv4 or IPv6 address",
        ) from None


@dataclass(frozen=True, slots=True)
class NetworkState:
    """Interfaces by index, the main table's routes by interface index, and others' rules.

    `leading` are the tables of others (with the IP version) that lead everywhere.
    """

    interfaces: tuple[Interface, ...] = ()
    routes: Mapping[int, tuple[Route, ...]] = field(default_factory=dict)
    rules: frozenset[Rule] = frozenset()
    leading: frozenset[tuple[int, int]] = frozenset()

    def routes_of(self, interface: Interface) -> tuple[Route, ...]:
        """Return the main table's routes over an interface, in the kernel's order."""
        return self.routes.get(interface.index, ())


@dataclass(frozen=True, slots=True)
class Said:
    """What a network manager says of an interface; None and empty where it says nothing.

    `waiting` is why it is not connected though it could be, as in 'is registered with Op but not
    connected'.
    """

    classification: Classification | None = None
    metered: bool | None = None
    waiting: str = ""
    ssid: str | None = None
    operator: str | None = None
    roaming: bool | None = None

    def over(self, other: Said) -> Said:
        """Return what both say; where both say something, this one counts."""
        return Said(
            self.classification or other.classification,
            other.metered if self.metered is None else self.metered,
            self.waiting or other.waiting,
            self.ssid or other.ssid,
            self.operator or other.operator,
            other.roaming if self.roaming is None else self.roaming,
        )


FactsReader = Callable[[Link, InterfaceType | None], Facts]
ServersReader = Callable[[str, int, tuple[Address, ...]], tuple[Address, ...]]
SearchReader = Callable[[str, int], tuple[str, ...]]


def sysfs_facts(link: Link, override: InterfaceType | None) -> Facts:
    """Read an interface's facts on this machine."""
    return read_facts(link.name, link.arphrd, link.kind, override=override)


def machine_servers(name: str, index: int, override: tuple[Address, ...]) -> tuple[Address, ...]:
    """Read an interface's DNS servers on this machine."""
    return dns_servers(name, index, override=override)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where to ask for what rtnetlink does not know. `said` is by interface name, `prefixes` (those
    that each router advertised) by index.
    """

    facts: FactsReader = sysfs_facts
    servers: ServersReader = machine_servers
    search: SearchReader = search_domains
    said: Mapping[str, Said] = field(default_factory=dict)
    prefixes: Mapping[int, tuple[tuple[Address, Network], ...]] = field(default_factory=dict)


def leading(dump: Dump) -> frozenset[tuple[int, int]]:
    """Return the (table, version) pairs that have a route for everything, ours left out."""
    return frozenset(
        (route.table, route.version)
        for route in dump.routes
        if route.destination.prefixlen <= _HALF and route.protocol != PROTOCOL
    )


def build_state(
    dump: Dump, overrides: Mapping[str, Override], sources: Sources | None = None
) -> NetworkState:
    """Build the state from a dump and what the other sources say."""
    sources = sources or Sources()
    routes: dict[int, list[Route]] = {}
    for route in dump.routes:
        if route.table == TABLE_MAIN and route.index and route.protocol != PROTOCOL:
            routes.setdefault(route.index, []).append(route)
    everywhere: dict[int, list[Route]] = {}
    for route in dump.routes:
        if route.index:
            everywhere.setdefault(route.index, []).append(route)
    addresses: dict[int, list[InterfaceAddress]] = {}
    for known in dump.addresses:
        if not known.tentative:
            addresses.setdefault(known.index, []).append(known.address)
    routers = {(n.index, n.address): n.mac for n in dump.neighbours}
    found = []
    for link in sorted(dump.links, key=lambda link: link.index):
        override = overrides.get(link.name, Override())
        said = sources.said.get(link.name, Said())
        facts = replace(sources.facts(link, override.type), manager=said.classification)
        kind = classify(facts)
        # A tunnel's default route may be in a table of its own, and leads where a rule says; what
        # has no gateway needs none, so any route over it makes it a way for somebody's packets.
        tunnel = kind.type is InterfaceType.TUNNEL
        over = everywhere.get(link.index, ()) if tunnel else routes.get(link.index, ())
        found.append(
            _interface(
                link, kind, addresses.get(link.index, []), over, routers, override, said, sources
            )
        )
    return NetworkState(
        interfaces=tuple(found),
        routes={index: tuple(some) for index, some in routes.items()},
        rules=frozenset(rule for rule in dump.rules if rule.protocol != PROTOCOL),
        leading=frozenset(
            (table, version) for table, version in leading(dump) if table != TABLE_MAIN
        ),
    )


def _interface(
    link: Link,
    kind: Classification,
    addresses: Sequence[InterfaceAddress],
    routes: Sequence[Route],
    routers: Mapping[tuple[int, Address], str],
    override: Override,
    said: Said,
    sources: Sources,
) -> Interface:
    # "Routed" means what RTM_F_FIB_MATCH would say with this interface as oif: a default route
    # that is there and alive. Without one IPv4 would ask ARP for the whole world (linux.md).
    tunnel = kind.type is InterfaceType.TUNNEL
    ways = [r for r in routes if r.usable and (r.is_default or (tunnel and r.type == RTN_UNICAST))]
    ways.sort(key=lambda route: (route.version, route.metric, str(route.gateway)))
    present = {address.version for address in addresses if not address.ip.is_link_local}
    gateways = tuple(dict.fromkeys(r.gateway for r in ways if r.gateway is not None))
    # Files are asked only where an answer is of use: a machine may have 1,000 bridge ports.
    ask = bool(ways or override.dns)
    metered = said.metered or said.roaming
    return Interface(
        index=link.index,
        name=link.name,
        classification=kind,
        up=link.up,
        carrier=link.carrier,
        mtu=link.mtu,
        addresses=tuple(sorted(addresses, key=lambda address: (address.version, address))),
        gateways=gateways,
        dns=sources.servers(link.name, link.index, override.dns) if ask else (),
        metric=ways[0].metric if ways else 0,
        routed=frozenset(route.version for route in ways if route.version in present),
        expensive=bool(metered if override.expensive is None else override.expensive),
        constrained=bool(override.constrained),
        ultra_constrained=bool(override.ultra_constrained),
        routers=tuple(routers.get((link.index, gateway), "") for gateway in gateways),
        search=sources.search(link.name, link.index) if ways else (),
        ssid=said.ssid,
        operator=said.operator,
        roaming=said.roaming,
        waiting=said.waiting,
        prefixes=sources.prefixes.get(link.index, ()),
    )
