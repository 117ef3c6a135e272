"""rtnetlink's messages, as facts of links, addresses, routes and rules."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from tunnel.policy.numbers import PROTOCOL, TABLE_MAIN
from tunnel.policy.rtdecode import addresses_from, links_from, routes_from, rules_from
from tunnel.policy.rtnl import Link, LinkAddress, Route, Rule

ANY4, ANY6 = ip_network("0.0.0.0/0"), ip_network("::/0")


def default(index: int, gateway: str, metric: int = 0, **other: Any) -> Route:
    address = ip_address(gateway)
    network = ANY4 if address.version == 4 else ANY6
    return replace(Route(network, TABLE_MAIN, index, address, metric), **other)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def route_message(
    family: int, prefix: int, *attributes: bytes, flags: int = 0, type_: int = 1, table: int = 254
) -> memoryview:
    body = struct.pack("=8BI", family, prefix, 0, 0, table, 3, 0, type_, flags)
    body += b"".join(attributes)
    return memoryview(body)


def u32(value: int) -> bytes:
    return struct.pack("=I", value)


GATEWAY = attribute(5, bytes((10, 2, 0, 1)))
OIF = attribute(4, u32(3))
HOPS = attribute(
    9,
    struct.pack("=HBBi", 16, 0, 0, 3)
    + GATEWAY
    + struct.pack("=HBBi", 16, 0x10, 0, 4)
    + attribute(5, bytes((10, 2, 0, 7))),
)
ROUTES = [
    (route_message(2, 0, OIF, GATEWAY), [default(3, "10.2.0.1", protocol=3)]),
    (
        route_message(2, 16, attribute(1, bytes((10, 9, 0, 0))), OIF, attribute(15, u32(74000))),
        [Route(ip_network("10.9.0.0/16"), 74000, 3, protocol=3)],
    ),
    (
        route_message(2, 0, OIF, attribute(18, b"\x0a\x00" + ip_address("fe80::1").packed)),
        [Route(ANY4, TABLE_MAIN, 3, ip_address("fe80::1"), protocol=3)],
    ),
    (
        route_message(2, 0, HOPS),
        [
            default(3, "10.2.0.1", protocol=3),
            default(4, "10.2.0.7", protocol=3, usable=False),
        ],
    ),
    (
        route_message(10, 0, attribute(6, u32(1024)), type_=9),
        [Route(ANY6, TABLE_MAIN, metric=1024, type=9, protocol=3)],
    ),
    (route_message(10, 0, OIF, flags=0x200), []),
    (route_message(129, 0, OIF), []),
]


@pytest.mark.parametrize(("raw", "routes"), ROUTES)
def test_route_messages(raw: memoryview, routes: list[Route]) -> None:
    assert list(routes_from(raw)) == routes


def message(body: bytes, *attributes: bytes) -> memoryview:
    return memoryview(body + b"".join(attributes))


def test_link_messages() -> None:
    kind = attribute(0x8000 | 18, attribute(1, b"veth\0") + attribute(2, b"\0" * 8))
    fields = struct.pack("=BxHiII", 0, 1, 3, 0x10043, 0)
    found = links_from(message(fields, attribute(3, b"wwan0\0"), kind, attribute(4, u32(1428))))
    assert list(found) == [Link(3, "wwan0", 1, "veth", True, True, 1428)]
    down = links_from(message(struct.pack("=BxHiII", 0, 519, 4, 0x1, 0), attribute(3, b"x\0")))
    assert list(down) == [Link(4, "x", 519, None, True, False, 0)]


@pytest.mark.parametrize(
    ("flags", "tentative"), [(0x40, True), (0x44, False), (8, True), (0, False)]
)
def test_address_messages(flags: int, tentative: bool) -> None:
    fields = struct.pack("=4BI", 10, 64, 0x40, 0, 3)
    address = attribute(1, ip_address("fd00::2").packed)
    found = addresses_from(message(fields, address, attribute(8, u32(flags))))
    assert list(found) == [LinkAddress(3, ip_interface("fd00::2/64"), tentative)]


def test_of_a_point_to_point_address_the_local_end_is_ours() -> None:
    fields = struct.pack("=4BI", 2, 32, 0, 0, 3)
    far, near = (attribute(i, ip_address(f"10.0.0.{i}").packed) for i in (1, 2))
    found = addresses_from(message(fields, far, near))
    assert list(found) == [LinkAddress(3, ip_interface("10.0.0.2/32"))]
    assert list(addresses_from(message(struct.pack("=4BI", 129, 0, 0, 0, 3), far))) == []


ALL_ONES = attribute(14, u32(0xFFFFFFFF))
MARKED = (attribute(10, u32(51820)), attribute(16, u32(0xFFFFFFFF)))


@pytest.mark.parametrize(
    ("flags", "attributes", "rule", "all_"),
    [
        (2, (*MARKED, ALL_ONES), Rule(4, 98, 51820, mark=51820, invert=True), True),
        (0, (attribute(14, u32(0)),), Rule(4, 98, 51820, suppress_prefixlen=0), True),
        (0, (attribute(17, b"wwan0\0"),), Rule(4, 98, 51820, oif="wwan0"), False),
        (0, (attribute(21, b"\x74"),), Rule(4, 98, 51820, PROTOCOL), True),
        (
            0,
            (attribute(2, bytes((10, 0, 0, 2))),),
            Rule(4, 98, 51820, source=ip_network("10.0.0.0/24")),
            False,
        ),
        (0, (attribute(19, b"\x01"),), Rule(4, 98, 51820, special=True), False),
        (0, (attribute(20, bytes(8)),), Rule(4, 98, 51820, users=(0, 0)), False),
        (
            0,
            (MARKED[0], attribute(16, u32(1))),
            Rule(4, 98, 51820, mark=51820, mask=1),
            False,
        ),
    ],
)
def test_rule_messages(flags: int, attributes: tuple[bytes, ...], rule: Rule, all_: bool) -> None:
    fields = struct.pack("=8BI", 2, 0, 24, 0, 252, 0, 0, 1, flags)
    table, preference = attribute(15, u32(51820)), attribute(6, u32(98))
    (found,) = rules_from(message(fields, table, preference, *attributes))
    assert found == rule
    assert found.catches_all == all_
