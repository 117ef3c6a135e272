"""What the kernel says over rtnetlink, read whole: links, addresses, routes and rules.

Notifications are incomplete (an interface that goes down loses its IPv4 routes without one
RTM_DELROUTE), so nothing here follows them: every reading is a complete dump. pyroute2 does the
talking. Routes are decoded here, from the raw message, because there can be thousands of them and
we want nine fields of each (pyroute2's general decoder takes 100 microseconds a route).

`Dump` is plain data: everything that decides something is built from it by pure functions.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface, ip_network
from typing import Any, TypeVar

from pyroute2 import AsyncIPRoute
from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
from pyroute2.netlink.nlsocket import NetlinkRequest
from pyroute2.netlink.rtnl import RTM_GETROUTE
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from tunnel.policy.numbers import METRIC_IPV6
from tunnel.settings import Address, InterfaceAddress, Network

IFF_UP = 0x1
IFF_LOWER_UP = 0x10000
IFA_F_DADFAILED = 0x08
IFA_F_DEPRECATED = 0x20
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

_FAMILIES = {socket.AF_INET: 4, socket.AF_INET6: 6}
_DUMP_ATTEMPTS = 5


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
    routes: list[Route] = []
    rules: list[Rule] = []
    for family in _FAMILIES:
        request = rtmsg()
        request["family"] = family
        dump = NetlinkRequest(
            route,
            request,
            msg_type=RTM_GETROUTE,
            msg_flags=NLM_F_REQUEST | NLM_F_DUMP,
            parser=_parse_routes,
        )
        await dump.send()
        async for found in dump.response():
            routes += found.get("routes", ())
        rules += [rule_from(message) async for message in await route.get_rules(family=family)]
    return Dump(
        links=tuple([link_from(message) async for message in await route.get_links()]),
        addresses=tuple([address_from(message) async for message in await route.get_addr()]),
        routes=tuple(routes),
        rules=tuple(rules),
    )


def link_from(message: Any) -> Link:
    """Build a Link from a decoded RTM_NEWLINK."""
    info = message.get_attr("IFLA_LINKINFO")
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        arphrd=message["ifi_type"],
        kind=info.get_attr("IFLA_INFO_KIND") if info else None,
        up=bool(message["flags"] & IFF_UP),
        carrier=bool(message["flags"] & IFF_LOWER_UP),
        mtu=message.get_attr("IFLA_MTU"),
    )


def address_from(message: Any) -> LinkAddress:
    """Build a LinkAddress from a decoded RTM_NEWADDR."""
    # On a point-to-point link IFA_ADDRESS is the far end and IFA_LOCAL ours; IPv6 has one only.
    local = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    flags = message.get_attr("IFA_FLAGS")
    flags = message["flags"] if flags is None else flags
    return LinkAddress(
        index=message["index"],
        address=ip_interface(f"{local}/{message['prefixlen']}"),
        tentative=bool(flags & IFA_F_DADFAILED)
        or bool(flags & IFA_F_TENTATIVE and not flags & IFA_F_OPTIMISTIC),
    )


_RULE_SELECTORS = (
    "FRA_DST", "FRA_IIFNAME", "FRA_L3MDEV", "FRA_TUN_ID", "FRA_UID_RANGE", "FRA_IP_PROTO",
    "FRA_SPORT_RANGE", "FRA_DPORT_RANGE", "FRA_GOTO", "FRA_FLOW", "FRA_SUPPRESS_IFGROUP",
)  # fmt: skip
_ANY_IFGROUP = 0xFFFFFFFF
_NO_SUPPRESS = 0xFFFFFFFF
_WHOLE_MARK = 0xFFFFFFFF
_TO_TABLE = 1


def rule_from(message: Any) -> Rule:
    """Build a Rule from a decoded RTM_NEWRULE."""
    version = _FAMILIES[message["family"]]
    source = message.get_attr("FRA_SRC")
    mask = message.get_attr("FRA_FWMASK")
    suppress = message.get_attr("FRA_SUPPRESS_PREFIXLEN")
    values = [message.get_attr(name) for name in _RULE_SELECTORS]
    return Rule(
        version=version,
        preference=message.get_attr("FRA_PRIORITY") or 0,
        table=message.get_attr("FRA_TABLE") or message["table"],
        protocol=message.get_attr("FRA_PROTOCOL") or 0,
        oif=message.get_attr("FRA_OIFNAME"),
        source=ip_network(f"{source}/{message['src_len']}") if source else None,
        mark=message.get_attr("FRA_FWMARK"),
        invert=bool(message["flags"] & FIB_RULE_INVERT),
        suppress_prefixlen=None if suppress in (None, _NO_SUPPRESS) else suppress,
        special=any(value not in (None, 0, _ANY_IFGROUP) for value in values)
        or mask not in (None, 0, _WHOLE_MARK)
        or message["action"] != _TO_TABLE
        or bool(message["tos"]),
    )


# struct rtmsg and the attributes of linux/rtnetlink.h that matter here
_HEADER = struct.Struct("=IHHI")
_CODE = struct.Struct("=i")
_RTMSG = struct.Struct("=16x8BI")
_ATTRIBUTE = struct.Struct("=HH")
_HOP = struct.Struct("=HBBi")
_U32 = struct.Struct("=I")
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC = 1, 4, 5, 6, 7
RTA_MULTIPATH, RTA_TABLE, RTA_VIA = 9, 15, 18
_TYPE_MASK = 0x3FFF


def _parse_routes(data: bytes, offset: int, length: int) -> dict[str, Any]:
    """Decode one message of a route dump for pyroute2, which wants the header of each back."""
    _, kind, flags, sequence = _HEADER.unpack_from(data, offset)
    header: dict[str, Any] = {"type": kind, "flags": flags, "sequence_number": sequence}
    header["error"] = None
    found: dict[str, Any] = {"header": header}
    if kind == NLMSG_ERROR:
        code = -_CODE.unpack_from(data, offset + _HEADER.size + 4)[0]
        header["error"] = NetlinkError(code) if code else None
    elif kind != NLMSG_DONE:
        found["routes"] = tuple(routes_from(memoryview(data)[offset : offset + length]))
    return found


def routes_from(message: memoryview) -> Iterator[Route]:
    """Decode one RTM_NEWROUTE with its netlink header: one Route a next hop, none for cached ones.

    Cached IPv6 routes (RTM_F_CLONED) and foreign families yield nothing.
    """
    family, prefixlen, _, _, table, protocol, scope, type_, flags = _RTMSG.unpack_from(message)
    version = _FAMILIES.get(family)
    if version is None or flags & RTM_F_CLONED:
        return
    attributes = dict(_attributes(message[_RTMSG.size :]))
    packed = bytes(attributes.get(RTA_DST, bytes(4 if version == 4 else 16)))
    destination: Network = (
        IPv4Network((packed, prefixlen)) if version == 4 else IPv6Network((packed, prefixlen))
    )
    route = Route(
        destination=destination,
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


def _number(attributes: dict[int, memoryview], kind: int, default: int) -> int:
    value = attributes.get(kind)
    return default if value is None else int(_U32.unpack(value)[0])


def _address(packed: memoryview | None) -> Address | None:
    if packed is None:
        return None
    return IPv4Address(bytes(packed)) if len(packed) == 4 else IPv6Address(bytes(packed))


def _gateway(attributes: dict[int, memoryview]) -> Address | None:
    via = attributes.get(RTA_VIA)  # an IPv4 route through an IPv6 router (RFC 5549): family first
    return _address(attributes.get(RTA_GATEWAY) if via is None else via[2:])


def default_metric(version: int) -> int:
    """Return the metric that the kernel writes into a route made without one."""
    return 0 if version == 4 else METRIC_IPV6
