"""What the kernel says over rtnetlink, read whole: links, addresses, routes and rules.

Notifications are incomplete (an interface that goes down loses its IPv4 routes without one
RTM_DELROUTE), so nothing here follows them: every reading is a complete dump. pyroute2 does the
talking. The messages are decoded here, for there may be thousands of links and routes and we want a
few fields of each (pyroute2's general decoder takes 100 microseconds a route, 500 a link).

`Dump` is plain data: everything that decides something is built from it by pure functions.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface
from typing import Any, TypeVar

from pyroute2 import AsyncIPRoute
from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
from pyroute2.netlink.nlsocket import NetlinkRequest
from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE, RTM_GETRULE
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from tunnel.settings import Address, InterfaceAddress, Network

IFF_UP = 0x1
IFF_LOWER_UP = 0x10000
IFA_F_DADFAILED = 0x08
IFA_F_TENTATIVE = 0x40
IFA_F_OPTIMISTIC = 0x04
RTNH_F_DEAD = 0x1
RTNH_F_ONLINK = 0x4
RTNH_F_LINKDOWN = 0x10
RTM_F_CLONED = 0x200
RTN_UNICAST = 1
RTN_THROW = 9
SCOPE_UNIVERSE = 0
SCOPE_LINK = 253
FIB_RULE_INVERT = 0x2

T = TypeVar("T")
F = TypeVar("F", "Link", "LinkAddress", "Route", "Rule")

_FAMILIES = {socket.AF_INET: 4, socket.AF_INET6: 6}
_DUMP_ATTEMPTS = 5
_REMEMBERED = 1 << 15


@dataclass(frozen=True, slots=True)
class Link:
    """One link. `carrier` is IFF_LOWER_UP: what the driver says of the layer below."""

    index: int
    name: str
    arphrd: int
    kind: str | None
    up: bool
    carrier: bool
    mtu: int


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """One address of a link. `tentative` until duplicate address detection has passed it."""

    index: int
    address: InterfaceAddress
    tentative: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """One next hop of a route, present or wanted. `index` is 0 where a type has no interface."""

    destination: Network
    table: int
    index: int = 0
    gateway: Address | None = None
    metric: int = 0
    source: Address | None = None
    scope: int = SCOPE_UNIVERSE
    type: int = RTN_UNICAST
    protocol: int = 0
    onlink: bool = False
    usable: bool = True

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.destination.version

    @property
    def is_default(self) -> bool:
        """Whether it leads everywhere."""
        return self.destination.prefixlen == 0 and self.type == RTN_UNICAST

    @property
    def key(self) -> tuple[int, Network, int]:
        """What the kernel takes for the same route when one replaces another."""
        return self.table, self.destination, self.metric


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy routing rule, present or wanted. `special` marks selectors that we do not model.

    `mark` matches the whole 32 bits; `invert` turns the match round ("not fwmark").
    """

    version: int
    preference: int
    table: int
    protocol: int = 0
    oif: str | None = None
    source: Network | None = None
    mark: int | None = None
    invert: bool = False
    suppress_prefixlen: int | None = None
    special: bool = False

    @property
    def catches_all(self) -> bool:
        """Whether it takes packets of any interface and source, as a default VPN's rule does."""
        return self.oif is None and self.source is None and not self.special


@dataclass(frozen=True, slots=True)
class Dump:
    """One complete reading."""

    links: tuple[Link, ...] = ()
    addresses: tuple[LinkAddress, ...] = ()
    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()

    def link(self, name: str) -> Link | None:
        """Return the link of that name."""
        return next((link for link in self.links if link.name == name), None)


class Connection:
    """A netlink socket with blocking calls, for a thread that runs no event loop of its own.

    pyroute2 gets a plain selector loop: under uvloop, which cannot carry a netlink socket, it
    would not work at all, and a long dump must not hold up the daemon's loop anyway.
    """

    def __init__(self) -> None:
        self._loop = asyncio.SelectorEventLoop()
        self.route = AsyncIPRoute(strict_check=True)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run one of `self.route`'s calls to its end. Raises OSError."""
        try:
            return self._loop.run_until_complete(work)
        except NetlinkDumpInterrupted:
            raise
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code)) from error

    def close(self) -> None:
        """Close the socket; safe to call again."""
        if not self._loop.is_closed():
            self.route.close()
            self._loop.run_until_complete(asyncio.sleep(0))  # lets the transport close its socket
            self._loop.close()

    def read(self) -> Dump:
        """Read everything; again if the kernel changed it meanwhile. Raises OSError."""
        for _ in range(_DUMP_ATTEMPTS):
            with contextlib.suppress(NetlinkDumpInterrupted):
                return self.call(_read(self.route))
        raise OSError(errno.EAGAIN, "the routing state changes faster than it can be read")


async def _read(route: AsyncIPRoute) -> Dump:
    addresses, routes, rules = [], [], []
    for family in _FAMILIES:
        addresses += await _dump(route, ifaddrmsg, RTM_GETADDR, family, addresses_from)
        routes += await _dump(route, rtmsg, RTM_GETROUTE, family, routes_from)
        rules += await _dump(route, fibmsg, RTM_GETRULE, family, rules_from)
    links = await _dump(route, ifinfmsg, RTM_GETLINK, socket.AF_UNSPEC, links_from)
    return Dump(tuple(links), tuple(addresses), tuple(routes), tuple(rules))


async def _dump(
    route: AsyncIPRoute,
    message: Any,
    kind: int,
    family: int,
    decode: Callable[[memoryview], Iterator[F]],
) -> list[F]:
    """Ask for one kind of things and decode the answers, which pyroute2 hands over raw."""
    request = message()
    request["family"] = family
    if kind == RTM_GETLINK:
        request["attrs"] = [("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS)]
    flags = NLM_F_REQUEST | NLM_F_DUMP
    found: list[F] = []

    def parse(data: bytes, offset: int, length: int) -> dict[str, Any]:
        _, type_, flags, sequence = _HEADER.unpack_from(data, offset)
        header = {"type": type_, "flags": flags, "sequence_number": sequence, "error": None}
        if type_ == NLMSG_ERROR:
            code = -_CODE.unpack_from(data, offset + _HEADER_BYTES)[0]
            header["error"] = NetlinkError(code) if code else None
        # A family that this kernel lacks is answered with all the others: they were asked for too.
        elif type_ != NLMSG_DONE and family in (socket.AF_UNSPEC, data[offset + _HEADER_BYTES]):
            found.extend(decode(memoryview(data)[offset : offset + length]))
        return {"header": header}

    query = NetlinkRequest(route, request, msg_type=kind, msg_flags=flags, parser=parse)
    await query.send()
    async for _ in query.response():
        pass
    return found


# Decoding. Each function takes one message with its netlink header and yields what it says; the
# structures and numbers are those of linux/rtnetlink.h, if_link.h, if_addr.h and fib_rules.h.
_HEADER = struct.Struct("=IHHI")
_HEADER_BYTES = 16
_CODE = struct.Struct("=i")
_IFINFOMSG = struct.Struct("=16xBxHiII")
_IFADDRMSG = struct.Struct("=16x4BI")
_RTMSG = struct.Struct("=16x8BI")
_FIB_RULE_HDR = struct.Struct("=16x8BI")
_ATTRIBUTE = struct.Struct("=HH")
_HOP = struct.Struct("=HBBi")
_U32 = struct.Struct("=I")
_TYPE_MASK = 0x3FFF
_RTEXT_FILTER_SKIP_STATS = 8
IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_INFO_KIND = 3, 4, 18, 1
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC = 1, 4, 5, 6, 7
RTA_MULTIPATH, RTA_TABLE, RTA_VIA = 9, 15, 18
FRA_DST, FRA_SRC, FRA_IIFNAME, FRA_GOTO, FRA_PRIORITY, FRA_FWMARK = 1, 2, 3, 4, 6, 10
FRA_FLOW, FRA_TUN_ID, FRA_SUPPRESS_IFGROUP, FRA_SUPPRESS_PREFIXLEN, FRA_TABLE = 11, 12, 13, 14, 15
FRA_FWMASK, FRA_OIFNAME, FRA_L3MDEV, FRA_UID_RANGE, FRA_PROTOCOL = 16, 17, 19, 20, 21
FRA_IP_PROTO, FRA_SPORT_RANGE, FRA_DPORT_RANGE = 22, 23, 24
_RULE_SELECTORS = frozenset(
    (FRA_DST, FRA_IIFNAME, FRA_GOTO, FRA_FLOW, FRA_TUN_ID, FRA_L3MDEV, FRA_UID_RANGE, FRA_IP_PROTO,
     FRA_SPORT_RANGE, FRA_DPORT_RANGE)
)  # fmt: skip
_ALL_ONES = 0xFFFFFFFF
_TO_TABLE = 1


def links_from(message: memoryview) -> Iterator[Link]:
    """Decode one RTM_NEWLINK."""
    _, arphrd, index, flags, _ = _IFINFOMSG.unpack_from(message)
    attributes = dict(_attributes(message[_IFINFOMSG.size :]))
    info = dict(_attributes(attributes.get(IFLA_LINKINFO, memoryview(b""))))
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
    attributes = dict(_attributes(message[_IFADDRMSG.size :]))
    # On a point-to-point link IFA_ADDRESS is the far end and IFA_LOCAL ours; IPv6 has one only.
    local = _address(attributes.get(IFA_LOCAL, attributes.get(IFA_ADDRESS)))
    if family not in _FAMILIES or local is None:
        return
    flags = _number(attributes, IFA_FLAGS, flags)
    yield LinkAddress(
        index=index,
        address=ip_interface((local, prefixlen)),
        tentative=bool(flags & IFA_F_DADFAILED)
        or bool(flags & IFA_F_TENTATIVE and not flags & IFA_F_OPTIMISTIC),
    )


def rules_from(message: memoryview) -> Iterator[Rule]:
    """Decode one RTM_NEWRULE; nothing comes of foreign families."""
    family, _, src_len, tos, table, _, _, action, flags = _FIB_RULE_HDR.unpack_from(message)
    version = _FAMILIES.get(family)
    if version is None:
        return
    attributes = dict(_attributes(message[_FIB_RULE_HDR.size :]))
    source = _address(attributes.get(FRA_SRC))
    suppress = _number(attributes, FRA_SUPPRESS_PREFIXLEN, _ALL_ONES)
    protocol = attributes.get(FRA_PROTOCOL)
    yield Rule(
        version=version,
        preference=_number(attributes, FRA_PRIORITY, 0),
        table=_number(attributes, FRA_TABLE, table),
        protocol=protocol[0] if protocol else 0,
        oif=_text(attributes.get(FRA_OIFNAME)),
        source=None if source is None else _network(source.packed, src_len),
        mark=_number(attributes, FRA_FWMARK, 0) if FRA_FWMARK in attributes else None,
        invert=bool(flags & FIB_RULE_INVERT),
        suppress_prefixlen=None if suppress == _ALL_ONES else suppress,
        special=not _RULE_SELECTORS.isdisjoint(attributes)
        or _number(attributes, FRA_SUPPRESS_IFGROUP, _ALL_ONES) != _ALL_ONES
        or _number(attributes, FRA_FWMASK, _ALL_ONES) != _ALL_ONES
        or action != _TO_TABLE
        or bool(tos),
    )


def routes_from(message: memoryview) -> Iterator[Route]:
    """Decode one RTM_NEWROUTE: one Route a next hop.

    Nothing comes of cached routes (RTM_F_CLONED) and foreign families.
    """
    family, prefixlen, _, _, table, protocol, scope, type_, flags = _RTMSG.unpack_from(message)
    version = _FAMILIES.get(family)
    if version is None or flags & RTM_F_CLONED:
        return
    attributes = dict(_attributes(message[_RTMSG.size :]))
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
            gateway=_gateway(dict(_attributes(hops[_HOP.size : size]))),
            onlink=bool(hop_flags & RTNH_F_ONLINK),
            usable=not hop_flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN),
        )
        hops = hops[max(_HOP.size, (size + 3) & ~3) :]


def _attributes(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        yield kind & _TYPE_MASK, data[_ATTRIBUTE.size : size]
        data = data[max(_ATTRIBUTE.size, (size + 3) & ~3) :]


def _text(value: memoryview | None) -> str | None:
    return None if value is None else bytes(value).rstrip(b"\0").decode(errors="surrogateescape")


def _number(attributes: dict[int, memoryview], kind: int, default: int) -> int:
    value = attributes.get(kind)
    return default if value is None else int(_U32.unpack(value)[0])


def _address(packed: memoryview | None) -> Address | None:
    return None if packed is None else _address_of(bytes(packed))


# The same few networks and addresses come with every reading, and making them is half its cost.
@functools.lru_cache(_REMEMBERED)
def _address_of(packed: bytes) -> Address:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


@functools.lru_cache(_REMEMBERED)
def _network(packed: bytes, prefixlen: int) -> Network:
    """Return the network; a rule's source may have bits past its prefix, which do not count."""
    if len(packed) == 4:
        return IPv4Network((packed, prefixlen), strict=False)
    return IPv6Network((packed, prefixlen), strict=False)


def _gateway(attributes: dict[int, memoryview]) -> Address | None:
    via = attributes.get(RTA_VIA)  # an IPv4 route through an IPv6 router (RFC 5549): family first
    return _address(attributes.get(RTA_GATEWAY) if via is None else via[2:])
