"""What is measured of a userspace stack, and how: one function a measure.

Each takes a `Turn` and returns figures by key; `FIGURES` says what the keys mean. The load is that
of streams.c, through the near end's SOCKS5 proxy or, where there is none, the kernel's TCP.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from bench.lab import Wire
from bench.measures import Figure
from bench.nearends import STREAMS, Near, streams

SEVERAL = 16
STALLED = 32  # writers that are never drained

FIGURES = (
    Figure("down", "download, 1 stream, Gbit/s", 2),
    Figure("up", "upload, 1 stream, Gbit/s", 2),
    Figure("down_cpu", "CPU seconds a Gbit of the near end, download", 2, less_is_better=True),
    Figure("up_cpu", "CPU seconds a Gbit of the near end, upload", 2, less_is_better=True),
    Figure("rate1", "new connections a second, one at a time", 0),
    Figure("rate16", "new connections a second, sixteen at once", 0),
    Figure("short_growth", "memory that short connections left behind, MiB", 0, True),
    Figure("open_memory", "memory with all connections open, MiB", 0, True),
    Figure("stall_held", "memory of a writer that is never drained, KiB", 0, True),
)


@dataclass
class Turn:
    """One near end's turn (None: no tunnel): for how long, and with how many connections."""

    wire: Wire
    near: Near | None
    seconds: float
    connections: int
    opened: int
    figures: dict[str, float] = field(default_factory=dict)

    def words(self, measure: str, *arguments: object) -> list[str]:
        """Return the command line of the load."""
        proxy = self.near.end.proxy if self.near else 0
        far = self.near.far if self.near else self.wire.far
        return [str(streams()), measure, str(proxy), far, str(STREAMS), *map(str, arguments)]

    def load(self, measure: str, *arguments: object) -> list[float]:
        """Run a load to its end and return the numbers that it printed."""
        words = self.words(measure, *arguments)
        return _numbers(self.wire.a.run(words, timeout=self.seconds + 240).stdout)

    @contextlib.contextmanager
    def kept(self, measure: str, *arguments: object) -> Iterator[list[float]]:
        """Run a load that stays as it is while the block runs."""
        with subprocess.Popen(
            self.wire.a.command(self.words(measure, *arguments)),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdout
            yield _numbers(process.stdout.readline())

    @property
    def memory(self) -> float:
        """Resident memory of a near end without root, MiB; 0 for the kernel's."""
        return self.near.daemon.memory()["VmRSS"] if self.near and self.near.end.proxy else 0.0


def _numbers(line: str) -> list[float]:
    numbers = [float(word) for word in line.split()]
    if not numbers:
        raise RuntimeError("the load ended before its time")
    return numbers


def _bulk(turn: Turn, key: str) -> dict[str, float]:
    daemon = turn.near.daemon if turn.near else None
    before = daemon.cpu_seconds() if daemon else 0.0
    octets, took = turn.load(key, turn.seconds)
    gigabits = octets * 8 / 1e9
    found = {key: gigabits / took}
    if daemon:
        found[f"{key}_cpu"] = (daemon.cpu_seconds() - before) / gigabits
    return found


def down(turn: Turn) -> dict[str, float]:
    """One stream from the far end."""
    return _bulk(turn, "down")


def up(turn: Turn) -> dict[str, float]:
    """One stream to the far end; what has come there counts."""
    return _bulk(turn, "up")


def _rate(turn: Turn, at_once: int) -> float:
    done, failed, took = turn.load("rate", at_once, turn.seconds, 1 << 30)
    if failed:
        raise RuntimeError(f"{failed:.0f} of {done + failed:.0f} connections failed")
    return done / took


def rate(turn: Turn) -> dict[str, float]:
    """Connections opened, used for a byte each way and closed, a second."""
    return {"rate1": _rate(turn, 1), "rate16": _rate(turn, SEVERAL)}


def short(turn: Turn) -> dict[str, float]:
    """What many short connections leave behind in memory: a tenth of them go before."""
    if not turn.memory:
        return {}
    turn.load("rate", SEVERAL, 600, turn.connections // 10)
    before = turn.memory
    _, failed, _ = turn.load("rate", SEVERAL, 600, turn.connections)
    if failed:
        raise RuntimeError(f"{failed:.0f} of {turn.connections} short connections failed")
    return {"short_growth": turn.memory - before}


def hold(turn: Turn) -> dict[str, float]:
    """Memory with many connections open at once."""
    if not turn.memory:
        return {}
    with turn.kept("hold", turn.opened) as (done, _):
        if done < turn.opened:
            raise RuntimeError(f"{done:.0f} of {turn.opened} connections could be open at once")
        return {"open_memory": turn.memory}


def stall(turn: Turn) -> dict[str, float]:
    """What the near end holds for a writer whose far end does not read: what waits for the send
    buffer, at most the high-water mark of 128 KiB and the piece that went over it, and what is in
    the buffer, 128 KiB at first.
    """
    if not turn.memory:
        return {}
    before = turn.memory
    with turn.kept("stall", STALLED):
        return {"stall_held": (turn.memory - before) * 1024 / STALLED}


#: In the order in which a turn runs them.
MEASURES: dict[str, Callable[[Turn], dict[str, float]]] = {
    "down": down,
    "up": up,
    "stall": stall,
    "rate": rate,
    "short": short,
    "hold": hold,
}
