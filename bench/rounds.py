"""Rounds of a side-by-side run: every subject has its turn in each, in an order that rotates.

So a machine that grows slower or faster meanwhile does so to all of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from bench.report import NO_TUNNEL, Result

Subject = TypeVar("Subject")


def processor_times() -> list[int]:
    """Return what all processors together spent, by the columns of /proc/stat."""
    return [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def rotated(
    result: Result, subjects: Sequence[Subject], rounds: int
) -> Iterator[tuple[int, Sequence[Subject]]]:
    """Yield each round's number, from 1 on, and its order of turns; then complete the result."""
    times = processor_times()
    for number in range(rounds):
        first = number % len(subjects)
        yield number + 1, [*subjects[first:], *subjects[:first]]
    spent = [after - before for before, after in zip(times, processor_times(), strict=True)]
    result.steal = spent[7] / max(1, sum(spent))
    # The table's order is the order of the options, not of the first round.
    order = [NO_TUNNEL, *result.versions]
    result.values = {name: result.values[name] for name in order if name in result.values}


def take(
    result: Result, name: str, number: int, begun: float, figures: dict[str, float],
    failed: Sequence[str] = (),
) -> None:  # fmt: skip
    """Take the figures of a turn that began at `begun` (time.monotonic), and show them."""
    result.failures += [f"{name}, round {number}: {words}" for words in failed]
    result.add(name, figures)
    found = " ".join(f"{key}={value:.4g}" for key, value in figures.items())
    took = time.monotonic() - begun
    print(f"round {number} {name} ({took:.0f} s): {found}", *failed, file=sys.stderr, flush=True)
