"""When the next unit may leave, at a sender's rate: not all that a window allows at once.

What leaves at once lasts about a millisecond: at low rates a unit of a few segments, at middle ones
a larger unit, at high ones several of the largest, since a timer for each would cost as much as
what it lets go.
"""

from __future__ import annotations

from typing import Final

from tunnel.netstack.rtt import MILLISECOND, SECOND

MAX_UNIT: Final = 65_000  # payload bytes of one unit, so that headers fit into 65535
_BURST: Final = MILLISECOND
_LATE: Final = 2 * MILLISECOND  # what a caller may be late without loss of rate: timers are coarse


def quantum(rate: int, segment: int) -> int:
    """Return the bytes of a unit at a rate (bytes a second, 0 for unpaced), whole segments."""
    size = rate * _BURST // SECOND if rate else MAX_UNIT
    if size >= MAX_UNIT:
        size = MAX_UNIT
    elif size < 2 * segment:
        size = 2 * segment
    return size - size % segment or segment


class Pacer:
    """`at`: when everything that left has lasted. `held`: the last attempt came too early.

    `waits`: pacing alone keeps something back. If the caller then comes late, that time is lost.
    """

    __slots__ = ("_lead", "at", "held", "waits")

    def __init__(self) -> None:
        self.at = 0
        self._lead = 0  # how much before `at` the rest of a burst may leave
        self.held = self.waits = False

    def holds(self, now: int) -> bool:
        """Whether nothing may leave yet."""
        if self.at > now + self._lead:
            self.held = self.waits = True
            return True
        self.held = False
        return False

    def count(self, length: int, rate: int, now: int) -> int:
        """A unit leaves at a rate above 0; return how much time the caller has lost before it."""
        lasts = length * SECOND // rate
        earliest = now - _LATE
        at = self.at
        lost = 0
        if at < earliest:
            if self.waits:
                lost = earliest - at
            at = earliest
        self.waits = False
        self.at = at + lasts
        self._lead = _BURST - lasts if 2 * length >= MAX_UNIT and lasts < _BURST else 0
        return lost
