"""IP headers: reading what arrives, and a route's header for what leaves (RFC 791, RFC 8200).

Inside the stack an address is its packed bytes, and a flow is known by the bytes that name it on
the wire: addresses and ports, which lie side by side in most packets. Checksums of transports are
the native core's work: what leaves carries the sum of its pseudo-header only, and what arrives has
been verified.
"""

from __future__ import annotations

import struct
from builtins import memoryview  # mypyc looks for it here
from typing import Final, NamedTuple

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ICMPV6: Final = 58
_HOP_BY_HOP: Final = 0
_ROUTING: Final = 43
_FRAGMENT: Final = 44
_DESTINATION: Final = 60
_SKIPPED: Final = frozenset({_HOP_BY_HOP, _DESTINATION, _ROUTING})
_MAX_EXTENSIONS: Final = 8
HEADER_BYTES: Final = {4: 20, 6: 40}
HOPS: Final = 64
ECT0: Final = 2
CE: Final = 3
_DF: Final = 0x4000

_V4: Final = struct.Struct("!BBHHHBBH4s4s")
_V6: Final = struct.Struct("!IHBB16s16s")
_V4_LEAD: Final = struct.Struct("!BBHHHBBH")


class Fragment(NamedTuple):
    """Where a fragment belongs: offset in bytes, `more` where others follow."""

    identification: int
    offset: int
    more: bool


class Packet(NamedTuple):
    """One IP packet that arrived. `payload` follows the headers; `whole` is all of it."""

    version: int
    source: bytes
    destination: bytes
    protocol: int
    ds: int
    payload: memoryview
    whole: memoryview
    fragment: Fragment | None = None
    problem: int = 0  # 1 + offset of a next header field that nothing can be done with


class Outgoing(NamedTuple):
    """One packet, or one unit, that leaves.

    `transport` is where the transport header begins in `header` and `checksum` its checksum
    field's offset from there; the field holds the pseudo-header's sum. 0: the packet is complete.
    """

    header: bytes | bytearray
    payload: bytes | memoryview
    segment: int = 0
    transport: int = 0
    checksum: int = 0


def total_of(sum_: int) -> int:
    """Fold a sum of 16-bit words into one (RFC 1071)."""
    while sum_ >> 16:
        sum_ = (sum_ & 0xFFFF) + (sum_ >> 16)
    return sum_


def words(data: bytes | bytearray | memoryview) -> int:
    """Return the folded one's complement sum of the data."""
    if len(data) % 2:
        data = bytes(data) + b"\0"
    # 2**16 is 1 modulo 65535, so one big number adds up all its words at once.
    value = int.from_bytes(data, "big")
    return (value % 0xFFFF or 0xFFFF) if value else 0


def checksum(data: bytes | bytearray | memoryview, start: int = 0) -> int:
    """Return the internet checksum of the data, with `start` added before (RFC 1071)."""
    return ~total_of(words(data) + start) & 0xFFFF


class Route:
    """From one of our addresses to another: makes IP headers."""

    __slots__ = ("destination", "mtu", "source", "sum", "version")

    def __init__(self, source: bytes, destination: bytes, mtu: int) -> None:
        self.version = 4 if len(source) == 4 else 6
        self.source = source
        self.destination = destination
        self.mtu = mtu
        self.sum = words(source + destination)  # of the addresses, for checksums

    def pseudo(self, protocol: int, length: int) -> int:
        """Return the folded sum of the pseudo-header (RFC 9293, section 3.1; RFC 8200, 8.1)."""
        return total_of(self.sum + protocol + length)

    def header(
        self, protocol: int, length: int, ds: int = 0, identification: int = -1, hops: int = HOPS
    ) -> bytes:
        """Return the IP header for `length` bytes behind it.

        IPv4: with an identification the packet may be fragmented, without one it carries DF
        (RFC 6864).
        """
        if self.version == 6:
            return _V6.pack(
                0x60000000 | ds << 20, length, protocol, hops, self.source, self.destination
            )
        total = length + 20
        flags = _DF if identification < 0 else 0
        ident = max(identification, 0)
        lead = hops << 8 | protocol
        sum_ = ~total_of(self.sum + 0x4500 + ds + total + ident + flags + lead) & 0xFFFF
        return _V4.pack(
            0x45, ds, total, ident, flags, hops, protocol, sum_, self.source, self.destination
        )

    def transport(
        self,
        protocol: int,
        header: bytes,
        payload: bytes | memoryview,
        field: int,
        *,
        ds: int = 0,
        segment: int = 0,
        identification: int = -1,
    ) -> Outgoing:
        """Return the packet of a transport header whose checksum `field` is left open."""
        length = len(header) + len(payload)
        ip = self.header(protocol, length, ds, identification)
        whole = bytearray(ip + header)
        start = len(ip)
        sum_ = total_of(self.sum + protocol + length)
        whole[start + field : start + field + 2] = sum_.to_bytes(2, "big")
        return Outgoing(whole, payload, segment, start, field)


def parse(data: memoryview) -> Packet | None:
    """Read the headers of an IP packet; None when it is malformed or makes no sense."""
    if len(data) < 20:
        return None
    if data[0] >> 4 == 4:
        return _parse4(data)
    if data[0] >> 4 == 6 and len(data) >= 40:
        return _parse6(data)
    return None


def _parse4(data: memoryview) -> Packet | None:
    lead, ds, total, ident, flags, _, protocol, _ = _V4_LEAD.unpack_from(data)
    header = (lead & 15) * 4
    if header < 20 or total < header or total > len(data):
        return None
    fragment = None
    if flags & 0x3FFF:
        fragment = Fragment(ident, (flags & 0x1FFF) * 8, bool(flags & 0x2000))
    return Packet(
        4, bytes(data[12:16]), bytes(data[16:20]), protocol, ds, data[header:total], data[:total],
        fragment,
    )  # fmt: skip


def _parse6(data: memoryview) -> Packet | None:
    lead, length, following, _, source, destination = _V6.unpack_from(data)
    total = 40 + length
    if total > len(data):
        return None
    at, field = 40, 6
    fragment = None
    for _ in range(_MAX_EXTENSIONS):
        if following in _SKIPPED:
            if at + 8 > total or (following == _ROUTING and data[at + 3]):
                return None
            size = 8 + 8 * data[at + 1]
        elif following == _FRAGMENT:
            if at + 8 > total or fragment is not None:
                return None
            place = data[at + 2] << 8 | data[at + 3]
            ident = int.from_bytes(data[at + 4 : at + 8], "big")
            fragment = Fragment(ident, place & 0xFFF8, bool(place & 1))
            size = 8
        else:
            break
        field, following, at = at, data[at], at + size
        if at > total:
            return None
        if fragment is not None:
            break  # what follows is read once the pieces are together
    problem = 0 if following in (TCP, UDP, ICMPV6) or fragment is not None else 1 + field
    return Packet(
        6, source, destination, following, lead >> 20 & 0xFF, data[at:total], data[:total],
        fragment, problem,
    )  # fmt: skip


def flow_key(packet: Packet) -> bytes:
    """Return what names a TCP or UDP flow: both addresses and both ports, as on the wire."""
    return packet.source + packet.destination + bytes(packet.payload[:4])
