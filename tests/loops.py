"""Names for tests that run coroutines; the fixture `run` is in conftest.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

PATIENCE = 30  # seconds until a test that hangs is failed

Work = Coroutine[Any, Any, Any]
Runner = Callable[[Work], Any]


def run(work: Work) -> None:
    """Run a coroutine to its end on asyncio's loop; fail it when it hangs."""
    asyncio.run(asyncio.wait_for(work, PATIENCE))


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something is so that nothing reports, such as a counter of a worker.

    Whoever runs the coroutine fails it when that takes too long.
    """
    pause = 0.0
    while not condition():
        await asyncio.sleep(pause)
        pause = 0.001
