"""SYN cookies: a flood of SYNs costs no memory (RFC 4987, section 3.6).

When too many handshakes are half done, the answer to a SYN is kept nowhere: the initial sequence
number of the SYN,ACK proves itself when the third segment returns it, and the low bits of our
timestamp, which come back too, hold the options of the SYN. `open_` gives the SYN again, as far as
it matters, so that a connection begins from a cookie exactly as it does from a kept SYN.
"""

from __future__ import annotations

from hashlib import blake2s
from typing import Final, NamedTuple

from tunnel.netstack.rtt import MILLISECOND, SECOND
from tunnel.netstack.segment import ACK, RST, SYN, Options, Segment

_SLOT: Final = 64 * SECOND
_SLOTS_VALID: Final = 2
VALID: Final = _SLOTS_VALID * _SLOT
_MSS: Final = (88, 536, 1220, 1300, 1360, 1380, 1440, 1460)
_NO_SHIFT: Final = 15
_STAMP_BITS: Final = 6


class Offer(NamedTuple):
    """What our own SYN,ACK says."""

    mss: int
    shift: int | None
    selective: bool
    window: int
    clock_offset: int


class Cookies:
    """Made from one secret of 32 random bytes."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def _sum(self, flow: bytes, sequence: int, slot: int, index: int) -> int:
        text = (
            flow
            + sequence.to_bytes(4, "big")
            + slot.to_bytes(8, "big", signed=True)
            + bytes((index,))
        )
        digest = blake2s(text, key=self._secret, person=b"cookie", digest_size=4).digest()
        return int.from_bytes(digest, "big") & 0xFFFFFFF8

    def answer(self, flow: bytes, syn: Segment, offer: Offer, now: int) -> Segment:
        """Return the SYN,ACK."""
        asked, index = syn.options, 0
        for i, size in enumerate(_MSS):
            if size <= (536 if asked.mss is None else asked.mss):
                index = i
        iss = self._sum(flow, syn.sequence, now // _SLOT, index) | index
        stamp = None
        shift, selective = None, False
        if asked.timestamp is not None:
            shift, selective = asked.window_shift, asked.sack_permitted and offer.selective
            low = (_NO_SHIFT if shift is None else shift) << 2 | selective << 1
            tick = now // MILLISECOND + offer.clock_offset
            stamp = ((tick >> _STAMP_BITS << _STAMP_BITS | low) & 0xFFFFFFFF, asked.timestamp[0])
        options = Options(
            mss=offer.mss,
            window_shift=offer.shift if shift is not None else None,
            sack_permitted=selective,
            timestamp=stamp,
        )
        return Segment(
            syn.destination_port, syn.source_port, iss, (syn.sequence + 1) & 0xFFFFFFFF,
            SYN | ACK, min(offer.window, 0xFFFF), options,
        )  # fmt: skip

    def open_(self, flow: bytes, ack: Segment, now: int) -> tuple[int, Segment] | None:
        """Return our sequence number and the SYN that a cookie stands for; None for a forgery."""
        if ack.flags & (SYN | RST) or not ack.flags & ACK:
            return None
        iss = (ack.acknowledgment - 1) & 0xFFFFFFFF
        sequence = (ack.sequence - 1) & 0xFFFFFFFF
        index = iss & 7
        slot = now // _SLOT
        known = (self._sum(flow, sequence, slot - age, index) for age in range(_SLOTS_VALID))
        if (iss & 0xFFFFFFF8) not in known:
            return None
        stamp = ack.options.timestamp
        shift, selective = None, False
        if stamp is not None:
            low = stamp[1] & ((1 << _STAMP_BITS) - 1)
            coded = low >> 2
            shift, selective = (None if coded == _NO_SHIFT else min(coded, 14)), bool(low & 2)
        options = Options(
            mss=_MSS[index], window_shift=shift, sack_permitted=selective,
            timestamp=None if stamp is None else (stamp[0], 0),
        )  # fmt: skip
        syn = Segment(ack.source_port, ack.destination_port, sequence, 0, SYN, ack.window, options)
        return iss, syn
