"""The path's segment size, found by trying (RFC 4821): for where no ICMP message comes through.

A search is on while the size in use is below the largest that might pass. A probe is one segment
larger than the rest, sent when much else is in flight, so that its loss shows by SACK and costs
nothing but itself. It begins with the largest size and then bisects; what failed is tried again
after ten minutes. Sizes are payload bytes of a segment, times nanoseconds.

The other way round, a path that goes silent under large segments may be a black hole: at the third
timeout in a row the size falls to the next of three that nearly every path takes.
"""

from __future__ import annotations

from typing import Final

from tunnel.netstack.rtt import SECOND

AGAIN: Final = 600 * SECOND  # RFC 1191, section 6.3; RFC 4821, section 7.6.2
_CLOSE_ENOUGH: Final = 16  # bytes that are not worth another probe
#: IPv6's least MTU, RFC 4821's 1024 and IPv4's 576, less headers and a timestamp.
_SAFE: Final = (1280 - 72, 1024 - 72, 576 - 72)
SUSPICIOUS: Final = 3  # timeouts in a row
FOLLOWERS: Final = 4  # segments' worth that must be ready behind a probe (section 7.4)


def safer(size: int) -> int:
    """Return the next smaller size for a path that seems to swallow this one."""
    return next((safe for safe in _SAFE if safe < size), size)


class PathSearch:
    """One search: what passes, and what might."""

    __slots__ = ("high", "low", "most", "tried", "until")

    def __init__(self, low: int, high: int, most: int, until: int = 0) -> None:
        """`low` passes, `high` might, `most` is where the search ends; it rests `until` then."""
        self.low = low
        self.high = high
        self.most = most
        self.until = until
        self.tried = 0  # the size of the probe in flight

    def candidate(self, now: int) -> int:
        """Return the size to try now, 0 for none."""
        if self.tried or now < self.until:
            return 0
        if self.until:
            self.until = 0
            self.high = self.most
        if self.high - self.low < _CLOSE_ENOUGH:
            self.until = now + AGAIN
            return 0
        return self.high if self.high == self.most else (self.low + self.high + 1) // 2

    def settle(self, *, passed: bool) -> int:
        """Take the probe's outcome; return the size that is known to pass."""
        if passed:
            self.low = max(self.tried, self.low)
        else:
            self.high = self.tried - 1
        self.tried = 0
        return self.low

    @property
    def over(self) -> bool:
        """Whether there is nothing larger to find."""
        return self.low >= self.most
