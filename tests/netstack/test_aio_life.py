"""Many connections, long ones, and ones that the world forgot."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import tracemalloc

import pytest

from tests.loops import Runner, until
from tests.netstack.pairs import BOB, settled, two_stacks

KB = 1024


async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        await reader.read()
    writer.close()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read(10))
    writer.close()


def open_connections(run: Runner, count: int) -> float:
    """Return the bytes that an open connection takes at one end, streams and all."""

    async def work() -> float:
        async with two_stacks() as (alice, bob):
            await bob.start_server(hold, None, 80, backlog=200)
            tracemalloc.start()
            opened = []
            for _ in range(count // 50):
                opened += await asyncio.gather(
                    *(alice.open_connection(BOB[0], 80) for _ in range(50))
                )
            await until(lambda: len(bob.transports) == count)
            taken = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            for _, writer in opened:
                writer.close()
            await settled(alice, bob)
            return taken / count / 2

    found: float = run(work())
    return found


def test_an_open_connection_is_small(run: Runner) -> None:
    assert open_connections(run, 500) < 30 * KB  # 10,000 of them within 300 MB


@pytest.mark.long
def test_ten_thousand_open_connections() -> None:
    assert open_connections(asyncio.run, 10_000) < 30 * KB


def growth(count: int) -> int:
    """Return by how many bytes the second half of `count` short connections made us grow."""

    async def work() -> int:
        async with two_stacks() as (alice, bob):
            await bob.start_server(answer, None, 80)

            async def some(number: int) -> None:
                for _ in range(number):
                    reader, writer = await alice.open_connection(BOB[0], 80)
                    writer.write(b"x")
                    assert await reader.read() == b"x"
                    writer.close()

            async def many(number: int) -> None:
                await asyncio.gather(*(some(number // 16) for _ in range(16)))
                await settled(alice, bob)
                bob.stack.tcp.time_wait.expire(1 << 62)
                gc.collect()

            await many(count // 2)
            tracemalloc.start()
            await many(count // 4)
            middle = tracemalloc.get_traced_memory()[0]
            await many(count // 4)
            grown = tracemalloc.get_traced_memory()[0] - middle
            tracemalloc.stop()
            return grown

    return asyncio.run(work())


def test_short_connections_leave_nothing() -> None:
    assert growth(1600) < 32 * KB  # of the last 400, both ends: less than 41 bytes each


@pytest.mark.long
def test_a_hundred_thousand_short_connections_leave_nothing() -> None:
    assert growth(100_000) < 200 * KB


def test_after_a_suspend_connections_show_themselves(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with two_stacks() as (alice, bob):
            await bob.start_server(hold, None, 80)
            reader, _ = await alice.open_connection(BOB[0], 80)
            await until(lambda: len(bob.transports) == 1)
            for lost in list(bob.stack.tcp.sockets.values()):
                bob.stack.tcp.timers.set(lost, None)
            bob.stack.tcp.sockets.clear()  # the far end was started anew meanwhile
            slept = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 3600 * 10**9
            monkeypatch.setattr(time, "clock_gettime_ns", lambda _: slept)
            alice._look_at_clock()
            with pytest.raises(ConnectionResetError):
                await reader.read()

    run(work())
    monkeypatch.undo()


def test_the_other_end_of_the_link_goes_away(run: Runner) -> None:
    async def work() -> None:
        async with two_stacks() as (alice, bob):
            await bob.start_server(hold, None, 80)
            reader, _ = await alice.open_connection(BOB[0], 80)
            await bob.aclose()
            with pytest.raises(OSError):  # noqa: PT011  # reset by bob, or gone with the link
                await reader.read()

    run(work())
