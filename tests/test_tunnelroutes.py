"""What the routing policies let into a tunnel and past it, played through on the whole state."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_interface, ip_network

import pytest

from tests.test_routing import ANY4, ANY6, BOUND, DUMP, FULL, UNBOUND
from tunnel.errors import ConfigError
from tunnel.policy.guard import render
from tunnel.policy.lookup import Packet, Tables, Verdict
from tunnel.policy.numbers import PROTOCOL, SLOTS, TABLE_MAIN, Band, Numbers
from tunnel.policy.path import Path
from tunnel.policy.routing import Desired, desired
from tunnel.policy.rtnl import RTN_UNREACHABLE, SCOPE_LINK, Dump, LinkAddress, Route, Rule
from tunnel.settings import Network, RoutingPolicy, Table, TunnelSettings

LAN = Route(ip_network("10.1.0.0/24"), TABLE_MAIN, 2, scope=SCOPE_LINK)
LAN6 = Route(ip_network("fd00:1::/64"), TABLE_MAIN, 2, metric=256)
CLAIMED = Route(ip_network("203.0.113.0/24"), TABLE_MAIN, 2, scope=SCOPE_LINK)
PUSHED = Route(ip_network("192.0.0.0/2"), TABLE_MAIN, 2, ip_address("10.1.0.66"))
MACHINE = replace(
    DUMP,
    links=(*DUMP.links, replace(DUMP.links[0], index=2, name="wlan0")),
    addresses=(LinkAddress(2, ip_interface("10.1.0.2/24")),),
    routes=(*DUMP.routes, LAN, LAN6, CLAIMED, PUSHED),
    rules=tuple(Rule(v, p, t) for v in (4, 6) for p, t in ((0, 255), (32766, 254))),
)
TUN, WLAN, WWAN = 9, 2, 3
ALL = RoutingPolicy(include_all_networks=True)
ENFORCE = RoutingPolicy(enforce_routes=True)


def state(
    policy: RoutingPolicy,
    settings: TunnelSettings = FULL,
    path: Path = UNBOUND,
    interface: str | None = "tt0",
    machine: Dump = MACHINE,
) -> tuple[Desired, Tables]:
    wanted = desired(settings, interface, path, machine, 0, policy=policy)
    return wanted, Tables(machine, wanted.rules, wanted.routes)


def way(tables: Tables, destination: str, **packet: object) -> int:
    return verdict(tables, destination, **packet).index


def verdict(tables: Tables, destination: str, **packet: object) -> Verdict:
    return tables.look_up(Packet(ip_address(destination), **packet))  # type: ignore[arg-type]


def test_plainly_the_main_tables_specific_routes_come_first() -> None:
    _, tables = state(RoutingPolicy())
    assert way(tables, "192.0.2.1") == way(tables, "10.1.0.9") == WLAN
    assert way(tables, "9.9.9.9") == TUN
    assert way(tables, "2001:db8::1") == TUN


@pytest.mark.parametrize(
    "destination", ["9.9.9.9", "192.0.2.1", "203.0.113.9", "10.1.0.9", "2001:db8::1", "fd00:1::9"]
)
@pytest.mark.parametrize("path", [UNBOUND, BOUND], ids=["unbound", "bound"])
def test_include_all_networks_takes_everything_but_the_marked(destination: str, path: Path) -> None:
    wanted, tables = state(ALL, path=path)
    assert way(tables, destination) == TUN
    assert way(tables, destination, mark=wanted.mark) in (WLAN, WWAN)
    # A program's own scoping does not help it: by address or by interface.
    source = ip_address("10.2.0.2" if "." in destination else "fd00:2::2")
    assert way(tables, destination, source=source) == TUN
    # In IPv6 the latter only the firewall refuses: see lookup.py.
    for name in ("wlan0", "wwan0") if "." in destination else ():
        assert way(tables, destination, oif=name) == 0
    if path is BOUND:
        assert way(tables, destination, oif="wwan0", mark=wanted.mark) == WWAN


def test_include_all_networks_needs_neither_routes_nor_a_link() -> None:
    narrow = replace(FULL, included_routes=(ip_network("10.0.0.0/8"),))
    _, tables = state(ALL, narrow)
    assert way(tables, "9.9.9.9") == TUN
    wanted, closed = state(ALL, interface=None)
    assert wanted.mark
    for destination in ("9.9.9.9", "192.0.2.1", "2001:db8::1", "fd00:1::9"):
        found = verdict(closed, destination)
        assert found.route is not None
        assert found.route.type == RTN_UNREACHABLE
        assert way(closed, destination, mark=wanted.mark) in (WLAN, WWAN)


def test_a_version_without_an_address_is_unreachable_not_swallowed() -> None:
    _, tables = state(ALL, replace(FULL, addresses=FULL.addresses[:1]))
    found = verdict(tables, "2001:db8::1")
    assert (found.index, found.route and found.route.type) == (0, RTN_UNREACHABLE)


@pytest.mark.parametrize("policy", [ALL, ENFORCE], ids=["include all", "enforce"])
def test_what_remains_when_the_link_is_gone_is_closed(policy: RoutingPolicy) -> None:
    wanted, _ = state(policy)
    left = [route for route in wanted.routes if route.index != TUN]
    tables = Tables(MACHINE, wanted.rules, left)
    for destination in ("9.9.9.9", "192.0.2.1", "2001:db8::1"):
        assert way(tables, destination) == 0


@pytest.mark.parametrize("policy", [ALL, ENFORCE, RoutingPolicy()])
def test_excluded_routes_hold_under_either_flag(policy: RoutingPolicy) -> None:
    excluded = (ip_network("198.51.100.0/24"), ip_network("2001:db8:51::/48"))
    for user, provider in ((excluded, ()), ((), excluded)):
        _, tables = state(
            replace(policy, excluded_routes=user), replace(FULL, excluded_routes=provider)
        )
        assert way(tables, "198.51.100.9") == WLAN
        assert way(tables, "2001:db8:51::9") == WWAN
        assert way(tables, "198.51.101.9") in (TUN, WLAN if policy == RoutingPolicy() else TUN)
        assert way(tables, "2001:db8:52::9") == TUN


def test_enforced_routes_win_over_the_routing_table_but_take_no_more() -> None:
    included = (ip_network("128.0.0.0/1"), ip_network("10.1.0.0/16"))
    wanted, tables = state(ENFORCE, replace(FULL, included_routes=included))
    assert way(tables, "192.0.2.1") == TUN
    assert way(tables, "10.1.0.9") == TUN
    assert way(tables, "9.9.9.9") == WLAN
    assert way(tables, "2001:db8::1") == WWAN
    assert {rule.version for rule in wanted.rules} == {4}
    # Not enforced: the same routes are less specific than the machine's.
    _, tables = state(RoutingPolicy(), replace(FULL, included_routes=included))
    assert way(tables, "192.0.2.1") == way(tables, "10.1.0.9") == WLAN


@pytest.mark.parametrize("policy", [ALL, ENFORCE], ids=["include all", "enforce"])
def test_another_tunnel_does_not_come_between(policy: RoutingPolicy) -> None:
    """One that enforces nothing looks into the main table first, where a network pushes routes."""
    look = Numbers().rule_base + Band.MAIN * SLOTS + 1
    rule = Rule(4, look, TABLE_MAIN, PROTOCOL, suppress_prefixlen=0)
    _, tables = state(policy, machine=replace(MACHINE, rules=(*MACHINE.rules, rule)))
    assert way(tables, "192.0.2.1") == TUN


@pytest.mark.parametrize("policy", [ALL, ENFORCE], ids=["include all", "enforce"])
def test_local_networks_are_private_and_on_link(policy: RoutingPolicy) -> None:
    local = replace(policy, exclude_local_networks=True)
    behind = Route(ip_network("172.16.0.0/12"), TABLE_MAIN, 2, ip_address("10.1.0.1"))
    machine = replace(MACHINE, routes=(*MACHINE.routes, behind))
    tables, without = state(local, machine=machine)[1], state(policy)[1]
    for destination in ("10.1.0.9", "fd00:1::9"):
        assert way(tables, destination) == WLAN
        assert way(without, destination) == TUN
    # Claimed on-link but public; private but behind a router; the tunnel's own.
    for destination in ("203.0.113.9", "192.0.2.1", "172.16.0.1", "10.9.0.7"):
        assert way(tables, destination) == TUN


def test_a_network_that_is_ours_and_theirs_is_ours() -> None:
    clash = replace(LAN, destination=ip_network("10.9.0.0/24"))
    machine = replace(MACHINE, routes=(*MACHINE.routes, clash))
    _, tables = state(replace(ALL, exclude_local_networks=True), machine=machine)
    assert way(tables, "10.9.0.7") == TUN


def test_a_lease_can_be_renewed() -> None:
    _, tables = state(ALL)
    dhcp = {"ip_protocol": 17, "source_port": 68, "port": 67, "oif": "wlan0"}
    assert way(tables, "10.1.0.1", **dhcp) == WLAN
    assert way(tables, "10.1.0.1", **(dhcp | {"port": 53})) == 0


def test_enforced_and_excluded_against_a_naive_model() -> None:
    """The longest of all included and excluded prefixes decides, an excluded one among equals."""
    chooser = random.Random(11)

    def network() -> IPv4Network:
        length = chooser.randint(24, 32)
        return IPv4Network((0xC6336400 | chooser.randrange(256), length), strict=False)

    for round_ in range(60):
        included: tuple[Network, ...] = tuple(network() for _ in range(chooser.randint(1, 5)))
        excluded = tuple({network() for _ in range(chooser.randint(0, 5))} - set(included))
        policy = replace(ALL if round_ % 3 == 0 else ENFORCE, excluded_routes=excluded)
        settings = replace(FULL, included_routes=included)
        _, tables = state(policy, settings)
        prefixes: list[tuple[int, Network]] = [(TUN, n) for n in included]
        prefixes += [(WLAN, n) for n in excluded]
        prefixes.append((TUN if policy.include_all_networks else WLAN, ANY4))
        for host in range(256):
            address = IPv4Address(0xC6336400 | host)
            longest = max((n.prefixlen, i) for i, n in prefixes if address in n)
            assert tables.look_up(Packet(address)).index == longest[1], (address, policy, included)


def test_combinations_that_mean_nothing() -> None:
    for wrong in (
        {"include_all_networks": True, "enforce_routes": True},
        {"exclude_local_networks": True},
        {"excluded_routes": (ANY6,)},
        {"included_routes": (LAN.destination,), "excluded_routes": (LAN.destination,)},
    ):
        with pytest.raises(ConfigError):
            RoutingPolicy(**wrong)  # type: ignore[arg-type]
    for table in (Table.OFF, 51820):
        with pytest.raises(ConfigError, match="cannot hold"):
            ALL.check_table(table)
    ALL.check_table(Table.AUTO)
    assert RoutingPolicy().applied_to(FULL) == FULL


def test_the_firewall_rejects_what_would_leave_elsewhere() -> None:
    policy = replace(ENFORCE, excluded_routes=(ip_network("198.51.100.0/24"),))
    wanted, _ = state(policy, replace(FULL, included_routes=(ip_network("198.51.0.0/16"),)))
    assert ip_network("198.51.101.0/24") in wanted.enforced
    assert not any(policy.excluded_routes[0].overlaps(n) for n in wanted.enforced)
    text = render(0, "tt0", wanted.guarded, wanted.mark, wanted.enforced)
    assert "198.51.128.0/17" in text
    assert text.count("reject") == 2  # our own packets and forwarded ones
    assert f"meta mark {wanted.mark:#x} accept" in text
    assert "reject" not in render(0, "tt0", wanted.guarded, wanted.mark)


def test_all_of_it_is_marked_as_ours() -> None:
    wanted, _ = state(replace(ALL, exclude_local_networks=True), path=BOUND)
    assert {route.protocol for route in wanted.routes} == {PROTOCOL}
    assert {rule.protocol for rule in wanted.rules} == {PROTOCOL}
