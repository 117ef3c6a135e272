"""What was made, and how to remove it: a stack that is emptied from the top, whatever fails."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Awaitable, Callable

Step = Callable[[], Awaitable[None] | None]


class Undo:
    """Removals in the order of making. A step that fails or hangs is logged; the rest follow."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._steps: list[tuple[str, Step, float | None]] = []

    def push(self, what: str, step: Step, *, seconds: float | None) -> None:
        """Remember how to remove `what`; `seconds` is how long that may take at most."""
        self._steps.append((what, step, seconds))

    async def unwind(self) -> None:
        """Remove everything, last made first. Raises nothing, and finishes when cancelled."""
        while self._steps:
            what, step, seconds = self._steps.pop()
            try:
                async with asyncio.timeout(seconds):
                    done = step()
                    if inspect.isawaitable(done):
                        await done
            except TimeoutError:
                self._log.error("removing %s took more than %s s; going on", what, seconds)
            except asyncio.CancelledError:
                # The loop is being closed under us: what is left is still worth a try.
                self._log.error("removing %s was interrupted; going on", what)
                task = asyncio.current_task()
                with contextlib.suppress(AttributeError):
                    task.uncancel()  # type: ignore[union-attr]
            except Exception as error:
                self._log.error("removing %s failed: %s; going on", what, error)
                self._log.debug("traceback", exc_info=error)
