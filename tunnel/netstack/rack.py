"""Loss detection by time: RACK, and tail loss probes (RFC 8985).

A record is lost when one that was sent after it has been delivered and enough time has passed for
mere reordering. The time allowed (the reordering window) starts at zero while no reordering was
seen, and widens when a DSACK shows that a retransmission was needless.
"""

from __future__ import annotations

from typing import Final

from tunnel.netstack.flight import Flight, Sent
from tunnel.netstack.rtt import MILLISECOND, RoundTrip

DUPLICATE_THRESHOLD: Final = 3
WINDOW_MULTIPLIER_MAX: Final = 16
_PERSISTENCE: Final = 16  # recoveries that a widened window lasts
MAX_ACK_DELAY: Final = 200 * MILLISECOND  # of the peer: section 7.2


class Rack:
    """RACK's state (section 5.2) and its steps 1 to 5 (section 6.2)."""

    __slots__ = (
        "_dsack_round", "_multiplier", "_persist", "end", "forward", "reordering_seen", "rtt",
        "sent_at",
    )  # fmt: skip

    def __init__(self) -> None:
        self.sent_at = 0  # of the newest record delivered: RACK.xmit_ts
        self.end = 0  # its end: RACK.end_seq
        self.rtt = 0
        self.forward = 0  # RACK.fack: the highest position delivered
        self.reordering_seen = False
        self._multiplier = 1
        self._persist = _PERSISTENCE
        self._dsack_round: int | None = None

    def delivered(self, record: Sent, now: int, trip: RoundTrip, echoed_at: int) -> None:
        """Steps 1 to 3: learn of one newly delivered record. `echoed_at` 0: no echo that counts."""
        rtt = now - record.sent_at
        if record.transmissions > 1 and (
            0 < echoed_at < record.sent_at - MILLISECOND or (trip.minimum and rtt < trip.minimum)
        ):
            return  # an acknowledgment of an earlier transmission
        if record.end > self.forward:
            self.forward = record.end
        elif record.end < self.forward and record.transmissions == 1:
            self.reordering_seen = True
        if (record.sent_at, record.end) > (self.sent_at, self.end):
            self.sent_at = record.sent_at
            self.end = record.end
            self.rtt = rtt

    def duplicate_seen(self, una: int, nxt: int) -> None:
        """Step 4: a DSACK widens the window, once a round."""
        if self._dsack_round is None or una >= self._dsack_round:
            self._dsack_round = nxt
            self._multiplier = min(self._multiplier + 1, WINDOW_MULTIPLIER_MAX)
            self._persist = _PERSISTENCE

    def recovery_ended(self) -> None:
        """Step 4: the window narrows again after some recoveries without a DSACK."""
        self._persist -= 1
        if self._persist <= 0:
            self._multiplier = 1

    def window(self, flight: Flight, trip: RoundTrip, *, recovering: bool, segment: int) -> int:
        """Step 4: the reordering window now."""
        if not self.reordering_seen and (
            recovering or flight.sacked >= DUPLICATE_THRESHOLD * segment
        ):
            return 0
        return min(self._multiplier * trip.minimum // 4, trip.smoothed)

    def timed_out(self, flight: Flight, now: int, trip: RoundTrip, *, segment: int) -> list[Sent]:
        """Mark losses as the timer fires (section 6.3): the first, and what had time to arrive."""
        allowed = self.rtt + self.window(flight, trip, recovering=True, segment=segment)
        lost: list[Sent] = []
        for record in flight:
            if (
                not record.sacked
                and not record.lost
                and (not lost or record.sent_at + allowed <= now)
            ):
                flight.mark_lost(record)
                lost.append(record)
        return lost

    def detect(
        self, flight: Flight, now: int, trip: RoundTrip, *, recovering: bool, segment: int
    ) -> tuple[list[Sent], int]:
        """Step 5: mark losses. Return them, and how long until more may be lost (0: no timer)."""
        lost: list[Sent] = []
        wait = 0
        if not self.sent_at:
            return lost, wait
        allowed = self.rtt + self.window(flight, trip, recovering=recovering, segment=segment)
        newest = self.sent_at, self.end
        for record in flight:
            if record.sacked or record.lost or (record.sent_at, record.end) >= newest:
                continue
            remaining = record.sent_at + allowed - now
            if remaining <= 0:
                flight.mark_lost(record)
                lost.append(record)
            else:
                wait = max(wait, remaining)
        return lost, wait
