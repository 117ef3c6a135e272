"""The userspace TCP against the kernel's, in real time: every byte arrives, whatever the path does.

A sample of the exchanges runs always, all 200 of them in the long form. Each moves a megabyte and
more; the SHA-256 of what was sent and what came are compared on both sides.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from tests.netns.tcp_world import Side, World, be_patient, exchange, ip, run, world
from tools.netlab import Lab
from tunnel.netstack.settings import Settings

pytestmark = pytest.mark.root

MEGABYTE = 1_048_576
SMALL = Settings(receive_buffer=3_000, receive_most=3_000)

#: What the path does, and how many exchanges the long form makes of it.
PATHS: dict[str, tuple[dict[str, Any], int]] = {
    "clean": ({}, 16),
    "delay": ({"delay": 0.02}, 12),
    "loss 0.1 %": ({"loss": 0.001, "delay": 0.005}, 16),
    "loss 1 %": ({"loss": 0.01}, 20),
    "loss 5 %": ({"loss": 0.05}, 20),
    "loss 10 %": ({"loss": 0.10}, 20),
    "loss 20 %": ({"loss": 0.20}, 16),
    "loss 30 %": ({"loss": 0.30}, 12),
    "duplication": ({"duplication": 0.3, "delay": 0.002}, 16),
    "reordering": ({"reordering": 0.2, "delay": 0.005}, 20),
    "corruption": ({"corruption": 0.02}, 12),
    "everything": (
        {"loss": 0.02, "duplication": 0.05, "reordering": 0.05, "corruption": 0.01}, 20,
    ),
}  # fmt: skip
SAMPLE = ("clean", "loss 1 %", "loss 10 %", "reordering", "everything")


async def many(name: str, count: int, path: dict[str, Any], seed: int) -> None:
    """So many exchanges at once, of every kind."""
    random = Random(seed)
    if path.get("loss", 0.0) >= 0.3:
        be_patient()
    async with world(name, seed=seed, **path) as made, asyncio.TaskGroup() as group:
        for i in range(count):
            one, other = random.randbytes(MEGABYTE), random.randbytes(random.randrange(100_000))
            if i % 4 > 1:
                one, other = other, one
            group.create_task(
                exchange(made.net, Side(one), Side(other), calls=bool(i % 2), six=i % 3 == 2)
            )
    assert made.shim is not None
    for way in (made.shim.outward, made.shim.inward):
        assert bool(way.dropped) == ("loss" in path)
        assert bool(way.spoilt) == ("corruption" in path)


@pytest.mark.parametrize("path", SAMPLE)
def test_bytes_are_equal(lab: Lab, path: str) -> None:
    run(lab.namespace("a"), many, "ktcp0", 4, PATHS[path][0], 1)


@pytest.mark.long
@pytest.mark.parametrize("path", PATHS)
def test_bytes_are_equal_in_all_of_them(lab: Lab, path: str) -> None:
    options, count = PATHS[path]
    run(lab.namespace("a"), many, "ktcp0", count, options, 2, seconds=900)


def test_units_over_virtio_headers(lab: Lab) -> None:
    """No shim: super-segments both ways, cut and coalesced by the kernel."""

    async def main() -> None:
        data = Random(1).randbytes(8 * MEGABYTE)
        async with world("ktcp0", direct=True) as made:
            for calls in (True, False):
                await exchange(made.net, Side(data), Side(data), calls=calls, six=calls)

    run(lab.namespace("a"), main)


@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_tiny_windows(lab: Lab, loss: float) -> None:
    async def main() -> None:
        data = Random(2).randbytes(MEGABYTE if not loss else MEGABYTE // 4)
        async with (
            world("ktcp0", settings=SMALL, loss=loss) as made,
            asyncio.TaskGroup() as group,
        ):
            for calls in (True, False):
                group.create_task(
                    exchange(made.net, Side(data), Side(data), calls=calls, buffer=2304)
                )

    run(lab.namespace("a"), main)


def test_zero_windows(lab: Lab) -> None:
    """Readers that pause until the window is closed, on either side."""

    async def main() -> None:
        data = Random(3).randbytes(MEGABYTE)
        slow: dict[str, Any] = {"bite": 200_000, "pause": 0.15, "first": 0.6}
        settings = Settings(receive_buffer=30_000, receive_most=30_000)
        async with (
            world("ktcp0", settings=settings, loss=0.01) as made,
            asyncio.TaskGroup() as group,
        ):
            for calls in (True, False):
                group.create_task(
                    exchange(made.net, Side(data, **slow), Side(b""), calls=calls, buffer=20_000)
                )
                group.create_task(
                    exchange(made.net, Side(b""), Side(data, **slow), calls=calls, buffer=20_000)
                )

    run(lab.namespace("a"), main)


def test_half_close(lab: Lab) -> None:
    """The answer is sent only after the question's FIN."""

    async def main() -> None:
        data = Random(4).randbytes(MEGABYTE)
        async with world("ktcp0", loss=0.01) as made, asyncio.TaskGroup() as group:
            for calls in (True, False):
                for ours in (True, False):
                    sides = Side(data, waits=ours), Side(data, waits=not ours)
                    group.create_task(exchange(made.net, *sides, calls=calls))

    run(lab.namespace("a"), main)


async def beside(made: World, *commands: str) -> None:
    for command in commands:
        await asyncio.sleep(0.1)
        await ip(command)


def test_mtu_changes(lab: Lab) -> None:
    """The kernel's link becomes small and large again under running connections."""

    async def main() -> None:
        data = Random(5).randbytes(3 * MEGABYTE)
        async with world("ktcp0", delay=0.01) as made, asyncio.TaskGroup() as group:
            for calls in (True, False):
                group.create_task(exchange(made.net, Side(data), Side(data), calls=calls))
            group.create_task(
                beside(made, *(f"link set ktcp0 mtu {mtu}" for mtu in (1300, 576, 1420, 800)))
            )

    run(lab.namespace("a"), main)


@pytest.mark.parametrize("most", [1280, 1000])
def test_a_black_hole_is_left(lab: Lab, most: int) -> None:
    """Packets of ours that are too large vanish without a word: RFC 4821."""

    async def main() -> None:
        data = Random(6).randbytes(MEGABYTE)
        async with world("ktcp0", delay=0.005) as made:
            assert made.shim is not None
            made.shim.outward.most = most
            await exchange(made.net, Side(data), Side(b"question"), calls=False)
            assert made.shim.outward.dropped

    run(lab.namespace("a"), main)
