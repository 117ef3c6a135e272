from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Network, ip_address, ip_interface, ip_network
from pathlib import Path as FilePath

import pytest

from tunnel.policy.difference import Plan, is_our_rule, plan
from tunnel.policy.guard import removal, render
from tunnel.policy.interface import Classification, Confidence, Interface, InterfaceType
from tunnel.policy.interfacetables import COPIED_ROUTES
from tunnel.policy.networks import subtract
from tunnel.policy.numbers import BANDS, PROTOCOL, SLOTS, TABLE_MAIN, Numbers
from tunnel.policy.path import Path, PathStatus
from tunnel.policy.routing import Desired, desired, rule_base, tunnel_mtu
from tunnel.policy.rtnl import RTN_THROW, SCOPE_LINK, Dump, Link, LinkAddress, Route, Rule
from tunnel.policy.slot import Note, Slot
from tunnel.settings import Table, TunnelSettings

NUMBERS = Numbers()
ANY4, ANY6 = ip_network("0.0.0.0/0"), ip_network("::/0")
WWAN = Interface(
    index=3,
    name="wwan0",
    classification=Classification(InterfaceType.CELLULAR, "name wwan0", Confidence.GUESS),
    up=True,
    carrier=True,
    addresses=(
        ip_interface("10.2.0.2/24"),
        ip_interface("fd00:2::2/64"),
        ip_interface("fe80::1/64"),
    ),
    routed=frozenset({4, 6}),
)
BOUND = Path(PathStatus.SATISFIED, "", (WWAN,), bound=True)
UNBOUND = replace(BOUND, bound=False)
DUMP = Dump(
    links=(
        Link(3, "wwan0", 1, None, True, True, 1500),
        Link(9, "tt0", 65534, "tun", False, False, 1420),
    ),
    routes=(
        Route(ANY4, TABLE_MAIN, 2, ip_address("10.1.0.1"), 100),
        Route(ANY4, TABLE_MAIN, 3, ip_address("10.2.0.1"), 700),
        Route(
            ip_network("10.2.0.0/24"), TABLE_MAIN, 3, None, 0, ip_address("10.2.0.2"), SCOPE_LINK
        ),
        Route(ANY6, TABLE_MAIN, 3, ip_address("fe80::ff"), 1024),
    ),
    rules=(Rule(4, 0, 255), Rule(4, 32766, 254), Rule(6, 0, 255)),
)
FULL = TunnelSettings((ip_interface("10.9.0.2/24"), ip_interface("fd09::2/64")), None, (ANY4, ANY6))


def shown(wanted: Desired) -> list[str]:
    """The desired rules and routes as `ip` would print them, in the order of evaluation."""
    lines = []
    for rule in sorted(wanted.rules, key=lambda r: (r.version, r.preference, str(r.source))):
        words = [f"-{rule.version} {rule.preference}:"]
        words += ["not"] if rule.invert else []
        words += [f"from {rule.source}"] if rule.source else []
        words += [f"oif {rule.oif}"] if rule.oif else []
        words += [f"fwmark {rule.mark:#x}"] if rule.mark is not None else []
        words += [f"lookup {rule.table}"]
        words += ["suppress 0"] if rule.suppress_prefixlen == 0 else []
        lines.append(" ".join(words))
    for route in sorted(wanted.routes, key=lambda r: (r.table, r.version, str(r.destination))):
        via = f" via {route.gateway}" if route.gateway else ""
        kind = "throw " if route.type == RTN_THROW else ""
        lines.append(f"{route.table}: {kind}{route.destination}{via} dev {route.index}")
    return lines


def test_the_whole_state_of_a_bound_default_route_tunnel() -> None:
    settings = replace(FULL, excluded_routes=(ip_network("198.51.100.0/24"),))
    assert shown(desired(settings, "tt0", BOUND, DUMP, slot=1)) == [
        "-4 7401: oif wwan0 lookup 74065",
        "-4 7417: from 10.2.0.2/32 lookup 74065",
        "-4 7481: lookup 254 suppress 0",
        "-4 7513: not fwmark 0x7401 lookup 74064",
        "-6 7401: oif wwan0 lookup 74065",
        "-6 7417: from fd00:2::2/128 lookup 74065",
        "-6 7481: lookup 254 suppress 0",
        "-6 7513: not fwmark 0x7401 lookup 74064",
        "74064: 0.0.0.0/0 dev 9",
        "74064: throw 198.51.100.0/24 dev 0",
        "74064: ::/0 dev 9",
        "74065: 0.0.0.0/0 via 10.2.0.1 dev 3",
        "74065: 10.2.0.0/24 dev 3",
        "74065: ::/0 via fe80::ff dev 3",
    ]


def test_unbound_has_no_interface_tables() -> None:
    assert desired(TunnelSettings(), None, UNBOUND, DUMP, 0) == Desired()
    assert {r.preference for r in desired(FULL, "tt0", UNBOUND, DUMP, 0).rules} == {7480, 7512}


def test_an_interface_keeps_its_table_while_others_come_and_go() -> None:
    def tables(*used: Interface, dump: Dump) -> tuple[dict[str | None, int], Dump]:
        wanted = desired(TunnelSettings(), None, replace(BOUND, interfaces=used), dump, 0)
        found = {rule.oif: rule.table for rule in wanted.rules if rule.oif}
        return found, replace(DUMP, rules=(*DUMP.rules, *wanted.rules))

    wlan, eth = replace(WWAN, index=2, name="wlan0"), replace(WWAN, index=1, name="eth0")
    alone, dump = tables(WWAN, dump=DUMP)
    both, dump = tables(wlan, WWAN, dump=dump)
    other, _ = tables(eth, WWAN, dump=dump)
    assert alone["wwan0"] == both["wwan0"] == other["wwan0"]
    assert len(set(both.values())) == len(set(other.values())) == 2


@pytest.mark.parametrize(
    ("settings", "mark"),
    [
        (FULL, NUMBERS.mark(0)),
        (replace(FULL, fwmark=51820), 51820),
        (replace(FULL, table=51820), 0),
        (replace(FULL, table=Table.OFF), 0),
        (replace(FULL, included_routes=(ip_network("10.0.0.0/8"),)), 0),
        (replace(FULL, included_routes=(), fwmark=7), 7),
    ],
)
def test_the_mark(settings: TunnelSettings, mark: int) -> None:
    wanted = desired(settings, "tt0", BOUND, DUMP, 0)
    assert wanted.mark == mark
    assert bool(wanted.guarded) == any(rule.invert for rule in wanted.rules)


def test_one_version_leaves_the_other_alone() -> None:
    wanted = desired(replace(FULL, included_routes=(ANY4,)), "tt0", UNBOUND, DUMP, 0)
    assert {rule.version for rule in wanted.rules} == {4}
    assert wanted.guarded == FULL.addresses[:1]


@pytest.mark.parametrize(
    ("configured", "paths", "mtu"),
    [
        (None, (1500,), 1420),
        (None, (1428, 1500), 1348),
        (None, (1280,), 1280),
        (None, (9000,), 1420),
        (None, (), 1420),
        (1000, (1500,), 1000),
        (9000, (1500,), 9000),
    ],
)
def test_mtu(configured: int | None, paths: tuple[int, ...], mtu: int) -> None:
    interfaces = [replace(WWAN, mtu=path) for path in paths]
    assert tunnel_mtu(TunnelSettings(mtu=configured), interfaces) == mtu


def test_thousands_of_routes_are_not_copied() -> None:
    specific = tuple(
        Route(network, TABLE_MAIN, 3, ip_address("10.2.0.7"))
        for network in ip_network("172.16.0.0/12").subnets(new_prefix=24)
    )
    few, many = specific[: COPIED_ROUTES - 3], specific
    for extra, count in ((few, COPIED_ROUTES), (many, 3)):
        dump = replace(DUMP, routes=(*DUMP.routes, *extra))
        assert len(desired(TunnelSettings(), None, BOUND, dump, 0).routes) == count


def test_of_two_next_hops_one_is_copied() -> None:
    twin = Route(ANY4, TABLE_MAIN, 3, ip_address("10.2.0.9"), 700)
    dead = Route(ip_network("10.5.0.0/16"), TABLE_MAIN, 3, usable=False)
    dump = replace(DUMP, routes=(*DUMP.routes, twin, dead))
    wanted = desired(TunnelSettings(), None, BOUND, dump, 0)
    assert len([r for r in wanted.routes if r.destination == ANY4]) == 1
    assert all(route.usable for route in wanted.routes)


def test_a_route_whose_gateway_is_not_on_link_any_more_is_not_copied() -> None:
    stale = Route(ANY6, TABLE_MAIN, 3, ip_address("fd00:2::1"), 200)
    far = Route(ip_network("10.6.0.0/16"), TABLE_MAIN, 3, ip_address("10.66.0.1"), onlink=True)
    near = Route(ip_network("fd00:2::/64"), TABLE_MAIN, 3, None, 256)
    for routes, count in (((stale,), 3), ((stale, far), 4), ((stale, near), 5)):
        dump = replace(DUMP, routes=(*DUMP.routes, *routes))
        wanted = desired(TunnelSettings(), None, BOUND, dump, 0)
        assert len(wanted.routes) == count
        gateways = {route.gateway for route in wanted.routes if route.version == 6}
        assert (stale.gateway in gateways) == (near in routes)


# ---- rules beside other programs' ----

OTHERS = (
    Route(ANY4, 51820, 4),
    Route(ANY4, 99, 4),
    Route(ANY6, 99, 4),
    Route(ip_network("100.64.0.0/10"), 52, 5),
    Route(ip_network("128.0.0.0/1"), 53, 5),
)


@pytest.mark.parametrize(
    ("foreign", "base"),
    [
        ((), 7400),
        (
            (Rule(4, 7399, 51820, mark=1, invert=True), Rule(4, 7398, 254, suppress_prefixlen=0)),
            7256,
        ),
        ((Rule(6, 5270, 99),), 5128),
        ((Rule(4, 5270, 52),), 7400),  # a mesh VPN's table, which knows its own networks
        ((Rule(4, 5270, 53),), 5128),  # two halves of everything
        ((Rule(4, 5250, 0, action=7),), 5112),
        ((Rule(4, 5210, 254, mark=0x80000, mask=0xFF0000),), 7400),
        ((Rule(4, 5200, 254),), 5064),
        ((Rule(4, 7528, 99),), 7400),
        ((Rule(4, 7527, 99),), 7384),
        ((Rule(4, 3, 99),), 8),
        ((Rule(4, 100, 99, source=ip_network("10.0.0.0/8")),), 7400),
        ((Rule(4, 100, 99, oif="eth0"),), 7400),
        ((Rule(4, 1000, 0, special=True),), 7400),
        ((Rule(4, 20, 74000, PROTOCOL, mark=1, invert=True),), 7400),
    ],
)
def test_rule_base(foreign: tuple[Rule, ...], base: int) -> None:
    dump = replace(DUMP, rules=(*DUMP.rules, *foreign), routes=(*DUMP.routes, *OTHERS))
    assert rule_base(dump, NUMBERS) == base
    wanted = desired(FULL, "tt0", BOUND, dump, slot=5)
    assert all(is_our_rule(rule, 5, NUMBERS) for rule in wanted.rules)
    assert not any(is_our_rule(rule, 6, NUMBERS) for rule in wanted.rules)
    span = {rule.preference - base for rule in wanted.rules}
    assert span <= set(range(BANDS * SLOTS))


def test_a_kernel_without_ipv6_gets_no_such_rules() -> None:
    four = replace(WWAN, addresses=WWAN.addresses[:1], routed=frozenset({4}))
    path = replace(BOUND, interfaces=(four,))
    dump = replace(DUMP, rules=DUMP.rules[:2], routes=DUMP.routes[:3])
    wanted = desired(TunnelSettings(), None, path, dump, 0)
    assert {rule.version for rule in wanted.rules} == {4}


# ---- differences ----


def after(wanted: Desired, dump: Dump = DUMP) -> Dump:
    """What a kernel would show that has carried everything out."""
    return replace(
        dump,
        links=tuple(
            replace(link, up=True, mtu=wanted.mtu or link.mtu)
            if link.index == wanted.link
            else link
            for link in dump.links
        ),
        routes=(*dump.routes, *wanted.routes),
        rules=(*dump.rules, *wanted.rules),
        addresses=(*dump.addresses, *(LinkAddress(wanted.link, a) for a in wanted.addresses)),
    )


def test_what_is_there_is_not_touched() -> None:
    wanted = desired(FULL, "tt0", BOUND, DUMP, 0)
    first = plan(wanted, DUMP, 0, NUMBERS)
    assert set(first.add_routes) == wanted.routes
    assert set(first.add_rules) == wanted.rules
    assert first.set_up
    assert not first.set_mtu  # 1420 already
    assert not plan(wanted, after(wanted), 0, NUMBERS, wanted)


def test_on_link_routes_come_before_gateways() -> None:
    wanted = desired(TunnelSettings(), None, BOUND, DUMP, 0)
    gateways = [route.gateway for route in plan(wanted, DUMP, 0, NUMBERS).add_routes]
    assert gateways[0] is None
    assert None not in gateways[1:]


def test_only_what_is_ours_is_removed() -> None:
    wanted = desired(FULL, "tt0", BOUND, DUMP, 0)
    foreign_address = LinkAddress(9, ip_interface("10.66.0.1/32"))
    full = after(wanted)
    dump = replace(full, addresses=(*full.addresses, foreign_address))
    steps = plan(Desired(link=9), dump, 0, NUMBERS, wanted)
    assert set(steps.remove_routes) == wanted.routes
    assert set(steps.remove_rules) == wanted.rules
    assert set(steps.remove_addresses) == set(FULL.addresses)
    assert plan(Desired(), dump, 1, NUMBERS) == Plan()  # another tunnel's slot


def test_a_changed_gateway_is_replaced_in_place() -> None:
    wanted = desired(TunnelSettings(), None, BOUND, DUMP, 0)
    moved = replace(
        DUMP,
        routes=tuple(
            replace(r, gateway=ip_address("10.2.0.254")) if r.index == 3 and r.version == 4 and
            r.gateway else r for r in DUMP.routes
        ),
    )  # fmt: skip
    steps = plan(desired(TunnelSettings(), None, BOUND, moved, 0), after(wanted), 0, NUMBERS)
    assert [route.gateway for route in steps.add_routes] == [ip_address("10.2.0.254")]
    assert steps.remove_routes == ()


# ---- networks ----


def test_subtract_against_a_naive_model() -> None:
    chooser = random.Random(7)

    def network() -> IPv4Network:
        length = chooser.randint(24, 32)
        return IPv4Network((0x0A000000 | chooser.randrange(256), length), strict=False)

    for _ in range(300):
        included = [network() for _ in range(chooser.randint(1, 4))]
        excluded = [network() for _ in range(chooser.randint(0, 4))]
        got = subtract(included, excluded)
        for host in IPv4Network("10.0.0.0/24"):
            # Naive: the host is in when some included network holds it that no excluded one
            # of the same or a greater length cuts, tried network by network.
            expected = any(
                host in inside
                and not any(
                    host in hole and hole.prefixlen >= inside.prefixlen for hole in excluded
                )
                for inside in included
            )
            assert any(host in found for found in got) == expected


def test_subtract_keeps_versions_apart() -> None:
    assert subtract([ANY6], [ANY4]) == [ANY6]
    assert subtract([ANY4], [ANY4]) == []


# ---- the firewall's text ----


def test_guard_is_one_transaction() -> None:
    text = render(2, "tt0", FULL.addresses, 0x7402)
    assert text.startswith(removal(2))
    assert 'iifname != "tt0" ip daddr 10.9.0.2 fib saddr type != local' in text
    assert 'iifname != "tt0" ip6 daddr fd09::2 fib saddr type != local' in text
    assert text.count("0x7402") == 2


# ---- slots ----


def test_slots_are_exclusive_and_notes_survive(tmp_path: FilePath) -> None:
    first, second = Slot.take(tmp_path), Slot.take(tmp_path)
    assert (first.number, second.number) == (0, 1)
    assert Slot.take_if_free(0, tmp_path) is None
    first.record(Note("a longer name", True, "1"))
    first.record(Note("tt0", src_valid_mark="0"))
    assert first.note() == Note("tt0", src_valid_mark="0")
    assert second.others() == {0: first.note()}
    first.release()
    first.release()
    again = Slot.take(tmp_path)
    assert (again.number, again.note()) == (0, Note())
    second.release()
    again.release()
    assert list(tmp_path.iterdir()) == []


def test_a_closed_slot_is_for_the_tunnel_that_closed_it(tmp_path: FilePath) -> None:
    first, second = Slot.take(tmp_path), Slot.take(tmp_path)
    second.record(Note("tt1", closed=True))
    for slot in (first, second):
        slot.release(keep=slot is second)
    others = [Slot.take(tmp_path, name) for name in ("tt0", "tt2")]
    assert [slot.number for slot in others] == [0, 2]
    back = Slot.take(tmp_path, "tt1")
    assert (back.number, back.note()) == (1, Note("tt1", closed=True))
    back.release(keep=True)
    # Nothing of it is in the kernel: the note is about a namespace that is no more.
    back = Slot.take(tmp_path, "tt7", standing=())
    assert (back.number, back.note()) == (1, Note())
    for slot in (*others, back):
        slot.release()
    assert list(tmp_path.iterdir()) == []
    assert Note.parse("0") == Note.parse("") == Note.parse('{"name": "x"}') == Note()


def test_numbers_do_not_overlap() -> None:
    tables = [table for slot in range(SLOTS) for table in NUMBERS.tables(slot)]
    assert len(set(tables)) == len(tables)
    assert NUMBERS.interface_table(3, 0) == NUMBERS.tunnel_table(3)
    with pytest.raises(ValueError, match="at most"):
        NUMBERS.interface_table(0, 64)
