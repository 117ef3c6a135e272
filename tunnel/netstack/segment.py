"""TCP segments and their options as they lie on the wire (RFC 9293, section 3.1).

A segment here may be a *unit*: consecutive segments of one flow that the native core coalesced,
or that it will cut, so `payload` can be up to 64 KB. Sequence numbers are the wire's 32 bits;
a connection unwraps them.
"""

from __future__ import annotations

import struct
from enum import IntFlag
from typing import Final, NamedTuple

HEADER_BYTES: Final = 20
MAX_WINDOW_SHIFT: Final = 14  # RFC 7323, section 2.3

_HEADER: Final = struct.Struct("!HHIIBBHHH")
_TIMESTAMPS: Final = struct.Struct("!BBBBII")
_EDGE: Final = struct.Struct("!II")
#: A header whose only option is the timestamp, as on nearly every segment: the header up to the
#: window, checksum and urgent pointer as one, two NOPs with the option's kind and length as one.
_STAMPED: Final = struct.Struct("!HHIIBBHIIII")
_STAMPED_BYTES: Final = 32
STAMP_LEAD: Final = 0x0101080A
STAMPED_OFFSET: Final = 0x80

_END: Final = 0
_NOP: Final = 1
_MSS: Final = 2
_WINDOW_SHIFT: Final = 3
_SACK_PERMITTED: Final = 4
_SACK: Final = 5
_TIMESTAMP: Final = 8
_USER_TIMEOUT: Final = 28  # RFC 5482
_FIXED_LENGTHS: Final = {
    _MSS: 4,
    _WINDOW_SHIFT: 3,
    _SACK_PERMITTED: 2,
    _TIMESTAMP: 10,
    _USER_TIMEOUT: 4,
}


# Control bits (RFC 9293) and the two of ECN (RFC 3168). Numbers, since compiled code has them in
# place, and looks up the members of an enum each time.
FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10
URG: Final = 0x20
ECE: Final = 0x40
CWR: Final = 0x80


class Flag(IntFlag):
    """The control bits by name."""

    FIN = FIN
    SYN = SYN
    RST = RST
    PSH = PSH
    ACK = ACK
    URG = URG
    ECE = ECE
    CWR = CWR


_make: Final = tuple.__new__  # a NamedTuple from a tuple: half the cost of calling its class
_LENGTH: Final = (0, 1, 1, 2)  # of the control bits FIN and SYN, the lowest two


class Options(NamedTuple):
    """The options that the stack knows; others are skipped (RFC 9293, section 3.1)."""

    mss: int | None = None
    window_shift: int | None = None
    sack_permitted: bool = False
    timestamp: tuple[int, int] | None = None  # TSval, TSecr
    sack: tuple[tuple[int, int], ...] = ()
    user_timeout: int | None = None  # seconds

    def render(self) -> bytes:
        """Return the options padded to a multiple of four, in the order that Linux uses."""
        parts: list[bytes] = []
        if self.mss is not None:
            parts.append(struct.pack("!BBH", _MSS, 4, self.mss))
        if self.timestamp is not None:
            lead = (_SACK_PERMITTED, 2) if self.sack_permitted else (_NOP, _NOP)
            parts.append(_TIMESTAMPS.pack(*lead, _TIMESTAMP, 10, *self.timestamp))
        elif self.sack_permitted:
            parts.append(bytes((_NOP, _NOP, _SACK_PERMITTED, 2)))
        if self.window_shift is not None:
            parts.append(bytes((_NOP, _WINDOW_SHIFT, 3, self.window_shift)))
        if self.sack:
            parts.append(bytes((_NOP, _NOP, _SACK, 2 + 8 * len(self.sack))))
            parts += [_EDGE.pack(left, right) for left, right in self.sack]
        if self.user_timeout is not None:
            seconds = self.user_timeout
            coded = seconds if seconds < 0x8000 else 0x8000 | min(seconds // 60, 0x7FFF)
            parts.append(struct.pack("!BBH", _USER_TIMEOUT, 4, coded))
        return b"".join(parts)


NO_OPTIONS: Final = Options()


class Segment(NamedTuple):
    """One segment, or one unit of equal segments.

    `congested` tells that the IP header carried CE; `capable` that it is to carry ECT(0). `cut` is
    the payload of each segment that a unit is to be cut into; with 0 it leaves whole. `urgent` is
    the urgent pointer: with URG, how far behind `sequence` the urgent data ends.
    `payload` of a received one may be kept where it is read-only: whoever hands it in does not
    reuse that memory. A writable one is copied.
    """

    source_port: int
    destination_port: int
    sequence: int
    acknowledgment: int
    flags: int
    window: int
    options: Options = NO_OPTIONS
    payload: bytes | memoryview = b""
    congested: bool = False
    capable: bool = False
    cut: int = 0
    urgent: int = 0

    @property
    def length(self) -> int:
        """Sequence space taken: the payload, and one each for SYN and FIN (SEG.LEN)."""
        return len(self.payload) + _LENGTH[self.flags & 3]


def parse(data: memoryview, *, congested: bool = False) -> Segment | None:
    """Read a TCP header and its payload; None when it is malformed. Checksums come verified."""
    size = len(data)
    if size >= _STAMPED_BYTES:
        source, destination, sequence, ack, offset, flags, window, sums, lead, value, echo = (
            _STAMPED.unpack_from(data)
        )
        if lead == STAMP_LEAD and offset & 0xF0 == 0x80:
            options = _make(Options, (None, None, False, (value, echo), (), None))
            return _make(
                Segment,
                (source, destination, sequence, ack, flags, window, options,
                 data[_STAMPED_BYTES:], congested, False, 0, sums & 0xFFFF),
            )  # fmt: skip
    if size < HEADER_BYTES:
        return None
    source, destination, sequence, ack, offset, flags, window, _, urgent = _HEADER.unpack_from(data)
    header = (offset >> 4) * 4
    if header < HEADER_BYTES or header > size:
        return None
    options = NO_OPTIONS if header == HEADER_BYTES else parse_options(data[HEADER_BYTES:header])
    return Segment(
        source, destination, sequence, ack, flags, window, options, data[header:], congested,
        urgent=urgent,
    )  # fmt: skip


def parse_options(data: memoryview | bytes) -> Options:
    """Read the option bytes. A malformed option ends the reading; those before it count."""
    mss: int | None = None
    shift: int | None = None
    permitted = False
    timestamp: tuple[int, int] | None = None
    sack: tuple[tuple[int, int], ...] = ()
    timeout: int | None = None
    at = 0
    while at < len(data):
        kind = data[at]
        if kind == _END:
            break
        if kind == _NOP:
            at += 1
            continue
        if at + 1 >= len(data):
            break
        size = data[at + 1]
        if size < 2 or at + size > len(data) or _FIXED_LENGTHS.get(kind, size) != size:
            break
        if kind == _MSS:
            mss = data[at + 2] << 8 | data[at + 3]
        elif kind == _WINDOW_SHIFT:
            shift = min(data[at + 2], MAX_WINDOW_SHIFT)
        elif kind == _SACK_PERMITTED:
            permitted = True
        elif kind == _TIMESTAMP:
            value, echo = _EDGE.unpack_from(data, at + 2)
            timestamp = (value, echo)
        elif kind == _SACK and (size - 2) % 8 == 0:
            sack = tuple(
                (left, right) for left, right in _EDGE.iter_unpack(bytes(data[at + 2 : at + size]))
            )
        elif kind == _USER_TIMEOUT:
            coded = data[at + 2] << 8 | data[at + 3]
            timeout = (coded & 0x7FFF) * (60 if coded & 0x8000 else 1)
        at += size
    return Options(mss, shift, permitted, timestamp, sack, timeout)


def is_stamped(options: Options) -> bool:
    """Whether a timestamp is all that the options are."""
    mss, shift, permitted, timestamp, sack, timeout = options
    return timestamp is not None and not sack and mss is shift is timeout is None and not permitted


def render_header(segment: Segment) -> bytes:
    """Return the TCP header with its options; the checksum is left to the native core."""
    source, destination, sequence, ack, flags, window, options, _, _, _, _, urgent = segment
    if options is NO_OPTIONS:
        return _HEADER.pack(source, destination, sequence, ack, 0x50, flags, window, 0, urgent)
    timestamp = options.timestamp
    if timestamp is not None and is_stamped(options):
        value, echo = timestamp
        return _STAMPED.pack(
            source, destination, sequence, ack, STAMPED_OFFSET, flags, window, urgent, STAMP_LEAD,
            value, echo,
        )  # fmt: skip
    rendered = options.render()
    offset = (HEADER_BYTES + len(rendered)) // 4 << 4
    header = source, destination, sequence, ack, offset, flags, window, 0, urgent
    return _HEADER.pack(*header) + rendered
