"""Grace: how long a tunnel may be without a path before it ends. Without a setting, for ever.

Losing every path is no reason to stop: the tunnel waits ("reasserting") and comes back by itself.
Who wants to hear of it after a while sets a grace period; what ends it then is an error, so that a
kill switch stays closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Grace:
    """Calls `end` with the reason once it has been told to `mind` one for long enough."""

    def __init__(self, end: Callable[[str], None]) -> None:
        self._end = end
        self._timer: asyncio.TimerHandle | None = None

    def mind(self, seconds: float | None, waiting: str) -> None:
        """Begin, or go on, while there is a reason to wait; stop when it is empty."""
        if seconds is None or not waiting:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            said = f"no path for {seconds:g} s: {waiting}"
            self._timer = loop.call_later(seconds, self._end, said)
