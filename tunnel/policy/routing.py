"""Which rules and routes the machine should have for a tunnel. Pure: values in, values out.

Two parts, both of which hold at once.

For each interface of a bound path, one table with what the main table has for that interface, and
two kinds of rules that lead to it: `oif IF`, for sockets bound to the interface, and `from ADDR`,
for the reverse-path check of the replies (a strict rp_filter would otherwise look the peer up in
the main table, find the preferred interface, and drop them).

For the tunnel, what wg-quick does: its included routes in the main table; but a default route goes
into a table of its own, which everything is sent to that does not carry the tunnel's mark, after
the main table's specific routes had their say (`suppress_prefixlength 0`). Excluded routes are
`throw` routes there, and are cut out of the included ones elsewhere, so that the most specific
prefix wins under any table.

`Desired` is compared with what the kernel has (`Dump`), and `Plan` is the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import cast

from tunnel.policy.interface import Interface
from tunnel.policy.numbers import (
    BANDS,
    METRIC_IPV6,
    OUTER_OVERHEAD,
    PROTOCOL,
    SLOTS,
    TABLE_MAIN,
    TABLES_PER_SLOT,
    TUN_MTU_MAX,
    TUN_MTU_MIN,
    Numbers,
)
from tunnel.policy.path import Path
from tunnel.policy.rtnl import RTN_THROW, RTN_UNICAST, SCOPE_LINK, Dump, Link, Route, Rule
from tunnel.settings import InterfaceAddress, Network, Table, TunnelSettings

COPIED_ROUTES = 1024
"""Past so many routes an interface's table gets only what is on-link and the default routes."""


@dataclass(frozen=True, slots=True)
class Desired:
    """What should be there. `link` is the tunnel's index, 0 without one; `mtu` 0 leaves it alone.

    `guarded` are the tunnel's addresses whose spoofed packets are dropped, where it takes all
    traffic; `mark` is the mark of the outer packets, 0 for none.
    """

    routes: frozenset[Route] = frozenset()
    rules: frozenset[Rule] = frozenset()
    addresses: frozenset[InterfaceAddress] = frozenset()
    link: int = 0
    mtu: int = 0
    mark: int = 0
    guarded: tuple[InterfaceAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to add and to remove, in the order in which it is safe to do: see apply.py."""

    add_addresses: tuple[InterfaceAddress, ...] = ()
    add_routes: tuple[Route, ...] = ()
    add_rules: tuple[Rule, ...] = ()
    remove_rules: tuple[Rule, ...] = ()
    remove_routes: tuple[Route, ...] = ()
    remove_addresses: tuple[InterfaceAddress, ...] = ()
    set_mtu: int = 0
    set_up: bool = False

    def __bool__(self) -> bool:
        return self != Plan()


def tunnel_mtu(settings: TunnelSettings, interfaces: Sequence[Interface]) -> int:
    """Return the tunnel's MTU: as configured, else the smallest of the path's less the overhead."""
    if settings.mtu is not None:
        return settings.mtu
    smallest = min((i.mtu for i in interfaces), default=TUN_MTU_MAX + OUTER_OVERHEAD)
    return max(TUN_MTU_MIN, min(TUN_MTU_MAX, smallest - OUTER_OVERHEAD))


def rule_base(rules: Iterable[Rule], numbers: Numbers) -> int:
    """Return the preference of our first band: the usual one, or lower where another VPN is first.

    A rule that catches everything before ours would decide the reverse-path check of our replies
    (wg-quick, started after us, adds such a pair just above). Then all our bands move before it.
    """
    room = BANDS * SLOTS
    lowest = min(
        (
            rule.preference
            for rule in rules
            if rule.protocol != PROTOCOL
            and rule.catches_all
            and 0 < rule.preference < numbers.rule_base + room
        ),
        default=numbers.rule_base + room,
    )
    rows = max(0, -((lowest - room - numbers.rule_base) // SLOTS))  # rounded away from the other
    return max(numbers.rule_base % SLOTS or SLOTS, numbers.rule_base - rows * SLOTS)


def desired(
    settings: TunnelSettings,
    interface: str | None,
    path: Path,
    dump: Dump,
    slot: int,
    numbers: Numbers | None = None,
) -> Desired:
    """Return the state for these settings over this path. `interface` None: no tunnel link yet."""
    numbers = numbers or Numbers()
    base = rule_base(dump.rules, numbers)
    routes, rules = _interface_tables(path, dump, slot, numbers, base)
    link = dump.link(interface) if interface is not None else None
    if link is None:
        return Desired(routes=frozenset(routes), rules=frozenset(rules), mark=settings.fwmark)
    mark = settings.fwmark
    full = _full_versions(settings)
    if full and not mark:
        mark = numbers.mark(slot)
    routes += _tunnel_routes(settings, link, full, numbers.tunnel_table(slot))
    for version in sorted(full):
        rules += [
            Rule(version, base + 2 * SLOTS + slot, TABLE_MAIN, PROTOCOL, suppress_prefixlen=0),
            Rule(
                version,
                base + 3 * SLOTS + slot,
                numbers.tunnel_table(slot),
                PROTOCOL,
                mark=mark,
                invert=True,
            ),
        ]
    return Desired(
        routes=frozenset(routes),
        rules=frozenset(rules),
        addresses=frozenset(settings.addresses),
        link=link.index,
        mtu=tunnel_mtu(settings, path.interfaces),
        mark=mark,
        guarded=tuple(a for a in settings.addresses if a.version in full),
    )


def _interface_tables(
    path: Path, dump: Dump, slot: int, numbers: Numbers, base: int
) -> tuple[list[Route], list[Rule]]:
    routes: list[Route] = []
    rules: list[Rule] = []
    if not path.bound:
        return routes, rules
    # Every kernel with a version has its first rule; booted with ipv6.disable=1 it takes none.
    versions = sorted({rule.version for rule in dump.rules})
    used = sorted(path.interfaces[: TABLES_PER_SLOT - 1], key=lambda i: i.index)
    for position, interface in enumerate(used, start=1):
        table = numbers.interface_table(slot, position)
        routes += _copied(dump, interface.index, table)
        rules += [Rule(v, base + slot, table, PROTOCOL, oif=interface.name) for v in versions]
        for address in interface.addresses:
            if not address.ip.is_link_local:
                source = ip_network(address.ip)
                rules.append(
                    Rule(source.version, base + SLOTS + slot, table, PROTOCOL, source=source)
                )
    return routes, rules


def _copied(dump: Dump, index: int, table: int) -> list[Route]:
    """Return the main table's routes over one interface, as they are to stand in its own table."""
    found = [
        route
        for route in dump.routes
        if route.table == TABLE_MAIN
        and route.index == index
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


def _full_versions(settings: TunnelSettings) -> frozenset[int]:
    """Return the IP versions whose default route the tunnel takes by mark (Table = auto)."""
    if settings.table is not Table.AUTO:
        return frozenset()
    return frozenset(n.version for n in settings.included_routes if n.prefixlen == 0)


def _tunnel_routes(
    settings: TunnelSettings, link: Link, full: frozenset[int], own_table: int
) -> list[Route]:
    if settings.table is Table.OFF:
        return []
    table = settings.table if isinstance(settings.table, int) else TABLE_MAIN
    routes = [_via(link, ip_network("0.0.0.0/0" if v == 4 else "::/0"), own_table) for v in full]
    routes += [
        Route(excluded, own_table, metric=_metric(excluded), type=RTN_THROW, protocol=PROTOCOL)
        for excluded in settings.excluded_routes
        if excluded.version in full
    ]
    included = [
        n for n in settings.included_routes if n.prefixlen or settings.table is not Table.AUTO
    ]
    on_link = {address.network for address in settings.addresses}
    for network in subtract(included, settings.excluded_routes):
        # The kernel makes the route to an address's own network, in the main table.
        if table != TABLE_MAIN or not any(_covers(own, network) for own in on_link):
            routes.append(_via(link, network, table))
    return routes


def _via(link: Link, network: Network, table: int) -> Route:
    scope = SCOPE_LINK if network.version == 4 else 0
    return Route(
        network, table, link.index, metric=_metric(network), scope=scope, protocol=PROTOCOL
    )


def _metric(network: Network) -> int:
    return 0 if network.version == 4 else METRIC_IPV6


def _covers(outer: Network, inner: Network) -> bool:
    if isinstance(outer, IPv4Network):
        return isinstance(inner, IPv4Network) and inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and inner.subnet_of(outer)


def subtract(included: Iterable[Network], excluded: Iterable[Network]) -> list[Network]:
    """Return networks that cover what is in `included` and not in `excluded`.

    An included network that is more specific than an excluded one stays: the longest prefix wins.
    """
    # The largest first: a piece that is left over from a small one would look more specific.
    holes = sorted(set(excluded), key=lambda network: network.prefixlen)
    left: list[Network] = []
    for network in dict.fromkeys(included):
        pieces: list[Network] = [network]
        for hole in (hole for hole in holes if _covers(network, hole)):
            pieces = [rest for piece in pieces for rest in _without(piece, hole)]
        left += pieces
    return left


def _without(network: Network, hole: Network) -> Iterable[Network]:
    if not _covers(network, hole):
        return (network,)
    if isinstance(network, IPv4Network):
        return network.address_exclude(cast(IPv4Network, hole))
    return network.address_exclude(cast(IPv6Network, hole))


def plan(
    wanted: Desired, dump: Dump, slot: int, numbers: Numbers, former: Desired | None = None
) -> Plan:
    """Return the difference between what is wanted and what the kernel has.

    Routes and rules of ours are known by protocol number and slot. Addresses carry no such mark:
    only those of `former`, which we set ourselves, are ever removed.
    """
    routes = {route for route in dump.routes if _is_our_route(route, slot, numbers, wanted.link)}
    rules = {rule for rule in dump.rules if is_our_rule(rule, slot, numbers)}
    link = next((link for link in dump.links if wanted.link and link.index == wanted.link), None)
    addresses = {a.address for a in dump.addresses if wanted.link and a.index == wanted.link}
    ours = former.addresses if former is not None and former.link == wanted.link else frozenset()
    # A wanted route replaces one with its key in place; only the rest needs to be removed.
    kept = {route.key for route in wanted.routes}
    return Plan(
        set_mtu=wanted.mtu if link is not None and wanted.mtu not in (0, link.mtu) else 0,
        set_up=link is not None and not link.up,
        add_addresses=tuple(sorted(wanted.addresses - addresses, key=str)),
        # A gateway must be reachable on-link when its route is made.
        add_routes=tuple(
            sorted(wanted.routes - routes, key=lambda r: (r.gateway is not None, _order(r)))
        ),
        add_rules=tuple(sorted(wanted.rules - rules, key=_rule_order)),
        remove_rules=tuple(sorted(rules - wanted.rules, key=_rule_order)),
        remove_routes=tuple(
            sorted((r for r in routes - wanted.routes if r.key not in kept), key=_order)
        ),
        remove_addresses=tuple(sorted((ours & addresses) - wanted.addresses, key=str)),
    )


def _order(route: Route) -> tuple[int, int, int, str]:
    return route.table, route.version, route.destination.prefixlen, repr(route)


def _rule_order(rule: Rule) -> tuple[int, int, str]:
    return rule.version, rule.preference, repr(rule)


def is_our_rule(rule: Rule, slot: int, numbers: Numbers) -> bool:
    """Whether a rule was made for this slot. Bases move by whole rows of SLOTS (see rule_base)."""
    return rule.protocol == PROTOCOL and (rule.preference - numbers.rule_base) % SLOTS == slot


def _is_our_route(route: Route, slot: int, numbers: Numbers, link: int) -> bool:
    return route.protocol == PROTOCOL and (
        route.table in numbers.tables(slot) or (link != 0 and route.index == link)
    )
