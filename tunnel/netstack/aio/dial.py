"""Happy eyeballs: trying the addresses of a name so that a dead one costs little (RFC 8305).

IPv6 goes first and families take turns (section 4). The next attempt begins when the last one has
failed, or after 250 ms (section 5); the first connection that stands wins, and the others are
cancelled. Addresses may still come in while attempts are under way: the names of both families are
asked at once, and IPv4 waits 50 ms for IPv6's answer (section 3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

ATTEMPT_DELAY: Final = 0.25
RESOLUTION_DELAY: Final = 0.05
SECOND_FAMILY: Final = 0.5
"""Seconds that those who want all addresses wait for the other family's: some servers never answer
questions for one."""

T = TypeVar("T")
Answer = Sequence[bytes]


class Addresses:
    """Addresses of one name as its answers come in; `tasks` are the questions, IPv6's first."""

    def __init__(self, tasks: Sequence[asyncio.Task[Answer]]) -> None:
        self._open = list(tasks)
        self._found: dict[int, list[bytes]] = {16: [], 4: []}
        self._last = 4
        self.errors: list[BaseException] = []
        self._wait_for_six = len(tasks) > 1

    async def more(self) -> bool:
        """Wait for another answer; False when there is none to come."""
        if not self._open:
            return False
        await asyncio.wait(self._open, return_when=asyncio.FIRST_COMPLETED)
        self._take()
        if self._wait_for_six and self._found[4] and not self._found[16] and self._open:
            await asyncio.wait(self._open, timeout=RESOLUTION_DELAY)
            self._take()
        self._wait_for_six = False
        return True

    async def settle(self) -> None:
        """Wait for all answers, but for those of the second family not long."""
        while self._open:
            seconds = SECOND_FAMILY if self.left else None
            done, _ = await asyncio.wait(
                self._open, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            self._take()
            if not done:
                break

    def _take(self) -> None:
        for task in [task for task in self._open if task.done()]:
            self._open.remove(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self.errors.append(error)
            elif not task.cancelled():
                for address in task.result():
                    self._found[len(address)].append(address)

    def next(self) -> bytes | None:
        """Take the next address to try, families in turn."""
        for size in (20 - self._last, self._last):
            if self._found[size]:
                self._last = size
                return self._found[size].pop(0)
        return None

    @property
    def waiting(self) -> bool:
        """Whether an answer may still come."""
        return bool(self._open)

    @property
    def left(self) -> bool:
        """Whether an address is there that was not tried."""
        return any(self._found.values())

    def close(self) -> None:
        """Ask no more."""
        for task in self._open:
            task.cancel()


class Race(Generic[T]):
    """Attempts at several addresses."""

    def __init__(
        self,
        addresses: Addresses,
        attempt: Callable[[bytes], Awaitable[T]],
        discard: Callable[[T], None],
        delay: float = ATTEMPT_DELAY,
    ) -> None:
        self._addresses = addresses
        self._attempt = attempt
        self._discard = discard
        self._delay = delay
        self._running: set[asyncio.Task[T]] = set()
        self.errors: list[BaseException] = []

    async def run(self) -> T | None:
        """Return what the first good attempt gave; None when all failed (see `errors`)."""
        answers: asyncio.Task[bool] | None = None
        winner: asyncio.Task[T] | None = None
        clock = asyncio.get_running_loop().time
        due = clock()  # when the next attempt may begin beside others
        try:
            while winner is None:
                if (not self._running or clock() >= due) and self._addresses.left:
                    self._begin()
                    due = clock() + self._delay
                if answers is None and self._addresses.waiting:
                    answers = asyncio.create_task(self._addresses.more())
                events: set[asyncio.Task[T] | asyncio.Task[bool]] = {*self._running}
                if answers is not None:
                    events.add(answers)
                if not events:
                    return None
                timeout = max(due - clock(), 0) if self._addresses.left else None
                done, _ = await asyncio.wait(
                    events, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
                )
                if answers in done:
                    answers = None
                failed = len(self.errors)
                winner = self._look_at(done)
                if len(self.errors) > failed:
                    due = clock()
            return winner.result()
        finally:  # nothing is awaited here: in its compiled form that would lose a cancellation
            if answers is not None:
                answers.cancel()
            self._addresses.close()
            for task in self._running:
                task.cancel()
                task.add_done_callback(self._too_late)

    def _begin(self) -> None:
        address = self._addresses.next()
        assert address is not None
        self._running.add(asyncio.create_task(self._try(address)))

    async def _try(self, address: bytes) -> T:
        return await self._attempt(address)

    def _look_at(self, done: set[asyncio.Task[T] | asyncio.Task[bool]]) -> asyncio.Task[T] | None:
        winner: asyncio.Task[T] | None = None
        for task in [task for task in self._running if task in done]:
            self._running.discard(task)
            error = task.exception()
            if error is not None:
                self.errors.append(error)
            elif winner is None:
                winner = task
            else:
                self._discard(task.result())
        return winner

    def _too_late(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._discard(task.result())
