"""What we tell the kernel, read back by pyroute2's decoder and by our own."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from typing import Any

import pytest
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from tunnel.policy import rtdecode, rtencode
from tunnel.policy.numbers import PROTOCOL
from tunnel.policy.rtencode import Request
from tunnel.policy.rtnl import (
    FR_ACT_GOTO,
    FR_ACT_UNREACHABLE,
    RTN_THROW,
    RTN_UNREACHABLE,
    SCOPE_LINK,
    LinkAddress,
    Route,
    Rule,
)

ANY4, ANY6 = ip_network("0.0.0.0/0"), ip_network("::/0")
ROUTES = [
    Route(ANY4, 74000, 9, scope=SCOPE_LINK, protocol=PROTOCOL),
    Route(ip_network("10.2.0.0/24"), 254, 3, source=ip_address("10.2.0.2"), scope=SCOPE_LINK),
    Route(ANY4, 254, 3, ip_address("10.2.0.1"), 700, onlink=True, protocol=PROTOCOL),
    Route(ANY4, 254, 3, ip_address("fe80::1"), protocol=PROTOCOL),
    Route(ANY6, 74001, 3, ip_address("fe80::1"), 1024, protocol=PROTOCOL),
    Route(ip_network("fd00::/8"), 74001, metric=1024, type=RTN_THROW, protocol=PROTOCOL),
    Route(ANY6, 74001, metric=0xFFFFFFFF, type=RTN_UNREACHABLE, protocol=PROTOCOL),
]
RULES = [
    Rule(4, 7400, 74001, PROTOCOL, oif="wwan0", mark=0x7400),
    Rule(6, 7400, 74001, PROTOCOL, source=ip_network("fd00::2/128"), mark=1, mask=0xFF),
    Rule(4, 7400, 254, PROTOCOL, suppress_prefixlen=0),
    Rule(4, 7400, 74000, PROTOCOL, mark=0x7400, invert=True),
    Rule(6, 7400, 74000, PROTOCOL, destination=ip_network("fd00::/8"), iif="lo"),
    Rule(4, 7400, 254, PROTOCOL, ip_protocol=17, source_ports=(68, 68), ports=(67, 67)),
    Rule(4, 7400, 254, PROTOCOL, users=(0, 999)),
    Rule(4, 7400, 0, PROTOCOL, action=FR_ACT_UNREACHABLE),
    Rule(4, 7400, 0, PROTOCOL, action=FR_ACT_GOTO, goto=8000),
]


def understood(request: Request) -> Any:
    size = 16 + len(request.payload)
    raw = struct.pack("=IHHII", size, request.type, 0, 1, 0) + request.payload
    (message,) = list(MarshalRtnl().parse(raw))
    return message


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_routes(route: Route) -> None:
    request = rtencode.replace_route(route)
    assert list(rtdecode.routes_from(memoryview(request.payload))) == [route]
    message = understood(request)
    assert message["event"] == "RTM_NEWROUTE"
    assert message["dst_len"] == route.destination.prefixlen
    assert (message["proto"], message["type"], message["scope"]) == (
        PROTOCOL if route.protocol else 0,
        route.type,
        route.scope,
    )
    assert message.get_attr("RTA_TABLE") == route.table
    assert message.get_attr("RTA_OIF") == (route.index or None)
    assert message.get_attr("RTA_PRIORITY") == (route.metric or None)
    assert bool(message["flags"] & 4) == route.onlink
    if route.gateway is not None and route.gateway.version != route.version:
        assert message.get_attr("RTA_VIA")["addr"] == str(route.gateway)
    else:
        gateway = message.get_attr("RTA_GATEWAY")
        assert gateway == (None if route.gateway is None else str(route.gateway))
    if route.source is not None:
        assert message.get_attr("RTA_PREFSRC") == str(route.source)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_rules(rule: Rule) -> None:
    request = rtencode.add_rule(rule)
    assert list(rtdecode.rules_from(memoryview(request.payload))) == [rule]
    message = understood(request)
    assert message["event"] == "RTM_NEWRULE"
    assert (message["action"], message["flags"]) == (rule.action, 2 if rule.invert else 0)
    assert message.get_attr("FRA_PRIORITY") == rule.preference
    assert message.get_attr("FRA_TABLE") == (rule.table or None)
    assert message.get_attr("FRA_PROTOCOL") == PROTOCOL
    assert message.get_attr("FRA_OIFNAME") == rule.oif
    assert message.get_attr("FRA_IIFNAME") == rule.iif
    assert message.get_attr("FRA_FWMARK") == rule.mark
    assert message.get_attr("FRA_SUPPRESS_PREFIXLEN") == rule.suppress_prefixlen
    assert message.get_attr("FRA_IP_PROTO") == (rule.ip_protocol or None)
    if rule.source is not None:
        assert message.get_attr("FRA_SRC") == str(rule.source.network_address)
    if rule.ports is not None:
        assert message.get_attr("FRA_DPORT_RANGE") == "67:67"


def test_removals_are_the_same_with_another_type() -> None:
    added, removed = rtencode.replace_route(ROUTES[0]), rtencode.remove_route(ROUTES[0])
    assert added.payload == removed.payload
    assert understood(removed)["event"] == "RTM_DELROUTE"
    assert understood(rtencode.remove_rule(RULES[0]))["event"] == "RTM_DELRULE"


@pytest.mark.parametrize("address", ["10.9.0.2/24", "fd09::2/64"])
def test_addresses(address: str) -> None:
    request = rtencode.add_address(9, ip_interface(address))
    found = list(rtdecode.addresses_from(memoryview(request.payload)))
    assert found == [LinkAddress(9, ip_interface(address))]
    message = understood(request)
    assert (message["index"], message["prefixlen"]) == (9, ip_interface(address).network.prefixlen)
    assert message.get_attr("IFA_LOCAL") == str(ip_interface(address).ip)
    assert understood(rtencode.remove_address(9, ip_interface(address)))["event"] == "RTM_DELADDR"


def test_links() -> None:
    message = understood(rtencode.set_link(9, mtu=1380))
    assert (message["index"], message["flags"], message["change"]) == (9, 0, 0)
    assert message.get_attr("IFLA_MTU") == 1380
    message = understood(rtencode.set_link(9, up=True))
    assert (message["flags"], message["change"]) == (1, 1)
    assert message.get_attr("IFLA_MTU") is None


def test_any_route_comes_back_as_it_was() -> None:
    chooser = random.Random(3)
    for _ in range(300):
        make, bits = chooser.choice(((IPv4Network, 32), (IPv6Network, 128)))
        length = chooser.randint(0, bits)
        network = make((chooser.getrandbits(bits), length), strict=False)  # type: ignore[operator]
        route = Route(network, chooser.randrange(1, 1 << 32), chooser.randrange(1, 99))
        route = replace(route, metric=chooser.randrange(1 << 32), onlink=chooser.random() < 0.5)
        payload = rtencode.replace_route(route).payload
        assert list(rtdecode.routes_from(memoryview(payload))) == [route]
