"""Proportional rate reduction (RFC 9937): how much may leave at each acknowledgment in recovery.

Sending is spread over the round so that what is in flight ends at ssthresh, without bursts and
without a pause; when losses took it below ssthresh, it is rebuilt as fast as slow start at most.
"""

from __future__ import annotations


class ProportionalRateReduction:
    """One recovery episode. Bytes throughout."""

    __slots__ = ("_flight_at_start", "_segment", "_threshold", "delivered", "sent")

    def __init__(self, in_flight: int, threshold: int, segment: int) -> None:
        self._flight_at_start = max(in_flight, 1)  # RecoverFS
        self._threshold = threshold
        self._segment = segment
        self.delivered = 0
        self.sent = 0

    def allowance(self, delivered: int, in_flight: int, *, safe: bool) -> int:
        """Return how many bytes may be sent for an acknowledgment of `delivered` bytes.

        `safe`: the acknowledgment moved SND.UNA and showed no further loss (SafeACK).
        """
        self.delivered += delivered
        if in_flight > self._threshold:
            target = -(-self.delivered * self._threshold // self._flight_at_start)
            count = max(target - self.sent, 0)
        else:
            count = max(self.delivered - self.sent, delivered)
            if safe:
                count += self._segment
            count = min(count, max(self._threshold - in_flight, 0))
        return count if self.sent else max(count, self._segment)  # the fast retransmission
