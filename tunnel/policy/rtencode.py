"""Values as rtnetlink's messages: what rtdecode.py reads, the other way round. Pure.

Each function returns a Request: the message's type, its flags beyond "request and acknowledge",
and its payload. tests/test_rtencode.py holds each against pyroute2's decoder.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from tunnel.policy import rtdecode as rt
from tunnel.policy.rtnl import FR_ACT_GOTO, RTN_UNICAST, Route, Rule
from tunnel.settings import InterfaceAddress

NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
RTM_NEWLINK, RTM_GETLINK = 16, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_GETNEIGH = 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34

_RTEXT_FILTER_SKIP_STATS = 8
_IFLA_EXT_MASK = 29
_NDA_IFINDEX = 8
_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=4BI")
_NDMSG = struct.Struct("=BxxxiHBB")
_RTMSG = struct.Struct("=8BI")
_U8, _U32 = struct.Struct("=B"), struct.Struct("=I")
_TWO_U16, _TWO_U32 = struct.Struct("=HH"), struct.Struct("=II")
_FAMILY = {version: family for family, version in rt.FAMILIES.items()}


@dataclass(frozen=True, slots=True)
class Request:
    """One request to the kernel. `what` names it in an error."""

    type: int
    flags: int
    payload: bytes
    what: str = ""


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded to four bytes."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


# What to read. With strict checking the kernel filters by what these say.


def get_links() -> Request:
    """Ask for all links, without their statistics."""
    mask = attribute(_IFLA_EXT_MASK, _U32.pack(_RTEXT_FILTER_SKIP_STATS))
    return Request(RTM_GETLINK, 0, _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + mask)


def get_addresses(version: int) -> Request:
    """Ask for all addresses."""
    return Request(RTM_GETADDR, 0, _IFADDRMSG.pack(_FAMILY[version], 0, 0, 0, 0))


def get_neighbours(index: int) -> Request:
    """Ask for the neighbours on a link."""
    payload = _NDMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    return Request(RTM_GETNEIGH, 0, payload + attribute(_NDA_IFINDEX, _U32.pack(index)))


def get_rules(version: int) -> Request:
    """Ask for all rules."""
    return Request(RTM_GETRULE, 0, _RTMSG.pack(_FAMILY[version], 0, 0, 0, 0, 0, 0, 0, 0))


def get_routes(version: int, *, table: int = 0, protocol: int = 0) -> Request:
    """Ask for the routes of a table, or of a protocol in any table."""
    payload = _RTMSG.pack(_FAMILY[version], 0, 0, 0, 0, protocol, 0, 0, 0)
    if table:
        payload += attribute(rt.RTA_TABLE, _U32.pack(table))
    return Request(RTM_GETROUTE, 0, payload)


# What to change.


def set_link(index: int, *, mtu: int = 0, up: bool = False) -> Request:
    """Set a link's MTU (0 leaves it), and bring it up if asked."""
    flags = rt.IFF_UP if up else 0
    payload = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, flags, flags)
    if mtu:
        payload += attribute(rt.IFLA_MTU, _U32.pack(mtu))
    return Request(RTM_NEWLINK, 0, payload, f"MTU {mtu}" if mtu else "the interface's going up")


def add_address(index: int, address: InterfaceAddress) -> Request:
    """Give a link an address."""
    return _address(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, index, address)


def remove_address(index: int, address: InterfaceAddress) -> Request:
    """Take an address from a link."""
    return _address(RTM_DELADDR, 0, index, address)


def _address(type_: int, flags: int, index: int, address: InterfaceAddress) -> Request:
    payload = _IFADDRMSG.pack(_FAMILY[address.version], address.network.prefixlen, 0, 0, index)
    for kind in (rt.IFA_LOCAL, rt.IFA_ADDRESS):
        payload += attribute(kind, address.ip.packed)
    return Request(type_, flags, payload, f"the address {address}")


def replace_route(route: Route) -> Request:
    """Put a route in place of the one with its key, or add it."""
    return _route(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route)


def remove_route(route: Route) -> Request:
    """Remove a route."""
    return _route(RTM_DELROUTE, 0, route)


def _route(type_: int, flags: int, route: Route) -> Request:
    onlink = rt.RTNH_F_ONLINK if route.onlink else 0
    payload = _RTMSG.pack(
        _FAMILY[route.version], route.destination.prefixlen, 0, 0, 0, route.protocol, route.scope,
        route.type, onlink,
    )  # fmt: skip
    payload += attribute(rt.RTA_TABLE, _U32.pack(route.table))
    payload += attribute(rt.RTA_DST, route.destination.network_address.packed)
    if route.metric:
        payload += attribute(rt.RTA_PRIORITY, _U32.pack(route.metric))
    if route.index and route.type == RTN_UNICAST:
        payload += attribute(rt.RTA_OIF, _U32.pack(route.index))
    if route.gateway is not None and route.gateway.version == route.version:
        payload += attribute(rt.RTA_GATEWAY, route.gateway.packed)
    elif route.gateway is not None:
        family = struct.pack("=H", _FAMILY[route.gateway.version])
        payload += attribute(rt.RTA_VIA, family + route.gateway.packed)
    if route.source is not None:
        payload += attribute(rt.RTA_PREFSRC, route.source.packed)
    return Request(type_, flags, payload, f"the route {route} in table {route.table}")


def add_rule(rule: Rule) -> Request:
    """Add a rule; one that is there already is an error (EEXIST)."""
    return _rule(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, rule)


def remove_rule(rule: Rule) -> Request:
    """Remove a rule."""
    return _rule(RTM_DELRULE, 0, rule)


def _rule(type_: int, flags: int, rule: Rule) -> Request:
    prefixes = [0 if n is None else n.prefixlen for n in (rule.destination, rule.source)]
    payload = _RTMSG.pack(
        _FAMILY[rule.version], *prefixes, 0, 0, 0, 0, rule.action,
        rt.FIB_RULE_INVERT if rule.invert else 0,
    )  # fmt: skip
    payload += attribute(rt.FRA_PRIORITY, _U32.pack(rule.preference))
    payload += attribute(rt.FRA_TABLE, _U32.pack(rule.table)) if rule.table else b""
    payload += attribute(rt.FRA_PROTOCOL, _U8.pack(rule.protocol))
    for kind, network in ((rt.FRA_DST, rule.destination), (rt.FRA_SRC, rule.source)):
        if network is not None:
            payload += attribute(kind, network.network_address.packed)
    for kind, name in ((rt.FRA_IIFNAME, rule.iif), (rt.FRA_OIFNAME, rule.oif)):
        if name is not None:
            payload += attribute(kind, name.encode() + b"\0")
    if rule.mark is not None:
        payload += attribute(rt.FRA_FWMARK, _U32.pack(rule.mark))
        payload += attribute(rt.FRA_FWMASK, _U32.pack(rule.mask))
    if rule.suppress_prefixlen is not None:
        payload += attribute(rt.FRA_SUPPRESS_PREFIXLEN, _U32.pack(rule.suppress_prefixlen))
    if rule.action == FR_ACT_GOTO:
        payload += attribute(rt.FRA_GOTO, _U32.pack(rule.goto))
    if rule.ip_protocol:
        payload += attribute(rt.FRA_IP_PROTO, _U8.pack(rule.ip_protocol))
    for kind, ports in ((rt.FRA_SPORT_RANGE, rule.source_ports), (rt.FRA_DPORT_RANGE, rule.ports)):
        if ports is not None:
            payload += attribute(kind, _TWO_U16.pack(*ports))
    if rule.users is not None:
        payload += attribute(rt.FRA_UID_RANGE, _TWO_U32.pack(*rule.users))
    return Request(type_, flags, payload, f"the rule {rule.preference} (IPv{rule.version}): {rule}")
