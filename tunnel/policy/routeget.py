"""The kernel's own answer to "which way would this packet go?": RTM_GETROUTE, asked twice.

The plain answer has the interface, next hop and source address. It says success too where there is
no route at all but the socket is bound to an interface: IPv4 then asks ARP for the whole world. So
the same question is asked with RTM_F_FIB_MATCH, whose answer is the route that matched, or none.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from tunnel.policy.lookup import Packet
from tunnel.policy.rtdecode import RTM_F_CLONED, attributes_of, routes_from
from tunnel.policy.rtnl import Route
from tunnel.settings import Address

RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTM_F_LOOKUP_TABLE, RTM_F_FIB_MATCH = 0x1000, 0x2000
RTA_DST, RTA_SRC, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC = 1, 2, 4, 5, 7
RTA_TABLE, RTA_MARK, RTA_VIA, RTA_UID = 15, 16, 18, 25
_HEADER: Final = struct.Struct("=IHHII")
_RTMSG: Final = struct.Struct("=8BI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_U32: Final = struct.Struct("=I")
_REQUEST: Final = 0x1
_ERROR: Final = 2
_SIZE: Final = 1 << 16
_SECONDS: Final = 5.0
_NO_WAY: Final = (
    errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.ENODEV,
)  # fmt: skip
_FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the kernel said. `index` 0 and `problem`: it refused, in its words.

    `matched` is the route that RTM_F_FIB_MATCH gave; None with an `index` is the case in which the
    kernel would look for the destination on the link itself.
    """

    index: int = 0
    source: Address | None = None
    gateway: Address | None = None
    table: int = 0
    matched: Route | None = None
    problem: str = ""


def route_get(packet: Packet) -> Answer:
    """Ask the kernel. Raises OSError where it cannot be asked."""
    plain = _ask(packet, RTM_F_LOOKUP_TABLE)
    if isinstance(plain, str):
        return Answer(problem=plain)
    fib = _ask(packet, RTM_F_LOOKUP_TABLE | RTM_F_FIB_MATCH)
    matched = None if isinstance(fib, str) else next(iter(routes_from(_plain_route(fib))), None)
    _, _, _, _, table, *_ = _RTMSG.unpack_from(plain)
    attributes = dict(attributes_of(plain[_RTMSG.size :]))
    via = attributes.get(RTA_VIA)
    return Answer(
        index=_number(attributes.get(RTA_OIF)),
        source=_address(attributes.get(RTA_PREFSRC)),
        gateway=_address(attributes.get(RTA_GATEWAY) if via is None else via[2:]),
        table=_number(attributes.get(RTA_TABLE)) or table,
        matched=matched,
    )


def _ask(packet: Packet, flags: int) -> memoryview | str:
    """Return the answer's rtmsg and attributes, or the refusal in words."""
    family = _FAMILY[packet.destination.version]
    bits = packet.destination.max_prefixlen
    body = _RTMSG.pack(family, bits, bits if packet.source else 0, 0, 0, 0, 0, 0, flags)
    body += _attribute(RTA_DST, packet.destination.packed)
    body += _attribute(RTA_SRC, packet.source.packed) if packet.source else b""
    if packet.oif is not None:
        body += _attribute(RTA_OIF, _U32.pack(socket.if_nametoindex(packet.oif)))
    body += _attribute(RTA_MARK, _U32.pack(packet.mark)) if packet.mark else b""
    body += _attribute(RTA_UID, _U32.pack(packet.user))
    message = _HEADER.pack(_HEADER.size + len(body), RTM_GETROUTE, _REQUEST, 1, 0) + body
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as one:
        one.settimeout(_SECONDS)
        one.send(message)
        data = memoryview(one.recv(_SIZE))
    size, type_, *_ = _HEADER.unpack_from(data)
    payload = data[_HEADER.size : size]
    if type_ == _ERROR:
        code = -struct.unpack_from("=i", payload)[0]
        if code not in _NO_WAY:
            raise OSError(code, os.strerror(code))
        return os.strerror(code)
    return payload


def _plain_route(message: memoryview) -> memoryview:
    """Return the message without the flag that marks the answer to one question."""
    *head, flags = _RTMSG.unpack_from(message)
    return memoryview(_RTMSG.pack(*head, flags & ~RTM_F_CLONED) + bytes(message[_RTMSG.size :]))


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _number(value: memoryview | None) -> int:
    return 0 if value is None else int(_U32.unpack(value)[0])


def _address(value: memoryview | None) -> Address | None:
    return None if value is None else ip_address(bytes(value))
