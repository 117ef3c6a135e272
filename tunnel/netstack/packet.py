"""A TCP segment as the IP packet, or unit of packets, that leaves."""

from __future__ import annotations

import struct
from typing import Final

from tunnel.netstack.ip import ECT0, HOPS, TCP, Outgoing, Route, total_of
from tunnel.netstack.segment import STAMP_LEAD, STAMPED_OFFSET, Segment, is_stamped, render_header

_CHECKSUM: Final = 16  # the field's offset in the header
#: IPv4 and TCP with a timestamp as its only option, as on nearly every segment: IP's first 16 bits,
#: length, no identification, "don't fragment", hops and protocol, checksum, addresses; then TCP's.
_STAMPED4: Final = struct.Struct("!HHIHH4s4sHHIIBBHHHIII")
_LENGTH: Final = 52
_IP_LENGTH: Final = 20
_DF: Final = 0x4000
_LEAD: Final = HOPS << 8 | TCP
_make: Final = tuple.__new__  # as in segment.py


def render(route: Route, segment: Segment) -> Outgoing:
    """Return the packet, or unit, of a segment; its checksum is completed by the native core."""
    if route.version == 4 and is_stamped(segment.options):
        return _stamped(route, segment)
    return route.transport(
        TCP,
        render_header(segment),
        segment.payload,
        _CHECKSUM,
        ds=ECT0 if segment.capable else 0,
        segment=segment.cut,
    )


def _stamped(route: Route, segment: Segment) -> Outgoing:
    """The same in one piece, for what leaves most."""
    source, destination, sequence, ack, flags, window, options, payload, _, capable, cut, urgent = (
        segment
    )
    timestamp = options.timestamp
    assert timestamp is not None
    value, echo = timestamp
    total = _LENGTH + len(payload)
    first = 0x4502 if capable else 0x4500
    header = _STAMPED4.pack(
        first, total, _DF, _LEAD, ~total_of(route.sum + first + total + _DF + _LEAD) & 0xFFFF,
        route.source, route.destination,
        source, destination, sequence, ack, STAMPED_OFFSET, flags, window,
        total_of(route.sum + TCP + total - _IP_LENGTH), urgent, STAMP_LEAD, value, echo,
    )  # fmt: skip
    return _make(Outgoing, (header, payload, cut, _IP_LENGTH, _CHECKSUM))
