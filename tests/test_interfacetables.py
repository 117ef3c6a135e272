"""Several routers on one link, and what they advertised (RFC 8028, RFC 8978)."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_interface, ip_network

import pytest

from tests.test_routing import ANY4, ANY6, BOUND, DUMP, NUMBERS, WWAN
from tests.test_tunnelroutes import MACHINE, WLAN
from tunnel.policy.advert import PREFIXES_KEPT, Advert, Adverts, parse
from tunnel.policy.lookup import Packet, Tables
from tunnel.policy.numbers import TABLE_MAIN
from tunnel.policy.routing import Desired, desired
from tunnel.policy.rtnl import SCOPE_LINK, Dump, LinkAddress, Route
from tunnel.settings import Inbound, RoutingPolicy, TunnelSettings

R1, R2 = IPv6Address("fe80::1"), IPv6Address("fe80::2")
P1, P2 = IPv6Network("2001:db8:1::/64"), IPv6Network("2001:db8:2::/64")
A1, A2 = ip_interface("2001:db8:1::9/64"), ip_interface("2001:db8:2::9/64")
FAR = ip_address("2001:db8:99::1")
ROUTERS = (
    Route(ANY6, TABLE_MAIN, 3, R1, 1024),
    Route(ANY6, TABLE_MAIN, 3, R2, 1024),
    Route(P1, TABLE_MAIN, 3, None, 256),
    Route(P2, TABLE_MAIN, 3, None, 256),
)
LINK = replace(WWAN, addresses=(A1, A2), prefixes=((R1, P1), (R2, P2)))


def made(*deprecated: object, routers: tuple[Route, ...] = ROUTERS) -> tuple[Desired, Dump]:
    addresses = tuple(LinkAddress(3, a, deprecated=a in deprecated) for a in (A1, A2))
    dump = replace(DUMP, routes=routers, addresses=addresses)
    return desired(TunnelSettings(), None, replace(BOUND, interfaces=(LINK,)), dump, 0), dump


def router(wanted: Desired, dump: Dump, **packet: object) -> object:
    found = Tables(dump, wanted.rules, wanted.routes).look_up(Packet(FAR, **packet))  # type: ignore[arg-type]
    assert found.route is not None
    return found.route.gateway


def test_a_source_address_leaves_by_the_router_that_gave_it() -> None:
    wanted, dump = made()
    assert router(wanted, dump, source=A1.ip) == R1
    assert router(wanted, dump, source=A2.ip) == R2
    # Without a source the route names the address of its router.
    (default,) = {r for r in wanted.routes if r.table == 74001 and r.destination == ANY6}
    assert (default.gateway, default.source) == (R1, A1.ip)
    assert {r.table for r in wanted.routes} == {74001, 74002}


def test_a_router_whose_addresses_are_deprecated_comes_last() -> None:
    wanted, dump = made(A1)
    (default,) = {r for r in wanted.routes if r.table == 74001 and r.destination == ANY6}
    assert (default.gateway, default.source) == (R2, A2.ip)
    # What still runs from the old address keeps its router.
    assert router(wanted, dump, source=A1.ip) == R1


def test_the_better_metric_decides_among_equals_and_the_worse_stays_behind_it() -> None:
    slower = (replace(ROUTERS[0], metric=2048), *ROUTERS[1:])
    wanted, _ = made(routers=slower)
    found = {r.metric: r.gateway for r in wanted.routes if r.table == 74001 and r.is_default}
    assert found == {1024: R2, 2048: R1}


def test_one_router_needs_no_more_than_one_table() -> None:
    wanted, dump = made(routers=(ROUTERS[0], *ROUTERS[2:]))
    assert {r.table for r in wanted.routes} == {74001}
    assert all(r.source is None for r in wanted.routes)
    assert router(wanted, dump, source=A2.ip) == R1


def test_ipv4_routers_are_told_by_their_network() -> None:
    link = replace(WWAN, addresses=(ip_interface("10.2.0.2/24"), ip_interface("10.3.0.2/24")))
    one, other = ip_address("10.2.0.1"), ip_address("10.3.0.1")
    routes = (
        Route(ANY4, TABLE_MAIN, 3, one, 100),
        Route(ANY4, TABLE_MAIN, 3, other, 200),
        Route(ip_network("10.2.0.0/24"), TABLE_MAIN, 3, scope=SCOPE_LINK),
        Route(ip_network("10.3.0.0/24"), TABLE_MAIN, 3, scope=SCOPE_LINK),
    )
    dump = replace(DUMP, routes=routes)
    path = replace(BOUND, interfaces=(link,))
    tables = Tables(dump, *_parts(desired(TunnelSettings(), None, path, dump, 0)))
    for source, gateway in (("10.2.0.2", one), ("10.3.0.2", other)):
        packet = Packet(ip_address("192.0.2.1"), source=ip_address(source))
        route = tables.look_up(packet).route
        assert route is not None
        assert route.gateway == gateway


def _parts(wanted: Desired) -> tuple[frozenset[object], frozenset[object]]:
    return wanted.rules, wanted.routes  # type: ignore[return-value]


def test_tables_run_out_quietly() -> None:
    many = tuple(replace(WWAN, index=100 + n, name=f"w{n}") for n in range(200))
    wanted = desired(TunnelSettings(), None, replace(BOUND, interfaces=many), DUMP, 0)
    assert {rule.table for rule in wanted.rules} <= set(NUMBERS.tables(0))


def test_what_is_let_in_is_answered_by_the_way_it_came() -> None:
    policy = RoutingPolicy(include_all_networks=True, allow_inbound=(Inbound("tcp", 22, "wlan0"),))
    wanted = desired(TunnelSettings(), None, BOUND, MACHINE, 0, policy=policy)
    tables = Tables(MACHINE, wanted.rules, wanted.routes)
    ssh = Packet(ip_address("192.0.2.1"), ip_address("10.1.0.2"), ip_protocol=6, source_port=22)
    assert tables.look_up(ssh).index == WLAN
    for other in ({"source_port": 23}, {"ip_protocol": 17}, {"source": ip_address("10.2.0.2")}):
        assert tables.look_up(replace(ssh, **other)).index == 0  # type: ignore[arg-type]


# ---- advertisements ----


def advert(*prefixes: tuple[IPv6Network, int], flags: int = 0xC0) -> bytes:
    data = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    data += bytes((1, 1)) + bytes(6)  # the router's link-layer address
    for network, valid in prefixes:
        data += struct.pack("!BBBBIII", 3, 4, network.prefixlen, flags, valid, valid, 0)
        data += network.network_address.packed
    return data


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (advert((P1, 60), (P2, 0)), Advert(((P1, 60), (P2, 0)))),
        (advert(), Advert(())),
        (advert((P1, 60), flags=0), Advert(())),
        (advert((IPv6Network("fe80::/64"), 60)), Advert(())),
        (advert((P1, 60))[:-1], None),
        (advert()[:-8] + bytes(8), None),  # an option of no length
        (advert()[:8], None),
        (b"\x85" + advert()[1:], None),
        (b"", None),
    ],
)
def test_parse(data: bytes, found: Advert | None) -> None:
    assert parse(data) == found


def test_every_cut_of_a_message_is_read_or_refused() -> None:
    data = advert((P1, 60), (P2, 60))
    for end in range(len(data)):
        parse(data[:end])


def test_prefixes_are_known_until_they_end() -> None:
    heard = Adverts()
    assert heard.hear(3, R1, Advert(((P1, 60),)), 100.0)
    assert not heard.hear(3, R1, Advert(((P1, 60),)), 110.0)
    assert heard.hear(3, R2, Advert(((P2, 0xFFFFFFFF),)), 110.0)
    assert heard.prefixes(3, 169.0) == ((R1, P1), (R2, P2))
    assert heard.prefixes(3, 171.0) == ((R2, P2),)
    assert heard.hear(3, R2, Advert(((P2, 0),)), 172.0)
    assert heard.prefixes(3, 172.0) == ()
    assert heard.prefixes(4, 0.0) == ()


def test_a_flood_of_prefixes_is_bounded() -> None:
    heard = Adverts()
    flood = tuple((IPv6Network((n << 64, 64)), 60) for n in range(1 << 61, (1 << 61) + 5000))
    heard.hear(3, R1, Advert(flood), 0.0)
    assert len(heard.prefixes(3, 1.0)) == PREFIXES_KEPT
    heard.keep(frozenset({4}))
    assert heard.prefixes(3, 1.0) == ()
