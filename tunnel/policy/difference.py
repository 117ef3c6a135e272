"""The difference between the routing that is wanted and what the kernel has. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tunnel.policy.numbers import PROTOCOL, SLOTS, Numbers
from tunnel.policy.routing import Desired
from tunnel.policy.rtnl import Dump, Route, Rule
from tunnel.settings import InterfaceAddress


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


def damage(in_force: Desired, dump: Dump, wanted: Desired | None = None) -> Plan:
    """Return what was in force, has gone, and would still be `wanted` (None: all of it).

    Routes over a link that is down went with it, which is the kernel's doing and nobody's fault.
    """
    up = {0, *(link.index for link in dump.links if link.up)}
    routes = {replace(r, usable=True) for r in dump.routes if r.protocol == PROTOCOL}
    rules = {rule for rule in dump.rules if rule.protocol == PROTOCOL}
    lost_routes = {r for r in in_force.routes if r.index in up and r not in routes}
    lost_rules = in_force.rules - rules
    if wanted is not None:
        lost_routes &= wanted.routes
        lost_rules &= wanted.rules
    return Plan(
        add_routes=tuple(sorted(lost_routes, key=lambda r: (r.gateway is not None, _order(r)))),
        add_rules=tuple(sorted(lost_rules, key=_rule_order)),
    )


def without(dump: Dump, slot: int, numbers: Numbers) -> Dump:
    """Return a reading without what this slot made."""
    return replace(
        dump,
        routes=tuple(r for r in dump.routes if not _is_our_route(r, slot, numbers, 0)),
        rules=tuple(r for r in dump.rules if not is_our_rule(r, slot, numbers)),
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
