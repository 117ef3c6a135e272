"""Which rules and routes the machine should have for a tunnel. Pure: values in, values out.

Two parts, both of which hold at once: for each interface of a bound path a table of its own
(interfacetables.py), and for the tunnel what leads traffic into it (tunnelroutes.py).

`Desired` is compared with what the kernel has (difference.py) and carried out (apply.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunnel.policy.interface import Interface, InterfaceType
from tunnel.policy.interfacetables import Place, interface_tables
from tunnel.policy.networks import covers, subtract
from tunnel.policy.numbers import (
    BANDS,
    OUTER_OVERHEAD,
    PROTOCOL,
    SLOTS,
    TUN_MTU_MAX,
    TUN_MTU_MIN,
    Numbers,
)
from tunnel.policy.path import Path
from tunnel.policy.rtnl import FR_ACT_TO_TABLE, Dump, Route, Rule
from tunnel.policy.state import leading
from tunnel.policy.tunnelroutes import grasp, thrown, tunnel_routes, tunnel_rules
from tunnel.settings import InterfaceAddress, Network, RoutingPolicy, TunnelSettings


@dataclass(frozen=True, slots=True)
class Desired:
    """What should be there. `link` is the tunnel's index, 0 without one; `mtu` 0 leaves it alone.

    `guarded` are the tunnel's addresses whose spoofed packets are dropped, where it takes all
    traffic; `mark` is the mark of the outer packets, 0 for none. What would leave for
    an `enforced` network by another link, unmarked, is rejected.
    """

    routes: frozenset[Route] = frozenset()
    rules: frozenset[Rule] = frozenset()
    addresses: frozenset[InterfaceAddress] = frozenset()
    link: int = 0
    mtu: int = 0
    mark: int = 0
    guarded: tuple[InterfaceAddress, ...] = ()
    enforced: tuple[Network, ...] = ()


def tunnel_mtu(settings: TunnelSettings, interfaces: Sequence[Interface]) -> int:
    """Return the tunnel's MTU: as configured, else the smallest of the path's less the overhead."""
    if settings.mtu is not None:
        return settings.mtu
    smallest = min((i.mtu for i in interfaces), default=TUN_MTU_MAX + OUTER_OVERHEAD)
    return max(TUN_MTU_MIN, min(TUN_MTU_MAX, smallest - OUTER_OVERHEAD))


def past_the_tunnel(settings: TunnelSettings, policy: RoutingPolicy) -> tuple[Network, ...]:
    """Return the networks that the routes exclude, less what is included again inside them."""
    asked = policy.applied_to(settings)
    holes = asked.excluded_routes
    inside = [
        network
        for network in asked.included_routes
        if any(network != hole and covers(hole, network) for hole in holes)
    ]
    return tuple(subtract(holes, inside))


def rule_base(dump: Dump, numbers: Numbers) -> int:
    """Return the preference of our first band: the usual one, or lower where another VPN is first.

    A rule before ours that leads every packet somewhere would decide the reverse-path check of our
    replies (wg-quick, started after us, adds such a pair just above). Then all our bands move
    before it. One whose table knows a few networks only (a mesh VPN's) is left where it is, or its
    networks would be lost to the tunnel.
    """
    room = BANDS * SLOTS
    everywhere = leading(dump)
    lowest = min(
        (
            rule.preference
            for rule in dump.rules
            if 0 < rule.preference < numbers.rule_base + room
            and rule.protocol != PROTOCOL
            and rule.catches_all
            and rule.suppress_prefixlen is None
            and (rule.action != FR_ACT_TO_TABLE or (rule.table, rule.version) in everywhere)
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
    policy: RoutingPolicy | None = None,
) -> Desired:
    """Return the state for these settings over this path, under this routing policy.

    `interface` None: there is no tunnel link yet; then a tunnel that includes all networks closes
    the way past it, and any other makes only the path's tables.
    """
    numbers = numbers or Numbers()
    policy = policy or RoutingPolicy()
    settings = policy.applied_to(settings)
    place = Place(slot, rule_base(dump, numbers), numbers)
    link = dump.link(interface) if interface is not None else None
    if link is None and not policy.include_all_networks:
        routes, rules = interface_tables(path, dump, place)
        return Desired(frozenset(routes), frozenset(rules), mark=settings.fwmark)
    versions = {rule.version for rule in dump.rules}
    taken = grasp(settings, policy, versions)
    mark = settings.fwmark
    if taken.needs_mark and not mark:
        mark = numbers.mark(slot)
    own_table = numbers.tunnel_table(slot)
    inbound = policy.allow_inbound if policy.include_all_networks else ()
    asked = mark if taken.enforced else None
    routes, rules = interface_tables(path, dump, place, asked, inbound, policy.portal)
    routes += tunnel_routes(settings, policy, taken, link, dump, own_table)
    under = path.interface
    inner = path.bound and under is not None and under.type is InterfaceType.TUNNEL
    rules += tunnel_rules(taken, place, own_table, mark, inner=inner)
    found = Desired(routes=frozenset(routes), rules=frozenset(rules), mark=mark)
    if link is None:
        return found
    guarded = taken.full | {network.version for network in taken.enforced}
    enforced = taken.enforced if policy.enforce_routes else ()
    return replace(
        found,
        addresses=frozenset(settings.addresses),
        link=link.index,
        mtu=tunnel_mtu(settings, path.interfaces),
        guarded=tuple(a for a in settings.addresses if a.version in guarded),
        enforced=tuple(subtract(enforced, thrown(settings, policy, link, dump))),
    )
