"""Clients that have a while, with one timer for all: tunnel/proxy/waits.py."""

from __future__ import annotations

import asyncio

from tests.loops import Runner, until
from tunnel.proxy.waits import Waits


class One:
    def __init__(self, called: list[One]) -> None:
        self._called = called

    def late(self) -> None:
        self._called.append(self)


def test_who_is_not_in_time_is_late_in_the_order_of_coming(run: Runner) -> None:
    async def work() -> None:
        loop, called = asyncio.get_running_loop(), list[One]()
        waits = Waits(0.05)
        ones = [One(called) for _ in range(4)]
        begun = loop.time()
        for one in ones:
            waits.begin(one, loop)
        waits.end(ones[0])
        waits.end(ones[2])
        waits.end(ones[2])
        await until(lambda: len(called) == 2)
        assert called == [ones[1], ones[3]]
        assert loop.time() - begun >= 0.045
        waits.begin(ones[0], loop)  # the timer begins anew
        await until(lambda: len(called) == 3)

    run(work())


def test_a_later_one_has_its_whole_time(run: Runner) -> None:
    async def work() -> None:
        loop, called = asyncio.get_running_loop(), list[One]()
        waits = Waits(0.1)
        first, second = One(called), One(called)
        waits.begin(first, loop)
        await asyncio.sleep(0.05)
        begun = loop.time()
        waits.begin(second, loop)
        await until(lambda: second in called)
        assert loop.time() - begun >= 0.095
        assert called == [first, second]

    run(work())
