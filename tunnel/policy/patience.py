"""Patience: how long to wait before putting back what another program keeps removing. Pure.

The first few times there is no wait: a program that removes our rules once, at its own start, must
not open a gap. One that does it again each time is fought at a growing interval, so that the two do
not burn the processor between them.
"""

from __future__ import annotations

from collections import deque

FREE = 4
"""So many times in WINDOW cost no wait."""
WINDOW = 30.0
FIRST_WAIT = 0.25
LONGEST_WAIT = 5.0


class Patience:
    """Counts what was put back, in seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def put_back(self, now: float) -> bool:
        """Note that something was put back; True where the fight began to be one just now."""
        self._forget(now)
        self._times.append(now)
        return len(self._times) == FREE + 1

    def wait(self, now: float) -> float:
        """Return the seconds to wait from now until putting back again."""
        self._forget(now)
        over = len(self._times) - FREE
        if over < 0:
            return 0.0
        interval = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(over, 8))
        return max(0.0, self._times[-1] + interval - now)

    def _forget(self, now: float) -> None:
        while self._times and not now - WINDOW <= self._times[0] <= now:
            self._times.popleft()
