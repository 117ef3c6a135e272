"""Other programs: rules that take our traffic, tunnels that lead back to us, fights over routes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from tests.test_routing import ANY4, BOUND, FULL, NUMBERS, UNBOUND, WWAN
from tests.test_tunnelroutes import MACHINE, PUSHED, WLAN
from tunnel.policy.difference import damage, without
from tunnel.policy.loopguard import loop
from tunnel.policy.numbers import PROTOCOL, TABLE_MAIN
from tunnel.policy.path import Path
from tunnel.policy.patience import FREE, LONGEST_WAIT, WINDOW, Patience
from tunnel.policy.rivals import cut_off, usurper
from tunnel.policy.routing import Desired, desired
from tunnel.policy.rtnl import FR_ACT_PROHIBIT, RTN_UNREACHABLE, Dump, Link, Route, Rule
from tunnel.settings import TunnelSettings

PEER = ip_address("198.51.100.7")
ELSEWHERE = Route(ANY4, 99, WLAN, ip_address("10.1.0.1"))
NOWHERE = Route(ANY4, 99, type=RTN_UNREACHABLE)
TAKES_ALL = Rule(4, 5, 99)


def with_others(*things: Rule | Route) -> Dump:
    return replace(
        MACHINE,
        rules=(*MACHINE.rules, *(t for t in things if isinstance(t, Rule))),
        routes=(*MACHINE.routes, *(t for t in things if isinstance(t, Route))),
    )


def made(dump: Dump, wanted: Desired) -> Dump:
    return replace(dump, rules=(*dump.rules, *wanted.rules), routes=(*dump.routes, *wanted.routes))


# ---- rules that take traffic away ----


@pytest.mark.parametrize(
    ("things", "bound", "routed"),
    [
        ((TAKES_ALL, ELSEWHERE), True, {4, 6}),  # not over this interface: the lookup goes on
        ((TAKES_ALL, NOWHERE), True, {6}),
        ((Rule(4, 5, 0, action=FR_ACT_PROHIBIT),), True, {6}),
        ((Rule(4, 5, 0, action=FR_ACT_PROHIBIT),), False, {6}),
        ((Rule(4, 5, 0, action=FR_ACT_PROHIBIT, users=(1000, 1000)),), True, {4, 6}),
        ((Rule(4, 5, 0, action=FR_ACT_PROHIBIT, oif="wlan0"),), True, {4, 6}),
        ((Rule(4, 5, 0, action=FR_ACT_PROHIBIT, ip_protocol=17),), True, {6}),
        # Far enough behind that ours come before it.
        ((Rule(4, 5000, 0, action=FR_ACT_PROHIBIT),), True, {4, 6}),
        ((Rule(4, 5000, 0, action=FR_ACT_PROHIBIT),), False, {6}),
        ((Rule(4, 9000, 99), NOWHERE), True, {4, 6}),
        ((), True, {4, 6}),
    ],
)
def test_an_interface_over_which_nothing_gets(
    things: tuple[Rule | Route, ...], bound: bool, routed: set[int]
) -> None:
    (found,) = cut_off([WWAN], with_others(*things), (), bound=bound)
    assert found.routed == routed
    assert found.usable


def test_the_rule_is_named_where_nothing_is_left() -> None:
    only4 = replace(WWAN, routed=frozenset({4}))
    (found,) = cut_off([only4], with_others(TAKES_ALL, NOWHERE), (), bound=True)
    assert found.reason == (
        "is cut off by rule 5 of another program (from all lookup 99), which leads nowhere"
    )


def test_a_rule_against_one_peer_is_found_by_its_address() -> None:
    rule = Rule(4, 5, 0, action=FR_ACT_PROHIBIT, destination=ip_network("198.51.100.0/24"))
    only4 = replace(WWAN, routed=frozenset({4}))
    assert cut_off([only4], with_others(rule), (), bound=True) == (only4,)
    (found,) = cut_off([only4], with_others(rule), (PEER,), bound=True)
    assert "to 198.51.100.0/24 prohibit" in found.reason


def test_a_rule_that_takes_the_tunnels_traffic() -> None:
    dump = with_others(TAKES_ALL, ELSEWHERE)
    wanted = desired(FULL, "tt0", BOUND, dump, 0)
    assert usurper(wanted, made(dump, wanted)) == (
        "the tunnel's traffic is taken by rule 5 of another program (from all lookup 99), "
        "which leads to wlan0"
    )
    for harmless in (Rule(4, 5, 99, oif="wlan0"), Rule(4, 9000, 99), Rule(4, 5, 98)):
        dump = with_others(harmless, ELSEWHERE)
        wanted = desired(FULL, "tt0", BOUND, dump, 0)
        assert usurper(wanted, made(dump, wanted)) == ""
    assert usurper(Desired(), made(dump, wanted)) == ""


# ---- loops ----

TT1 = Link(10, "tt1", 65534, "tun", True, True, 1420)
TWO = replace(MACHINE, links=(*MACHINE.links, TT1))
TUN1 = replace(WWAN, index=10, name="tt1")


def said(
    dump: Dump, settings: TunnelSettings, path: Path, *endpoints: str, others: int | None = 1
) -> str:
    rest = without(dump, 0, NUMBERS)
    slots = {} if others is None else {"tt1": others}
    wanted = desired(settings, "tt0", path, rest, 0)
    return loop(wanted, path, rest, [ip_address(e) for e in endpoints], slots, NUMBERS)


def beside(path: Path) -> Dump:
    """A machine where tt1 of slot 1 takes everything, over this path."""
    return made(TWO, desired(FULL, "tt1", path, TWO, 1))


def test_two_unbound_tunnels_for_everything_feed_each_other() -> None:
    assert said(TWO, FULL, UNBOUND) == ""
    assert "tt0's own packets would go into tt1 into tt0: a loop" in said(
        beside(UNBOUND), FULL, UNBOUND
    )
    assert said(beside(UNBOUND), FULL, BOUND) == ""
    assert said(beside(BOUND), FULL, UNBOUND) == ""  # tt0 inside tt1, which is bound to wwan0


def test_bound_to_each_other() -> None:
    over_tt1 = replace(BOUND, interfaces=(TUN1,))
    over_tt0 = replace(BOUND, interfaces=(replace(WWAN, index=9, name="tt0"),))
    assert said(beside(BOUND), FULL, over_tt1) == ""
    assert "into tt1 into tt0" in said(beside(over_tt0), FULL, over_tt1)


def test_a_foreign_tunnel_is_followed_by_its_mark() -> None:
    wg0 = replace(TT1, name="wg0", kind="wireguard")
    quick = (Rule(4, 8000, 51820, mark=51820, invert=True), Route(ANY4, 51820, 10))
    dump = with_others(*quick)
    usual = tuple(route for route in dump.routes if route is not PUSHED)
    dump = replace(dump, links=(*dump.links, wg0), routes=usual)
    assert "into wg0 into tt0" in said(dump, FULL, UNBOUND, others=None)
    assert said(dump, FULL, BOUND, others=None) == ""


def test_a_peer_inside_its_own_tunnel() -> None:
    ten = replace(FULL, included_routes=(ip_network("198.51.100.0/24"),))
    assert "the way to 198.51.100.7 leads into tt0 itself" in said(TWO, ten, UNBOUND, str(PEER))
    assert said(TWO, ten, UNBOUND, "203.0.113.9") == ""
    assert said(TWO, replace(ten, excluded_routes=(ip_network(PEER),)), UNBOUND, str(PEER)) == ""
    assert said(TWO, ten, BOUND, str(PEER)) == ""


# ---- what was removed ----


def test_damage_is_what_was_in_force_and_would_still_be_wanted() -> None:
    wanted = desired(FULL, "tt0", BOUND, MACHINE, 0)
    up = tuple(replace(link, up=True) for link in MACHINE.links)
    whole = replace(made(MACHINE, wanted), links=up)
    assert not damage(wanted, whole)
    bare = replace(MACHINE, links=up)
    found = damage(wanted, bare)
    assert set(found.add_rules) == wanted.rules
    assert set(found.add_routes) == wanted.routes
    assert not damage(wanted, bare, Desired())
    # The kernel took the routes of a link that went down; a lost carrier only marks them.
    down = replace(MACHINE, rules=(*MACHINE.rules, *wanted.rules))
    down = replace(down, links=tuple(replace(link, up=False) for link in up))
    assert {r.index for r in damage(wanted, down).add_routes} <= {0}
    dead = tuple(replace(r, usable=False) for r in wanted.routes)
    assert not damage(wanted, replace(whole, routes=(*MACHINE.routes, *dead)))


def test_patience_grows_and_comes_back() -> None:
    patience = Patience()
    now, waits, began = 100.0, [], []
    for _ in range(FREE + 8):
        waits.append(patience.wait(now))
        now += waits[-1]
        began.append(patience.put_back(now))
    assert waits[:FREE] == [0.0] * FREE
    assert waits[FREE:] == sorted(waits[FREE:])
    assert waits[-1] == LONGEST_WAIT
    assert began.count(True) == 1
    assert patience.wait(now + WINDOW + 1) == 0.0
    # A clock that jumps back does not make it wait for what is in the future.
    assert patience.wait(now - 1000) == 0.0


def test_ours_are_left_out() -> None:
    wanted = desired(FULL, "tt0", BOUND, MACHINE, 3)
    rest = without(made(MACHINE, wanted), 3, NUMBERS)
    assert {r for r in rest.rules if r.protocol == PROTOCOL} == set()
    assert not any(r.table in NUMBERS.tables(3) for r in rest.routes)
    assert all(r.table == TABLE_MAIN for r in rest.routes)
    assert ip_interface("10.2.0.2/24") in WWAN.addresses
