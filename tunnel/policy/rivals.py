"""Which rule of another program takes our traffic away. Pure.

Rules are asked by preference, and ours move before any that catches everything (rule_base in
routing.py). What remains is what stands so far in front that we cannot, or selects by something
that we do not outdo: a destination, a user, a port. Then the traffic is played through on the
reading, and the rule that decided is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_address

from tunnel.policy.interface import Interface
from tunnel.policy.lookup import Packet, Tables, Verdict
from tunnel.policy.networks import EVERYTHING
from tunnel.policy.numbers import PROTOCOL, Numbers
from tunnel.policy.routing import Desired, rule_base
from tunnel.policy.rtnl import RTN_UNICAST, Dump, Route, Rule
from tunnel.settings import Address

ANYWHERE: dict[int, Address] = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}
"""What stands for "some host on the Internet" (RFC 5737, RFC 3849)."""
_UDP = 17
_DEFAULT_RULES = (0, 32766, 32767)
_ASKED = 8


def foreign(rules: Iterable[Rule]) -> list[Rule]:
    """Return the rules that neither we nor the kernel made."""
    return [r for r in rules if r.protocol != PROTOCOL and r.preference not in _DEFAULT_RULES]


def named(verdict: Verdict, dump: Dump) -> str:
    """Name another program's rule and where it leads."""
    rule = verdict.rule
    if rule is None:
        return ""
    where = f"to {dump.name(verdict.index)}" if verdict.index else "nowhere"
    return f"rule {rule.preference} of another program ({rule}), which leads {where}"


def cut_off(
    interfaces: Sequence[Interface], dump: Dump, endpoints: Iterable[Address], *, bound: bool
) -> tuple[Interface, ...]:
    """Return the interfaces, those marked over which another program's rule lets nothing of ours.

    With `bound`, sockets are bound to the interface and our rules for it stand where they can.
    """
    if not foreign(dump.rules):
        return tuple(interfaces)
    numbers = Numbers()
    preference = rule_base(dump, numbers)
    others = replace(dump, rules=tuple(r for r in dump.rules if r.protocol != PROTOCOL))
    routed = [i for i in interfaces if i.routed]
    rules, routes = [], []
    for position, interface in enumerate(routed if bound else ()):
        table = numbers.table_base - 1 - position
        for version in interface.routed:
            rules.append(Rule(version, preference, table, PROTOCOL, oif=interface.name))
            routes.append(Route(EVERYTHING[version], table, interface.index, protocol=PROTOCOL))
    tables = Tables(others, rules, routes)
    wanted = tuple(endpoints)
    marked = {}
    for interface in routed:
        lost: dict[int, str] = {}
        for version in interface.routed:
            for far in [e for e in wanted if e.version == version] or [ANYWHERE[version]]:
                oif = interface.name if bound else None
                found = tables.look_up(
                    Packet(far, oif=oif, mark=numbers.mark_base, ip_protocol=_UDP)
                )
                refused = found.index != interface.index if bound else not found.index
                if refused and found.rule is not None and found.rule.protocol != PROTOCOL:
                    lost[version] = named(found, dump)
        if lost:
            left = interface.routed - lost.keys()
            why = "" if left else next(iter(lost.values()))
            marked[interface.index] = replace(interface, routed=left, cut_off=why)
    return tuple(marked.get(interface.index, interface) for interface in interfaces)


def usurper(in_force: Desired, dump: Dump) -> str:
    """Say which rule of another program leads the tunnel's traffic elsewhere; empty when none."""
    if not in_force.link or not foreign(dump.rules):
        return ""
    ours = sorted(
        (r for r in in_force.routes if r.index == in_force.link and r.type == RTN_UNICAST),
        key=lambda route: (route.destination.prefixlen, route.version),
    )
    tables = Tables(dump)
    for route in ours[:_ASKED]:
        network = route.destination
        far = (
            ANYWHERE[route.version] if not network.prefixlen else network[network.num_addresses > 1]
        )
        found = tables.look_up(Packet(far))
        rule = found.rule
        if found.index != in_force.link and rule is not None and rule in foreign(dump.rules):
            return f"the tunnel's traffic is taken by {named(found, dump)}"
    return ""
