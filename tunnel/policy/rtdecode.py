"""rtnetlink's messages as values. Pure: bytes in, values out.

Each function takes the payload of one message (what follows the netlink header) and yields what it
says; the structures and numbers are those of linux/rtnetlink.h, if_link.h, if_addr.h, neighbour.h
and fib_rules.h. There may be thousands of links and routes and we want a few fields of each, which
is why nothing else of a message is looked at.
"""

from __future__ import annotations

import functools
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface

from tunnel.policy.rtnl import (
    FR_ACT_GOTO,
    RTN_UNICAST,
    SCOPE_UNIVERSE,
    WHOLE_MARK,
    Link,
    LinkAddress,
    Neighbour,
    Route,
    Rule,
)
from tunnel.settings import Address, Network

IFF_UP = 0x1
IFF_LOWER_UP = 0x10000
IFA_F_OPTIMISTIC = 0x04
IFA_F_DADFAILED = 0x08
IFA_F_DEPRECATED = 0x20
IFA_F_TENTATIVE = 0x40
RTNH_F_DEAD = 0x1
RTNH_F_ONLINK = 0x4
RTNH_F_LINKDOWN = 0x10
RTM_F_CLONED = 0x200
FIB_RULE_INVERT = 0x2
NUD_KNOWN = 0x02 | 0x04 | 0x08 | 0x10 | 0x80
"""Reachable, stale, delay, probe, permanent: states in which the link-layer address holds."""

IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_INFO_KIND = 3, 4, 18, 1
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
NDA_DST, NDA_LLADDR = 1, 2
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC = 1, 4, 5, 6, 7
RTA_MULTIPATH, RTA_TABLE, RTA_VIA = 9, 15, 18
FRA_DST, FRA_SRC, FRA_IIFNAME, FRA_GOTO, FRA_PRIORITY, FRA_FWMARK = 1, 2, 3, 4, 6, 10
FRA_FLOW, FRA_TUN_ID, FRA_SUPPRESS_IFGROUP, FRA_SUPPRESS_PREFIXLEN, FRA_TABLE = 11, 12, 13, 14, 15
FRA_FWMASK, FRA_OIFNAME, FRA_L3MDEV, FRA_UID_RANGE, FRA_PROTOCOL = 16, 17, 19, 20, 21
FRA_IP_PROTO, FRA_SPORT_RANGE, FRA_DPORT_RANGE = 22, 23, 24

FAMILIES = {socket.AF_INET.value: 4, socket.AF_INET6.value: 6}
_UNMODELLED = frozenset((FRA_FLOW, FRA_TUN_ID, FRA_L3MDEV))
_ADDRESSES_REMEMBERED = 4096

HEADER = struct.Struct("=IHHII")
_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=4BI")
_NDMSG = struct.Struct("=BxxxiHBB")
_RTMSG = struct.Struct("=8BI")
_FIB_RULE_HDR = struct.Struct("=8BI")
_ATTRIBUTE = struct.Struct("=HH")
_HOP = struct.Struct("=HBBi")
_U32 = struct.Struct("=I")
_TWO_U16 = struct.Struct("=HH")
_TWO_U32 = struct.Struct("=II")
_TYPE_MASK = 0x3FFF


def messages(datagram: bytes) -> Iterator[tuple[int, int, int, memoryview]]:
    """Yield (type, flags, sequence, payload) of each message of one datagram."""
    data, offset = memoryview(datagram), 0
    while offset + HEADER.size <= len(data):
        size, type_, flags, sequence, _ = HEADER.unpack_from(data, offset)
        yield type_, flags, sequence, data[offset + HEADER.size : offset + size]
        offset += max(HEADER.size, (size + 3) & ~3)


def links_from(message: memoryview) -> Iterator[Link]:
    """Decode one RTM_NEWLINK."""
    _, arphrd, index, flags, _ = _IFINFOMSG.unpack_from(message)
    attributes = dict(attributes_of(message[_IFINFOMSG.size :]))
    info = dict(attributes_of(attributes.get(IFLA_LINKINFO, memoryview(b""))))
    yield Link(
        index=index,
        name=_text(attributes.get(IFLA_IFNAME)) or "",
        arphrd=arphrd,
        kind=_text(info.get(IFLA_INFO_KIND)),
        up=bool(flags & IFF_UP),
        carrier=bool(flags & IFF_LOWER_UP),
        mtu=_number(attributes, IFLA_MTU, 0),
    )


def addresses_from(message: memoryview) -> Iterator[LinkAddress]:
    """Decode one RTM_NEWADDR; nothing comes of foreign families."""
    family, prefixlen, flags, _, index = _IFADDRMSG.unpack_from(message)
    attributes = dict(attributes_of(message[_IFADDRMSG.size :]))
    # On a point-to-point link IFA_ADDRESS is the far end and IFA_LOCAL ours; IPv6 has one only.
    local = _address(attributes.get(IFA_LOCAL, attributes.get(IFA_ADDRESS)))
    if family not in FAMILIES or local is None:
        return
    flags = _number(attributes, IFA_FLAGS, flags)
    yield LinkAddress(
        index=index,
        address=ip_interface((local, prefixlen)),
        tentative=bool(flags & IFA_F_DADFAILED)
        or bool(flags & IFA_F_TENTATIVE and not flags & IFA_F_OPTIMISTIC),
        deprecated=bool(flags & IFA_F_DEPRECATED),
    )


def neighbours_from(message: memoryview) -> Iterator[Neighbour]:
    """Decode one RTM_NEWNEIGH; nothing comes of one without a known link-layer address."""
    family, index, state, _, _ = _NDMSG.unpack_from(message)
    attributes = dict(attributes_of(message[_NDMSG.size :]))
    address, mac = _address(attributes.get(NDA_DST)), attributes.get(NDA_LLADDR)
    if family in FAMILIES and state & NUD_KNOWN and address is not None and mac:
        yield Neighbour(index, address, bytes(mac).hex(":"))


def rules_from(message: memoryview) -> Iterator[Rule]:
    """Decode one RTM_NEWRULE; nothing comes of foreign families."""
    family, dst_len, src_len, tos, table, _, _, action, flags = _FIB_RULE_HDR.unpack_from(message)
    version = FAMILIES.get(family)
    if version is None:
        return
    attributes = dict(attributes_of(message[_FIB_RULE_HDR.size :]))
    suppress = _number(attributes, FRA_SUPPRESS_PREFIXLEN, WHOLE_MARK)
    protocol, ip_protocol = attributes.get(FRA_PROTOCOL), attributes.get(FRA_IP_PROTO)
    yield Rule(
        version=version,
        preference=_number(attributes, FRA_PRIORITY, 0),
        table=_number(attributes, FRA_TABLE, table),
        protocol=protocol[0] if protocol else 0,
        oif=_text(attributes.get(FRA_OIFNAME)),
        source=_selector(attributes.get(FRA_SRC), src_len),
        mark=_number(attributes, FRA_FWMARK, 0) if FRA_FWMARK in attributes else None,
        mask=_number(attributes, FRA_FWMASK, WHOLE_MARK),
        invert=bool(flags & FIB_RULE_INVERT),
        suppress_prefixlen=None if suppress == WHOLE_MARK else suppress,
        destination=_selector(attributes.get(FRA_DST), dst_len),
        iif=_text(attributes.get(FRA_IIFNAME)),
        action=action,
        goto=_number(attributes, FRA_GOTO, 0) if action == FR_ACT_GOTO else 0,
        ip_protocol=ip_protocol[0] if ip_protocol else 0,
        source_ports=_pair(attributes.get(FRA_SPORT_RANGE), _TWO_U16),
        ports=_pair(attributes.get(FRA_DPORT_RANGE), _TWO_U16),
        users=_pair(attributes.get(FRA_UID_RANGE), _TWO_U32),
        special=not _UNMODELLED.isdisjoint(attributes)
        or _number(attributes, FRA_SUPPRESS_IFGROUP, WHOLE_MARK) != WHOLE_MARK
        or bool(tos),
    )


def routes_from(message: memoryview) -> Iterator[Route]:
    """Decode one RTM_NEWROUTE: one Route a next hop.

    Nothing comes of cached routes (RTM_F_CLONED) and foreign families.
    """
    family, prefixlen, _, _, table, protocol, scope, type_, flags = _RTMSG.unpack_from(message)
    version = FAMILIES.get(family)
    if version is None or flags & RTM_F_CLONED:
        return
    attributes = dict(attributes_of(message[_RTMSG.size :]))
    packed = bytes(attributes.get(RTA_DST, bytes(4 if version == 4 else 16)))
    route = Route(
        destination=_network(packed, prefixlen),
        table=_number(attributes, RTA_TABLE, table),
        index=_number(attributes, RTA_OIF, 0) if type_ == RTN_UNICAST else 0,
        gateway=_gateway(attributes),
        metric=_number(attributes, RTA_PRIORITY, 0),
        source=_address(attributes.get(RTA_PREFSRC)),
        scope=scope if version == 4 else SCOPE_UNIVERSE,
        type=type_,
        protocol=protocol,
        onlink=bool(flags & RTNH_F_ONLINK),
        usable=not flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN),
    )
    hops = attributes.get(RTA_MULTIPATH)
    if hops is None:
        yield route
        return
    while len(hops) >= _HOP.size:
        size, hop_flags, _, index = _HOP.unpack_from(hops)
        yield replace(
            route,
            index=index,
            gateway=_gateway(dict(attributes_of(hops[_HOP.size : size]))),
            onlink=bool(hop_flags & RTNH_F_ONLINK),
            usable=not hop_flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN),
        )
        hops = hops[max(_HOP.size, (size + 3) & ~3) :]


def attributes_of(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (type, value) of each attribute."""
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        yield kind & _TYPE_MASK, data[_ATTRIBUTE.size : size]
        data = data[max(_ATTRIBUTE.size, (size + 3) & ~3) :]


def _text(value: memoryview | None) -> str | None:
    return None if value is None else bytes(value).rstrip(b"\0").decode(errors="surrogateescape")


def _number(attributes: dict[int, memoryview], kind: int, default: int) -> int:
    value = attributes.get(kind)
    return default if value is None else int(_U32.unpack(value)[0])


def _pair(value: memoryview | None, form: struct.Struct) -> tuple[int, int] | None:
    if value is None:
        return None
    first, last = form.unpack(value)
    return first, last


def _address(packed: memoryview | None) -> Address | None:
    return None if packed is None else _address_of(bytes(packed))


@functools.lru_cache(_ADDRESSES_REMEMBERED)  # thousands of routes share a few gateways
def _address_of(packed: bytes) -> Address:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def _selector(packed: memoryview | None, prefixlen: int) -> Network | None:
    return None if packed is None else _network(bytes(packed), prefixlen)


def _network(packed: bytes, prefixlen: int) -> Network:
    """Return the network; a rule's source may have bits past its prefix, which do not count."""
    if len(packed) == 4:
        return IPv4Network((packed, prefixlen), strict=False)
    return IPv6Network((packed, prefixlen), strict=False)


def _gateway(attributes: dict[int, memoryview]) -> Address | None:
    via = attributes.get(RTA_VIA)  # an IPv4 route through an IPv6 router (RFC 5549): family first
    return _address(attributes.get(RTA_GATEWAY) if via is None else via[2:])
