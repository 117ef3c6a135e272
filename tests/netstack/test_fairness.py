"""Two flows through one queue: 100 Mbit/s, 125 KB, 25 ms each way. Facts of virtual time.

The short form is the same at a fifth of the rate, with a fifth of the queue.
"""

from __future__ import annotations

import pytest

from tests.netstack.simulator import MBIT, MS, Application, Path, World
from tunnel.netstack.settings import Settings


def flow(seed: int, start: int, congestion: str, scale: int) -> World:
    """A bulk sender."""
    data = bytes(20 * 12_500_000 // scale)
    link = {"rate": 100 * MBIT // scale, "queue": 125_000 // scale, "delay": 25 * MS, "tick": MS}
    return World(
        seed, a=Application(data, closes=False), b=Application(closes=False, keep=False),
        path=link, settings=Settings(congestion=congestion), start=start,
    )  # fmt: skip


def run_together(worlds: list[World], until: int) -> list[float]:
    """Run worlds that share a path; return what each got, in Mbit/s."""
    begin = worlds[0].now
    before = [world.applications[1].count for world in worlds]
    while True:
        due, i = min((world._due() or until, i) for i, world in enumerate(worlds))
        if due >= until:
            break
        worlds[i].step()
    for world in worlds:
        world.now = until
    took = (until - begin) / 1e9
    counts = [world.applications[1].count for world in worlds]
    return [(new - old) * 8 / took / 1e6 for old, new in zip(before, counts, strict=True)]


def joined(first: str, second: str, seed: int, scale: int) -> tuple[list[float], Path]:
    """The second flow comes after five seconds; return the shares of the ten that follow."""
    one = flow(seed, 10**15, first, scale)
    one.run(5)
    other = flow(seed + 10, one.now, second, scale)
    other.paths[0] = one.paths[0]
    worlds = [one, other]
    one.now = other.now
    run_together(worlds, one.now + 5 * 10**9)
    return run_together(worlds, one.now + 10 * 10**9), one.paths[0]


def test_a_second_flow_gets_its_share() -> None:
    (one, other), path = joined("bbr", "bbr", 1, 5)
    assert one + other >= 16
    assert min(one, other) >= 2
    assert path.queued <= 25_000


@pytest.mark.long
@pytest.mark.parametrize(
    ("first", "second", "least"), [("bbr", "bbr", 25), ("cubic", "bbr", 25), ("bbr", "cubic", 6)]
)
def test_a_second_flow_gets_its_share_at_full_rate(first: str, second: str, least: float) -> None:
    """BBR shares with BBR slowly: a probe gains a quarter, and only then another follows soon."""
    (one, other), path = joined(first, second, 1, 1)
    assert one + other >= 85
    assert min(one, other) >= least
    assert path.queued <= 125_000
