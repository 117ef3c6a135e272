"""The routes and rules that lead traffic into a tunnel, or keep it from going elsewhere. Pure.

Three ways, by the routing policy.

*Plain*, as wg-quick does it: included routes in the main table; but a default route goes into the
tunnel's own table, which everything is sent to that does not carry the tunnel's mark, after the
main table's specific routes had their say (`suppress_prefixlength 0`). What is excluded is cut out
of the included routes there, and a `throw` route in the tunnel's table.

*Enforced*: all included routes stand in the tunnel's table, and everything without the mark is sent
there before the main table is asked, so that no route of the main table is more specific. An
excluded route is a `throw` in the same table: the lookup goes on with the main table, and the
longest prefix decides between the two, as one table always does. (Asking two tables one after the
other could not: there a wide excluded route would hide an included one inside it, or the other way
round.) Under each included route stands its twin, `unreachable` with the worst metric: the link may
vanish, and its routes with it, but what was to go through the tunnel goes nowhere else.

*Include all networks*: the same, with everything included in both versions of IP, whatever the
provider asks for. A version in which the tunnel has no address is unreachable at once, so that
programs try the other. The table and its rule stand without the link too: before it is there, and
after it is gone. As long as nobody has confirmed it (`confirm`) there are no such twins: the
firewall alone keeps it closed then, which the kernel opens in time, and with the link all the
routes of a tunnel that crashed are gone.

What the network needs to stay alive goes past the last two by rules of their own: DHCP clients
renew their leases with unicast packets. Neighbour and router discovery never asks these tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tunnel.policy.interfacetables import Place
from tunnel.policy.networks import EVERYTHING, MULTICAST, PRIVATE, covers, is_private, subtract
from tunnel.policy.numbers import LAST_METRIC, METRIC_IPV6, PROTOCOL, TABLE_MAIN, Band
from tunnel.policy.rtnl import (
    RTN_THROW,
    RTN_UNICAST,
    RTN_UNREACHABLE,
    SCOPE_LINK,
    SCOPE_UNIVERSE,
    Dump,
    Link,
    Route,
    Rule,
)
from tunnel.settings import Network, RoutingPolicy, Table, TunnelSettings

_UDP = 17
_DHCP = {4: (68, 67), 6: (546, 547)}
"""A client's port and a server's: RFC 2131, section 4.1; RFC 9915, section 7.2."""


@dataclass(frozen=True, slots=True)
class Grasp:
    """What a tunnel takes: `full`, the versions whose traffic needs the mark to go past it;
    `enforced`, the networks that no other route and no socket's own choice may lead elsewhere.
    """

    full: frozenset[int] = frozenset()
    enforced: tuple[Network, ...] = ()

    @property
    def needs_mark(self) -> bool:
        """Whether the outer packets must carry a mark."""
        return bool(self.full or self.enforced)


def grasp(settings: TunnelSettings, policy: RoutingPolicy, versions: Iterable[int]) -> Grasp:
    """Return what a tunnel with these settings takes on a machine with these IP versions."""
    if policy.include_all_networks:
        every = frozenset(versions)
        return Grasp(every, tuple(EVERYTHING[version] for version in sorted(every)))
    if settings.table is not Table.AUTO:
        return Grasp()
    full = frozenset(n.version for n in settings.included_routes if n.prefixlen == 0)
    return Grasp(full, settings.included_routes if policy.enforce_routes else ())


def tunnel_routes(
    settings: TunnelSettings,
    policy: RoutingPolicy,
    taken: Grasp,
    link: Link | None,
    dump: Dump,
    table: int,
) -> list[Route]:
    """Return the routes of a tunnel; `table` is its own table, `link` None while it has none."""
    if taken.enforced:
        return _enforced(settings, policy, taken, link, dump, table)
    return [] if link is None else _plain(settings, taken, link, table)


def tunnel_rules(
    taken: Grasp, place: Place, table: int, mark: int, *, inner: bool = False
) -> list[Rule]:
    """Return the rules that lead to the tunnel's own table; `inner`: it runs over another one."""
    rules: list[Rule] = []
    if taken.enforced:
        band = Band.ENFORCED_INNER if inner else Band.ENFORCED
    else:
        band = Band.INNER if inner else Band.PLAIN
    for version in sorted(taken.full | {network.version for network in taken.enforced}):
        if taken.enforced:
            client, server = _DHCP[version]
            exception = Rule(
                version,
                place.preference(Band.EXCEPTION),
                TABLE_MAIN,
                PROTOCOL,
                ip_protocol=_UDP,
                source_ports=(client, client),
                ports=(server, server),
            )
        else:
            exception = Rule(
                version, place.preference(Band.MAIN), TABLE_MAIN, PROTOCOL, suppress_prefixlen=0
            )
        rules += [
            exception,
            Rule(version, place.preference(band), table, PROTOCOL, mark=mark, invert=True),
        ]
    return rules


def thrown(
    settings: TunnelSettings, policy: RoutingPolicy, link: Link | None, dump: Dump
) -> list[Network]:
    """Return the networks that go past the tunnel by the machine's own routes."""
    found = dict.fromkeys(settings.excluded_routes)
    if policy.exclude_local_networks:
        found |= dict.fromkeys(local_networks(dump, settings, link))
    return list(found)


def local_networks(dump: Dump, settings: TunnelSettings, link: Link | None) -> list[Network]:
    """Return the private networks that are on-link on another interface, and multicast.

    One that is also a network of the tunnel's own belongs to the tunnel.
    """
    own = {address.network for address in settings.addresses}
    found = {
        route.destination
        for route in dump.routes
        if route.table == TABLE_MAIN
        and route.type == RTN_UNICAST
        and route.gateway is None
        and route.protocol != PROTOCOL
        and (link is None or route.index != link.index)
        and route.destination not in own
        and is_private(route.destination)
    }
    link_local = [n for n in PRIVATE if n.is_link_local]
    return sorted({*found, *link_local, *MULTICAST}, key=lambda n: (n.version, n))


def _enforced(
    settings: TunnelSettings,
    policy: RoutingPolicy,
    taken: Grasp,
    link: Link | None,
    dump: Dump,
    table: int,
) -> list[Route]:
    holes = thrown(settings, policy, link, dump)
    included = dict.fromkeys(taken.enforced)
    # More specific than an excluded route, and therefore stronger.
    included |= dict.fromkeys(
        network
        for network in settings.included_routes
        if any(network != hole and covers(hole, network) for hole in holes)
    )
    if policy.exclude_local_networks:
        included |= dict.fromkeys(address.network for address in settings.addresses)
    versions = {network.version for network in taken.enforced}
    present = {address.version for address in settings.addresses}
    routes: list[Route] = []
    for network in (n for n in included if n not in holes and n.version in versions):
        if link is not None and network.version in present:
            routes.append(_via(link, network, table))
        if policy.confirm is None:
            routes.append(
                Route(network, table, metric=LAST_METRIC, type=RTN_UNREACHABLE, protocol=PROTOCOL)
            )
    return routes + [_throw(network, table) for network in holes if network.version in versions]


def _plain(settings: TunnelSettings, taken: Grasp, link: Link, own_table: int) -> list[Route]:
    if settings.table is Table.OFF:
        return []
    table = settings.table if isinstance(settings.table, int) else TABLE_MAIN
    routes = [_via(link, EVERYTHING[version], own_table) for version in taken.full]
    routes += [
        _throw(excluded, own_table)
        for excluded in settings.excluded_routes
        if excluded.version in taken.full
    ]
    included = [
        n for n in settings.included_routes if n.prefixlen or settings.table is not Table.AUTO
    ]
    on_link = {address.network for address in settings.addresses}
    for network in subtract(included, settings.excluded_routes):
        # The kernel makes the route to an address's own network, in the main table.
        if table != TABLE_MAIN or not any(covers(own, network) for own in on_link):
            routes.append(_via(link, network, table))
    return routes


def _via(link: Link, network: Network, table: int) -> Route:
    scope = SCOPE_LINK if network.version == 4 else SCOPE_UNIVERSE
    return Route(
        network, table, link.index, metric=_metric(network), scope=scope, protocol=PROTOCOL
    )


def _throw(network: Network, table: int) -> Route:
    return Route(network, table, metric=_metric(network), type=RTN_THROW, protocol=PROTOCOL)


def _metric(network: Network) -> int:
    return 0 if network.version == 4 else METRIC_IPV6
