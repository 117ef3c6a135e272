"""Time that moves when it is told to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class VirtualClock:
    """Nanoseconds of a clock that counts sleep, and of the wall clock beside it."""

    now: int = 1_000_000_000
    wall: int = 1_700_000_000_000_000_000

    def advance(self, nanoseconds: int) -> None:
        """Let time pass, on both clocks."""
        if nanoseconds < 0:
            raise ValueError(f"time cannot pass backwards ({nanoseconds} ns)")
        self.now += nanoseconds
        self.wall += nanoseconds

    def advance_to(self, now: int) -> None:
        """Let time pass until `now`; nothing if that is over."""
        self.advance(max(0, now - self.now))
