"""What NewReno and CUBIC have in common: a window, a threshold, and no rate of their own.

The connection paces them by window and round-trip time.
"""

from __future__ import annotations

from typing import Final

from tunnel.netstack.congestion.control import INITIAL_SEGMENTS

UNBOUNDED: Final = 1 << 62  # ssthresh: as high as possible at first (RFC 5681, section 3.1)


class LossBased:
    """A window that falls at each loss."""

    __slots__ = ("pacing_rate", "segment_size", "threshold", "window")

    def __init__(self, segment_size: int) -> None:
        self.segment_size = segment_size
        self.window = INITIAL_SEGMENTS * segment_size
        self.threshold = UNBOUNDED
        self.pacing_rate: int | None = None

    def on_idle(self) -> None:
        """RFC 5681, section 4.1: after a pause the window says nothing of the path any more."""
        self.window = min(self.window, INITIAL_SEGMENTS * self.segment_size)

    def on_recovery_end(self, now: int) -> None:
        """The window already is the threshold."""

    def on_segment_size(self, size: int) -> None:
        """Keep the window the same number of segments."""
        self.window = max(self.window * size // self.segment_size, size)
        self.segment_size = size
