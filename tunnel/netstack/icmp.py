"""ICMP and ICMPv6 messages: echo, and errors about packets (RFC 792, RFC 4443, RFC 8201).

An error quotes the start of the packet that caused it, and concerns whoever sent that; the quote is
all that tells a true one from a forged one, so that TCP also looks at its sequence number.
"""

from __future__ import annotations

import errno
from enum import Enum
from typing import Final, NamedTuple

from tunnel.netstack.ip import ICMP, ICMPV6, TCP, UDP, Outgoing, Packet, Route, checksum, parse

_V4_QUOTE: Final = 548  # RFC 1812, section 4.3.2.3: as much as fits into 576
_V6_QUOTE: Final = 1232  # RFC 4443, section 2.4(c): as much as fits into 1280


class Kind(Enum):
    """What a message is about."""

    ECHO = "echo"
    ECHO_REPLY = "echo reply"
    TOO_BIG = "too big"
    ERROR = "error"


class Message(NamedTuple):
    """A message that arrived: of ECHO and ECHO_REPLY the identifier, the number and the data;
    of errors the errno that Linux gives for it, and the quoted packet.
    """

    kind: Kind
    identifier: int = 0
    sequence: int = 0
    data: bytes = b""
    error: int = 0
    mtu: int = 0
    quote: Quote | None = None


class Quote(NamedTuple):
    """A packet of ours that an error quotes."""

    protocol: int
    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    sequence: int  # of TCP; the ICMP sequence number of an echo

    @property
    def key(self) -> bytes:
        """The name of its flow in the packets that arrive."""
        ports = self.destination_port.to_bytes(2, "big") + self.source_port.to_bytes(2, "big")
        return self.destination + self.source + ports


_NET, _HOST = errno.ENETUNREACH, errno.EHOSTUNREACH
_UNREACHABLE4: Final = {
    0: _NET, 1: _HOST, 2: errno.ENOPROTOOPT, 3: errno.ECONNREFUSED, 5: errno.EOPNOTSUPP, 6: _NET,
    7: errno.EHOSTDOWN, 8: errno.ENONET, 9: _NET, 10: _HOST, 11: _NET, 12: _HOST, 13: _HOST,
    14: _HOST, 15: _HOST,
}  # fmt: skip
_UNREACHABLE6: Final = {
    0: _NET, 1: errno.EACCES, 2: _HOST, 3: _HOST, 4: errno.ECONNREFUSED, 5: errno.EACCES,
    6: errno.EACCES,
}  # fmt: skip


def read(packet: Packet) -> Message | None:
    """Read a message; None for kinds that mean nothing to us, and for malformed ones."""
    data = packet.payload
    if len(data) < 8:
        return None
    kind, code = data[0], data[1]
    if packet.protocol == ICMP:
        echo, reply, errors = 8, 0, {3, 11, 12}
    else:
        echo, reply, errors = 128, 129, {1, 2, 3, 4}
    if kind in (echo, reply) and code == 0:
        which = Kind.ECHO if kind == echo else Kind.ECHO_REPLY
        number, sequence = data[4] << 8 | data[5], data[6] << 8 | data[7]
        return Message(which, number, sequence, bytes(data[8:]))
    if kind not in errors:
        return None
    quote = _quote(data[8:], packet.version)
    if quote is None:
        return None
    if packet.version == 4 and kind == 3:
        if code == 4:
            return Message(Kind.TOO_BIG, mtu=data[6] << 8 | data[7], quote=quote)
        return Message(Kind.ERROR, error=_UNREACHABLE4.get(code, _HOST), quote=quote)
    if packet.version == 6 and kind == 2:
        return Message(Kind.TOO_BIG, mtu=int.from_bytes(data[4:8], "big"), quote=quote)
    if packet.version == 6 and kind == 1:
        return Message(Kind.ERROR, error=_UNREACHABLE6.get(code, _HOST), quote=quote)
    problem = kind == 12 if packet.version == 4 else kind == 4
    return Message(Kind.ERROR, error=errno.EPROTO if problem else _HOST, quote=quote)


def _quote(data: memoryview, version: int) -> Quote | None:
    """Read a quoted packet, which is cut short and whose length field tells of what it was."""
    header = 20 if version == 4 else 40
    if len(data) < header + 8 or data[0] >> 4 != version:
        return None
    patched = bytearray(data)
    if version == 4:
        patched[2:4] = len(patched).to_bytes(2, "big")
    else:
        patched[4:6] = (len(patched) - 40).to_bytes(2, "big")
    packet = parse(memoryview(patched))
    if packet is None or len(packet.payload) < 8 or (packet.fragment and packet.fragment.offset):
        return None
    body = packet.payload
    first, second = body[0] << 8 | body[1], body[2] << 8 | body[3]
    sequence = int.from_bytes(body[4:8], "big")
    if packet.protocol in (ICMP, ICMPV6):
        first, second, sequence = body[4] << 8 | body[5], 0, body[6] << 8 | body[7]
    elif packet.protocol not in (TCP, UDP):
        return None
    return Quote(packet.protocol, packet.source, packet.destination, first, second, sequence)


def echo(route: Route, identifier: int, sequence: int, data: bytes, *, reply: bool) -> bytes:
    """Return an echo message without its IP header."""
    kind = (0 if reply else 8) if route.version == 4 else (129 if reply else 128)
    rest = identifier.to_bytes(2, "big") + sequence.to_bytes(2, "big") + data
    return _summed(route, kind, 0, rest)


def error(route: Route, kind: int, code: int, word: int, about: Packet) -> Outgoing:
    """Return an error about a packet that arrived."""
    most = _V4_QUOTE if route.version == 4 else _V6_QUOTE
    body = _summed(route, kind, code, word.to_bytes(4, "big") + bytes(about.whole[:most]))
    protocol = ICMP if route.version == 4 else ICMPV6
    return Outgoing(route.header(protocol, len(body), identification=0), body)


def port_unreachable(route: Route, about: Packet) -> Outgoing:
    """Nobody has this port."""
    return error(route, *((3, 3) if route.version == 4 else (1, 4)), 0, about)


def protocol_unreachable(route: Route, about: Packet) -> Outgoing:
    """Nobody speaks this protocol; in IPv6 the offending field is named (RFC 4443, 3.4)."""
    if route.version == 4:
        return error(route, 3, 2, 0, about)
    return error(route, 4, 1, max(about.problem - 1, 0), about)


def reassembly_timed_out(route: Route, about: Packet) -> Outgoing:
    """Its other fragments did not come."""
    return error(route, *((11, 1) if route.version == 4 else (3, 1)), 0, about)


def _summed(route: Route, kind: int, code: int, rest: bytes) -> bytes:
    start = 0 if route.version == 4 else route.pseudo(ICMPV6, len(rest) + 4)
    body = bytes((kind, code, 0, 0)) + rest
    return body[:2] + checksum(body, start).to_bytes(2, "big") + rest
