"""A routing table for each interface of a bound path, and the rules that lead to it. Pure.

The table holds what the main table has for that interface. Two kinds of rules lead to it: `oif IF`,
for sockets bound to the interface, and `from ADDR`, for the reverse-path check of the replies (a
strict rp_filter would otherwise look the peer up in the main table, find the preferred interface,
and drop them). Where the tunnel takes what is not marked, both ask for the mark as well, or another
program could step past the tunnel by binding itself to the interface or its address.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network

from tunnel.policy.numbers import PROTOCOL, SLOTS, TABLE_MAIN, TABLES_PER_SLOT, Band, Numbers
from tunnel.policy.path import Path
from tunnel.policy.rtnl import RTN_UNICAST, Dump, Route, Rule

COPIED_ROUTES = 1024
"""Past so many routes an interface's table gets only what is on-link and the default routes."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tunnel's rules and tables go: its slot, and the preference of the first band."""

    slot: int
    base: int
    numbers: Numbers

    def preference(self, band: Band) -> int:
        """Return the tunnel's preference in a band (numbers.py)."""
        return self.base + band * SLOTS + self.slot


def interface_tables(
    path: Path, dump: Dump, place: Place, mark: int | None = None
) -> tuple[list[Route], list[Rule]]:
    """Return the routes and rules of a path's interfaces; `mark` is asked for where it is given."""
    routes: list[Route] = []
    rules: list[Rule] = []
    if not path.bound:
        return routes, rules
    # Every kernel with a version has its first rule; booted with ipv6.disable=1 it takes none.
    versions = sorted({rule.version for rule in dump.rules})
    used = sorted(path.interfaces[: TABLES_PER_SLOT - 1], key=lambda i: i.index)
    for position, interface in enumerate(used, start=1):
        table = place.numbers.interface_table(place.slot, position)
        routes += _copied(dump, interface.index, table)
        rules += [
            Rule(v, place.preference(Band.OIF), table, PROTOCOL, oif=interface.name, mark=mark)
            for v in versions
        ]
        for address in interface.addresses:
            if not address.ip.is_link_local:
                source = ip_network(address.ip)
                rules.append(
                    Rule(
                        source.version,
                        place.preference(Band.SOURCE),
                        table,
                        PROTOCOL,
                        source=source,
                        mark=mark,
                    )
                )
    return routes, rules


def _copied(dump: Dump, index: int, table: int) -> list[Route]:
    """Return the main table's routes over one interface, as they are to stand in its own table."""
    found = [
        route
        for route in dump.routes
        if route.index == index
        and route.table == TABLE_MAIN
        and route.type == RTN_UNICAST
        and route.usable
    ]
    if len(found) > COPIED_ROUTES:
        found = [route for route in found if route.is_default or route.gateway is None]
    found = [route for route in found if _has_its_gateway(route, found)]
    copies: dict[object, Route] = {}
    # Of several next hops for one prefix the first stands: RFC 8028's choice by source comes later.
    for route in sorted(found, key=lambda route: (route.metric, str(route.gateway))):
        copy = replace(route, table=table, protocol=PROTOCOL)
        copies.setdefault(copy.key, copy)
    return list(copies.values())


def _has_its_gateway(route: Route, others: Sequence[Route]) -> bool:
    """Whether the kernel would take this route again.

    IPv6 keeps a route whose gateway's own prefix has gone since, and refuses a copy of it.
    """
    gateway = route.gateway
    if gateway is None or route.onlink or gateway.is_link_local:
        return True
    return any(other.gateway is None and gateway in other.destination for other in others)
