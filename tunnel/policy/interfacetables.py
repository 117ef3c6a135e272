"""A routing table for each interface of a bound path, and the rules that lead to it. Pure.

The table holds what the main table has for that interface. Two kinds of rules lead to it: `oif IF`,
for sockets bound to the interface, and `from ADDR`, for the reverse-path check of the replies (a
strict rp_filter would otherwise look the peer up in the main table, find the preferred interface,
and drop them). Where the tunnel takes what is not marked, both ask for the mark as well, or another
program could step past the tunnel by binding itself to the interface or its address.

Where several routers on one link gave a prefix each, a packet must leave by the router whose prefix
its source address has (RFC 8028, section 3): each further router gets a table of its own, and the
`from` rules of its addresses lead there. Which router a packet without a source goes to decides
which source it gets: the first router with an address that is not deprecated, so that a network
that is being renumbered is left (RFC 8978, section 2), and that address is named in the route.

Connections from outside that the kill switch lets in are answered by the same way they came: from
the address and port they were made to, through the table of the interface.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network

from tunnel.policy.interface import Interface, InterfaceType
from tunnel.policy.numbers import PROTOCOL, SLOTS, TABLE_MAIN, TABLES_PER_SLOT, Band, Numbers
from tunnel.policy.path import Path
from tunnel.policy.rtnl import RTN_UNICAST, Dump, Link, Route, Rule
from tunnel.settings import Address, Inbound, InterfaceAddress, Portal

COPIED_ROUTES = 1024
"""Past so many routes an interface's table gets only what is on-link and the default routes."""
_PROTOCOLS = {"tcp": 6, "udp": 17}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tunnel's rules and tables go: its slot, and the preference of the first band."""

    slot: int
    base: int
    numbers: Numbers

    def preference(self, band: Band) -> int:
        """Return the tunnel's preference in a band (numbers.py)."""
        return self.base + band * SLOTS + self.slot


class _Shelf:
    """Hands out the tables of a slot; the first is the tunnel's own.

    An interface keeps the table that it has while others come and go: in handing tables over there
    are moments in which rp_filter drops what arrives.
    """

    def __init__(self, place: Place, dump: Dump, names: Collection[str]) -> None:
        ours = place.numbers.tables(place.slot)[1:TABLES_PER_SLOT]
        self._known = {
            rule.oif: rule.table
            for rule in dump.rules
            if rule.protocol == PROTOCOL and rule.oif in names and rule.table in ours
        }
        kept = set(self._known.values())
        self._free = iter([table for table in ours if table not in kept])

    def take(self, name: str | None = None) -> int | None:
        """Return an interface's table or, without a name, a free one; None where none is left."""
        return self._known[name] if name in self._known else next(self._free, None)


def interface_tables(
    path: Path,
    dump: Dump,
    place: Place,
    mark: int | None = None,
    inbound: Sequence[Inbound] = (),
    portal: Portal | None = None,
) -> tuple[list[Route], list[Rule]]:
    """Return the routes and rules of a path's interfaces; `mark` is asked for where it is given."""
    routes: list[Route] = []
    rules: list[Rule] = []
    shelf = _Shelf(place, dump, {i.name for i in path.interfaces})
    tables: dict[str, int] = {}
    # Every kernel with a version has its first rule; booted with ipv6.disable=1 it takes none.
    versions = sorted({rule.version for rule in dump.rules})
    for interface in sorted(path.interfaces, key=lambda i: i.index) if path.bound else ():
        table = shelf.take(interface.name)
        if table is None:
            break
        tables[interface.name] = table
        tunnel = interface.type is InterfaceType.TUNNEL
        copies = _copied(dump, interface.index, everywhere=tunnel)
        by_router = _by_router(interface, copies, dump)
        routes += _tabled(_first_router(copies, by_router), table)
        rules += [
            Rule(v, place.preference(Band.OIF), table, PROTOCOL, oif=interface.name, mark=mark)
            for v in versions
        ]
        further: dict[Address, int] = {}
        for router in [r for _, group in by_router.items() for r in list(group)[1:]]:
            if (taken := shelf.take()) is not None:
                further[router] = taken
                routes += _tabled(_only_router(copies, router), taken)
        for address in interface.addresses:
            if address.ip.is_link_local:
                continue
            giver = _router_of(address, by_router)
            lookup = table if giver is None else further.get(giver, table)
            source = ip_network(address.ip)
            preference = place.preference(Band.SOURCE)
            rules.append(
                Rule(source.version, preference, lookup, PROTOCOL, source=source, mark=mark)
            )
    past = {i.interface for i in (*inbound, *((portal,) if portal is not None else ()))}
    for link in [k for k in dump.links if k.name in past]:
        known = tables.get(link.name)
        table = known if known is not None else shelf.take()
        if table is not None:
            routes += [] if known is not None else _tabled(_copied(dump, link.index), table)
            rules += _answers(link, inbound, dump, place, table)
            if portal is not None and portal.interface == link.name:
                rules += _portal(portal, versions, place, table)
    return routes, rules


def _portal(portal: Portal, versions: Iterable[int], place: Place, table: int) -> list[Rule]:
    """Return the rules for those who may go past the tunnel, and for that link's names.

    The mark is that of a control group's sockets; the answers to a user's have it as well.
    """
    preference = place.preference(Band.EXCEPTION)
    rules = [Rule(v, preference, table, PROTOCOL, mark=portal.mark) for v in versions]
    if portal.user is not None:
        who = (portal.user, portal.user)
        rules += [Rule(v, preference, table, PROTOCOL, users=who) for v in versions]
    return rules + [
        Rule(a.version, preference, table, PROTOCOL, destination=ip_network(a))
        for a in portal.resolvers
    ]


def _answers(
    link: Link, inbound: Iterable[Inbound], dump: Dump, place: Place, table: int
) -> list[Rule]:
    """Return the rules for what answers connections from outside over this link.

    A UDP service that listens on every address has chosen no source yet when its answer is routed.
    """
    rules = [
        Rule(
            address.address.version,
            place.preference(Band.EXCEPTION),
            table,
            PROTOCOL,
            source=None if one.protocol == "udp" else ip_network(address.address.ip),
            ip_protocol=_PROTOCOLS[one.protocol],
            source_ports=(one.port, one.port),
        )
        for one in inbound
        if one.interface == link.name and one.protocol in _PROTOCOLS
        for address in dump.addresses
        if address.index == link.index and not address.tentative
    ]
    return list(dict.fromkeys(rules))


# ---- routers ----

_ByRouter = dict[int, dict[Address, list[InterfaceAddress]]]
"""By version, the routers in order of preference, with the addresses that they gave."""


def _by_router(interface: Interface, copies: Sequence[Route], dump: Dump) -> _ByRouter:
    """Return the versions for which several routers are there that gave addresses; or nothing."""
    deprecated = {a.address for a in dump.addresses if a.index == interface.index and a.deprecated}
    found: _ByRouter = {}
    for version in (4, 6):
        defaults = [r for r in copies if r.is_default and r.version == version]
        routers = dict.fromkeys(r.gateway for r in defaults if r.gateway is not None)
        given: dict[Address, list[InterfaceAddress]] = {router: [] for router in routers}
        for address in interface.addresses:
            giver = _giver(address, list(routers), interface)
            if giver is not None and not address.ip.is_link_local:
                given[giver].append(address)
        given = {router: addresses for router, addresses in given.items() if addresses}
        if len(routers) > 1 and given:
            # Stable: among equals the order of the metrics stands.
            order = sorted(given, key=lambda r: all(a in deprecated for a in given[r]))
            found[version] = {
                r: sorted(given[r], key=lambda a: (a in deprecated, a)) for r in order
            }
    return found


def _giver(
    address: InterfaceAddress, routers: Sequence[Address], interface: Interface
) -> Address | None:
    """Return the router that gave an address: the one that advertised its prefix, or is in it."""
    for router in routers:
        if any(known == router and address.ip in net for known, net in interface.prefixes):
            return router
    return next((r for r in routers if r in address.network and not r.is_link_local), None)


def _router_of(address: InterfaceAddress, by_router: _ByRouter) -> Address | None:
    group = by_router.get(address.version, {})
    return next((router for router, given in group.items() if address in given), None)


def _first_router(copies: Sequence[Route], by_router: _ByRouter) -> list[Route]:
    """Put the first router of each version before the others, with the address it gave."""
    result = list(copies)
    for version, group in by_router.items():
        router, given = next(iter(group.items()))
        defaults = [r for r in copies if r.is_default and r.version == version]
        best = min(r.metric for r in defaults)
        first = next(r for r in defaults if r.gateway == router)
        result = [r for r in result if r is not first]
        result.insert(0, replace(first, metric=best, source=given[0].ip))
    return result


def _only_router(copies: Sequence[Route], router: Address) -> list[Route]:
    """Return the routes with this router's default route alone."""
    return [
        r
        for r in copies
        if not (r.is_default and r.version == router.version) or r.gateway == router
    ]


# ---- copies ----


def _tabled(routes: Sequence[Route], table: int) -> list[Route]:
    """Return the routes as they stand in a table; of those with one key the first."""
    copies: dict[object, Route] = {}
    for route in routes:
        copy = replace(route, table=table, protocol=PROTOCOL)
        copies.setdefault(copy.key, copy)
    return list(copies.values())


def _copied(dump: Dump, index: int, *, everywhere: bool = False) -> list[Route]:
    """Return the main table's routes over one interface, best metric first.

    Of a tunnel (`everywhere`) also those that stand in tables of its own.
    """
    found = [
        route
        for route in dump.routes
        if route.index == index
        and (route.table == TABLE_MAIN or everywhere)
        and route.type == RTN_UNICAST
        and route.usable
    ]
    if len(found) > COPIED_ROUTES:
        found = [route for route in found if route.is_default or route.gateway is None]
    found = [route for route in found if _has_its_gateway(route, found)]
    return sorted(found, key=lambda route: (route.metric, str(route.gateway)))


def _has_its_gateway(route: Route, others: Sequence[Route]) -> bool:
    """Whether the kernel would take this route again.

    IPv6 keeps a route whose gateway's own prefix has gone since, and refuses a copy of it.
    """
    gateway = route.gateway
    if gateway is None or route.onlink or gateway.is_link_local:
        return True
    return any(other.gateway is None and gateway in other.destination for other in others)
