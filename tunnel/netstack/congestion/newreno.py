"""NewReno (RFC 5681, RFC 6582; appropriate byte counting of RFC 3465): the simplest of the three.

Recovery itself, which retransmits and holds the window through PRR, is the connection's; what is
here is how the window grows and by how much it falls.
"""

from __future__ import annotations

from tunnel.netstack.congestion.control import MINIMUM_SEGMENTS, AckSample
from tunnel.netstack.congestion.lossbased import LossBased


class NewReno(LossBased):
    """Additive increase by a segment a round, halving at congestion."""

    __slots__ = ("_credit", "_undo")

    def __init__(self, segment_size: int) -> None:
        super().__init__(segment_size)
        self._credit = 0  # bytes acknowledged towards the next increment
        self._undo: tuple[int, int] | None = None

    def on_restart(self, now: int, *, app_limited: bool) -> None:
        """Nothing to learn."""

    def on_ack(self, sample: AckSample) -> None:
        """Grow in slow start or congestion avoidance, where the window was in fact used."""
        if sample.in_recovery or 2 * sample.prior_in_flight < self.window:
            return
        if self.window < self.threshold:
            self.window += min(sample.acked, 2 * self.segment_size)
            return
        self._credit += sample.acked
        if self._credit >= self.window:
            self._credit -= self.window
            self.window += self.segment_size

    def on_congestion(self, now: int, in_flight: int, next_sequence: int) -> None:
        """Halve what is in flight (RFC 5681, equation 4)."""
        self._undo = self.window, self.threshold
        self.threshold = max(in_flight // 2, MINIMUM_SEGMENTS * self.segment_size)
        self.window = self.threshold
        self._credit = 0

    def on_timeout(self, now: int, flight_size: int, in_flight: int) -> None:
        """Start again from one segment (RFC 5681, section 3.1)."""
        self._undo = self.window, self.threshold
        self.threshold = max(flight_size // 2, MINIMUM_SEGMENTS * self.segment_size)
        self.window = in_flight + self.segment_size
        self._credit = 0

    def on_spurious(self) -> None:
        """Take back the last reduction."""
        if self._undo is not None:
            window, self.threshold = self._undo
            self.window = max(self.window, window)
            self._undo = None
