"""Waits: clients that have a while to say what they want, with one timer for all of them.

All have as long, so they are late in the order in which they came, and the timer is that of the
first. A timer for each would cost more than what a client says.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Protocol


class Late(Protocol):
    """What is waited for."""

    def late(self) -> None:
        """The time is over."""


class Waits:
    """Those who have `seconds` from now on each."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._due: OrderedDict[Late, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, one: Late, loop: asyncio.AbstractEventLoop) -> None:
        """Call its `late` then, unless `end` comes before."""
        self._due[one] = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._look, loop)

    def end(self, one: Late) -> None:
        """It is in time, or gone. The timer stays for the others, and ends where there are none."""
        self._due.pop(one, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        while self._due:
            first = next(iter(self._due))
            due = self._due[first]
            if due > now:
                self._timer = loop.call_later(due - now, self._look, loop)
                return
            del self._due[first]
            first.late()
