"""HyStart++ (RFC 9406): leave slow start when the round-trip time rises, before the loss.

A round's minimum RTT is compared with the round before. A rise sends slow start into conservative
slow start (CSS) for five rounds; if the rise was false, slow start goes on, otherwise congestion
avoidance begins.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

_MILLISECOND: Final = 1_000_000
# RFC 9406, section 4.3
MIN_RTT_THRESHOLD: Final = 4 * _MILLISECOND
MAX_RTT_THRESHOLD: Final = 16 * _MILLISECOND
MIN_RTT_DIVISOR: Final = 8
RTT_SAMPLES: Final = 8
CSS_GROWTH_DIVISOR: Final = 4
CSS_ROUNDS: Final = 5


class Phase(Enum):
    """Where slow start stands."""

    SLOW_START = "slow start"
    CONSERVATIVE = "conservative slow start"
    DONE = "congestion avoidance"


class HyStart:
    """One connection's slow-start exit."""

    __slots__ = (
        "_baseline",
        "_last_minimum",
        "_minimum",
        "_round_end",
        "_rounds",
        "_samples",
        "phase",
    )

    def __init__(self) -> None:
        self.phase = Phase.SLOW_START
        self._round_end = 0
        self._last_minimum = 0
        self._minimum = 0
        self._samples = 0
        self._baseline = 0
        self._rounds = 0

    def on_ack(self, rtt: int, cumulative: int, next_sequence: int) -> Phase:
        """Take one sample (0 for none) and return the phase that follows from it."""
        if self.phase is Phase.DONE:
            return self.phase
        if rtt:
            self._minimum = min(self._minimum, rtt) if self._minimum else rtt
            self._samples += 1
        if self._samples >= RTT_SAMPLES and self._minimum:
            if self.phase is Phase.SLOW_START and self._last_minimum:
                threshold = max(
                    MIN_RTT_THRESHOLD,
                    min(self._last_minimum // MIN_RTT_DIVISOR, MAX_RTT_THRESHOLD),
                )
                if self._minimum >= self._last_minimum + threshold:
                    self.phase = Phase.CONSERVATIVE
                    self._baseline = self._minimum
                    self._rounds = 0
            elif self.phase is Phase.CONSERVATIVE and self._minimum < self._baseline:
                self.phase = Phase.SLOW_START
                self._baseline = 0
        if cumulative >= self._round_end:
            self._start_round(next_sequence)
        return self.phase

    def growth(self, acked: int) -> int:
        """Return how much the window may grow for `acked` bytes (section 4.2)."""
        return acked // CSS_GROWTH_DIVISOR if self.phase is Phase.CONSERVATIVE else acked

    def stop(self) -> None:
        """Slow start ended by loss or ECN: HyStart++ serves the initial one only."""
        self.phase = Phase.DONE

    def _start_round(self, next_sequence: int) -> None:
        if self.phase is Phase.CONSERVATIVE:
            self._rounds += 1
            if self._rounds >= CSS_ROUNDS:  # the one that it began in counts
                self.phase = Phase.DONE
        self._round_end = next_sequence
        self._last_minimum = self._minimum
        self._minimum = 0
        self._samples = 0
