"""The pure parts of the path monitor: facts to a state, states to a change."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from tunnel.config import InterfaceOverride
from tunnel.errors import ConfigError
from tunnel.policy.binding import BindingPolicy, Term
from tunnel.policy.change import ChangeKind, PathChange, path_change
from tunnel.policy.classify import Facts
from tunnel.policy.interface import InterfaceType
from tunnel.policy.numbers import PROTOCOL, TABLE_MAIN
from tunnel.policy.path import Path, PathStatus
from tunnel.policy.rtnl import (
    Dump,
    Link,
    LinkAddress,
    Neighbour,
    Route,
    Rule,
)
from tunnel.policy.state import NetworkState, Override, Said, Sources, build_state
from tunnel.settings import Address

ANY4, ANY6 = ip_network("0.0.0.0/0"), ip_network("::/0")
CELLULAR = BindingPolicy((Term(InterfaceType.CELLULAR),))


def default(index: int, gateway: str, metric: int = 0, **other: Any) -> Route:
    address = ip_address(gateway)
    network = ANY4 if address.version == 4 else ANY6
    return replace(Route(network, TABLE_MAIN, index, address, metric), **other)


DUMP = Dump(
    links=(
        Link(1, "lo", 772, None, True, True, 65536),
        Link(2, "wlan0", 1, "veth", True, True, 1500),
        Link(3, "wwan0", 1, "veth", True, True, 1428),
        Link(4, "tunnel0", 65534, "tun", True, True, 1420),
    ),
    addresses=(
        LinkAddress(2, ip_interface("10.1.0.2/24")),
        LinkAddress(3, ip_interface("10.2.0.2/24")),
        LinkAddress(3, ip_interface("fd00:2::2/64"), tentative=True),
        LinkAddress(3, ip_interface("fe80::1/64")),
    ),
    routes=(
        default(2, "10.1.0.1", 100),
        default(3, "10.2.0.1", 700),
        default(3, "fe80::ff", 1024),
        Route(ANY4, 7400, 3, ip_address("10.2.0.1"), protocol=PROTOCOL),
        Route(ANY4, TABLE_MAIN, 4, protocol=PROTOCOL),
    ),
    rules=(Rule(4, 0, 255), Rule(4, 7400, 7400, PROTOCOL, oif="wwan0")),
)


def facts(link: Link, override: InterfaceType | None) -> Facts:
    return Facts(link.name, link.arphrd, link.kind, override=override)


def no_servers(name: str, index: int, known: tuple[Address, ...]) -> tuple[Address, ...]:
    return known


def no_search(name: str, index: int) -> tuple[str, ...]:
    return ()


def build(dump: Dump, said: dict[str, Said] | None = None, **overrides: Override) -> NetworkState:
    return build_state(dump, overrides, Sources(facts, no_servers, no_search, said or {}))


def interfaces(state: NetworkState) -> dict[str, Any]:
    return {interface.name: interface for interface in state.interfaces}


# ---- state ----


def test_state_of_a_dump() -> None:
    found = interfaces(build(DUMP))
    wwan = found["wwan0"]
    assert wwan.type is InterfaceType.CELLULAR
    assert (wwan.mtu, wwan.metric, wwan.usable) == (1428, 700, True)
    assert wwan.gateways == (ip_address("10.2.0.1"), ip_address("fe80::ff"))
    # The IPv6 address is still tentative, and a link-local one alone routes nothing.
    assert ip_interface("fd00:2::2/64") not in wwan.addresses
    assert wwan.routed == {4}
    assert found["wlan0"].metric == 100
    assert found["lo"].reason == "has no address yet"


def test_an_address_past_detection_makes_ipv6_usable() -> None:
    passed = tuple(replace(a, tentative=False) for a in DUMP.addresses)
    assert interfaces(build(replace(DUMP, addresses=passed)))["wwan0"].routed == {4, 6}


def test_our_own_routes_and_rules_are_not_the_network() -> None:
    state = build(DUMP)
    assert interfaces(state)["tunnel0"].routed == frozenset()
    assert state.rules == {Rule(4, 0, 255)}
    assert all(r.protocol != PROTOCOL for found in state.routes.values() for r in found)


@pytest.mark.parametrize(
    "routes",
    [
        (),
        (default(3, "10.2.0.1", usable=False),),
        (replace(default(3, "10.2.0.1"), destination=ip_network("10.0.0.0/8")),),
        (default(3, "10.2.0.1", table=100),),
    ],
    ids=["none", "dead", "specific only", "another table"],
)
def test_without_a_live_default_route_an_interface_is_not_usable(routes: tuple[Route]) -> None:
    wwan = interfaces(build(replace(DUMP, routes=routes)))["wwan0"]
    assert wwan.reason == "has no default route"


def test_overrides() -> None:
    override = Override.from_config(
        "wlan0", InterfaceOverride(type="cellular", expensive=True, dns=("192.0.2.53",))
    )
    wlan = interfaces(build(DUMP, wlan0=override))["wlan0"]
    assert wlan.type is InterfaceType.CELLULAR
    assert wlan.expensive
    assert wlan.dns == (ip_address("192.0.2.53"),)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (InterfaceOverride(type="lte"), r"interfaces.wlan0.type: 'lte' .* cellular, wifi"),
        (InterfaceOverride(dns=("dns.example",)), r"interfaces.wlan0.dns: 'dns.example'"),
    ],
)
def test_wrong_overrides(config: InterfaceOverride, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Override.from_config("wlan0", config)


# ---- changes ----


def change(new: Dump, policy: BindingPolicy = CELLULAR, old: Dump = DUMP) -> PathChange | None:
    before, after = build(old), build(new)

    def decide(state: NetworkState) -> Path:
        return policy.decide([i for i in state.interfaces if i.name != "tunnel0"])

    return path_change(before, decide(before), after, decide(after))


def with_link(which: str, **other: Any) -> Dump:
    links = tuple(replace(k, **other) if k.name == which else k for k in DUMP.links)
    return replace(DUMP, links=links)


def remade() -> Dump:
    return replace(
        with_link("wwan0", index=9),
        addresses=tuple(replace(a, index=9) if a.index == 3 else a for a in DUMP.addresses),
        routes=tuple(replace(r, index=9) if r.index == 3 else r for r in DUMP.routes),
    )


MOVED = tuple(
    replace(a, address=ip_interface("10.2.0.9/24"))
    if a.address.version == 4 and a.index == 3
    else a
    for a in DUMP.addresses
)
CHANGES = [
    (with_link("wwan0", carrier=False), "wwan0 lost its carrier"),
    (with_link("wwan0", up=False), "wwan0 is down"),
    (with_link("wwan0", mtu=1280), "wwan0 has MTU 1280, had 1428"),
    (with_link("wwan0", name="uplink"), "wwan0 is gone"),
    (remade(), "wwan0 was made again"),
    (replace(DUMP, links=DUMP.links[:2]), "wwan0 is gone"),
    (replace(DUMP, addresses=MOVED), "wwan0 has other addresses"),
    (replace(DUMP, routes=DUMP.routes[:1]), "wwan0 has no default route"),
    (
        replace(DUMP, routes=(*DUMP.routes, Route(ip_network("10.9.0.0/16"), TABLE_MAIN, 3))),
        "routes of wwan0 changed",
    ),
    (replace(DUMP, rules=(*DUMP.rules, Rule(4, 7399, 51820, mark=5))), "routing rules changed"),
]


@pytest.mark.parametrize(("new", "cause"), CHANGES, ids=[cause for _, cause in CHANGES])
def test_changes_and_their_causes(new: Dump, cause: str) -> None:
    found = change(new)
    assert found is not None
    assert found.cause in (cause, cause.split("; ")[-1])


@pytest.mark.parametrize(
    "new",
    [
        DUMP,
        with_link("wlan0", carrier=False),
        with_link("wlan0", mtu=1300),
        with_link("tunnel0", mtu=1300),
        replace(DUMP, routes=DUMP.routes[1:]),
        replace(DUMP, rules=DUMP.rules[:1]),
        replace(DUMP, routes=(*DUMP.routes, Route(ANY4, 7401, 3, protocol=PROTOCOL))),
    ],
    ids=[
        "nothing",
        "other carrier",
        "other MTU",
        "own link",
        "other route",
        "own rule",
        "own route",
    ],
)
def test_what_is_no_change_of_the_path(new: Dump) -> None:
    assert change(new) is None


def test_unbound_follows_the_default_route() -> None:
    assert change(with_link("wwan0", carrier=False), BindingPolicy()) is not None
    found = change(with_link("wlan0", carrier=False), BindingPolicy())
    assert found is not None
    assert found.old.interface is not None
    assert found.new.interface is not None
    assert (found.old.interface.name, found.new.interface.name) == ("wlan0", "wwan0")
    assert not found.new.bound


GATEWAY = ip_address("10.2.0.1")


def router(mac: str) -> Dump:
    return replace(DUMP, neighbours=(Neighbour(3, GATEWAY, mac),))


NETWORKS = [
    (router("aa:aa"), router("bb:bb"), "10.2.0.1 on wwan0 is another router (bb:bb, was aa:aa)"),
    (DUMP, router("aa:aa"), None),  # heard of for the first time
    (router("aa:aa"), DUMP, None),
    (router("aa:aa"), router("aa:aa"), None),
]


@pytest.mark.parametrize(("old", "new", "cause"), NETWORKS)
def test_another_router_is_another_network(old: Dump, new: Dump, cause: str | None) -> None:
    found = change(new, old=old)
    assert (found and found.cause) == cause
    if found is not None:
        assert found.kinds == {ChangeKind.NETWORK}


def test_kinds_of_changes() -> None:
    for new, kind in (
        (with_link("wwan0", carrier=False), ChangeKind.INTERFACE),
        (remade(), ChangeKind.INTERFACE),
        (with_link("wwan0", mtu=1280), ChangeKind.DETAIL),
        (replace(DUMP, addresses=MOVED), ChangeKind.DETAIL),
    ):
        found = change(new)
        assert found is not None
        assert found.kinds == {kind}


def test_what_the_managers_say_is_in_the_state() -> None:
    waiting = Said(operator="Op", roaming=True, waiting="is registered with Op but not connected")
    bare = replace(DUMP, routes=DUMP.routes[:1])
    state = build(bare, {"wwan0": waiting})
    wwan = interfaces(state)["wwan0"]
    assert (wwan.operator, wwan.roaming, wwan.expensive) == ("Op", True, True)
    assert wwan.satisfiable
    path = CELLULAR.decide([wwan])
    assert path.status is PathStatus.SATISFIABLE
    assert "wwan0 (cellular) is registered with Op but not connected" in path.reason
    # The user knows better, and what is routed is connected whatever a manager says.
    cheap = build(DUMP, {"wwan0": waiting}, wwan0=Override(expensive=False))
    assert not interfaces(cheap)["wwan0"].expensive
    assert interfaces(cheap)["wwan0"].usable


def test_over_a_tunnel_any_route_counts() -> None:
    narrow = Route(ip_network("192.0.2.0/24"), 74000, 4, protocol=PROTOCOL)
    dump = replace(
        DUMP,
        routes=(narrow,),
        addresses=(*DUMP.addresses, LinkAddress(4, ip_interface("10.9.0.2/24"))),
    )
    assert interfaces(build(dump))["tunnel0"].routed == {4}


def test_unseen_changes_merge() -> None:
    lost = change(with_link("wwan0", carrier=False))
    back = change(DUMP, old=with_link("wwan0", carrier=False))
    assert lost is not None
    assert back is not None
    both = lost.then(back)
    assert both.old == both.new
    assert both.cause == "wwan0 lost its carrier; wwan0 has its carrier back"
