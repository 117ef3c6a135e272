"""Uploads over paths that lose and paths that are narrow: python -m bench.overrelay; needs root.

    host a: a near end, the load --- host b: tools/relay's relay, wireguard-go, streams.c's server

The near ends are those of bench.netstack, tunneld without root, wireproxy, and the kernel's TCP
with BBR over tunneld's TUN; between them and the far end each datagram goes through the relay. On
the narrow line two more are asked: a second upload that begins beside a first, for its share; and
how full the line's queue was.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from bench.bounds import ABSOLUTE, Bound, reached
from bench.implementations import Implementation, find
from bench.lab import PORT, Wire, wired
from bench.measures import Figure
from bench.nearends import KERNEL, OURS, TABLE, THEIRS, NearEnd, joined, serving
from bench.netstack import FAR
from bench.report import Result, publish
from bench.rounds import rotated, take
from bench.sidebyside import machine
from bench.stackmeasures import Turn
from tools.relaylib.relay import Relay
from tools.relaylib.settings import Link, Path as Line, describe

RELAYED = PORT + 1
LINE = "line"


def _both(link: Link) -> Line:
    return Line(link, link)


PATHS = {
    "loss01": _both(Link(delay=25, loss=0.1)),
    "loss1": _both(Link(delay=25, loss=1)),
    LINE: _both(Link(delay=25, rate=100, queue=125_000)),
}
FIGURES = (
    Figure("loss01", "upload, 25 ms each way, 0.1 % lost, Mbit/s", 1),
    Figure("loss1", "upload, 25 ms each way, 1 % lost, Mbit/s", 1),
    Figure(LINE, "upload, 100 Mbit/s, 125 KB of queue, 25 ms, Mbit/s", 1),
    Figure("line_queue", "its queue on average, KB", 0, less_is_better=True),
    Figure("line_dropped", "dropped at it, percent", 2, less_is_better=True),
    Figure("line_second", "a second upload beside it, percent of one alone", 0),
)
BOUNDS = (
    Bound("loss01", THEIRS, 10, 15),
    Bound("loss01", KERNEL, 0.8, 1),
    Bound("loss1", KERNEL, 0.7, 1),
    Bound(LINE, ABSOLUTE, 85, 90, unit="Mbit/s"),
)


@dataclass
class Upload:
    """One upload that runs: Mbit/s that came to the far end, once it is over."""

    process: subprocess.Popen[str]

    @classmethod
    def begin(cls, turn: Turn, seconds: float) -> Upload:
        """Start it."""
        words = turn.wire.a.command(turn.words("up", f"{seconds:g}"))
        return cls(
            subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )

    def end(self) -> float:
        """Wait for its end. Raises RuntimeError."""
        found, errors = self.process.communicate(timeout=120)
        if self.process.returncode:
            raise RuntimeError(f"the upload failed: {errors.strip()}")
        octets, seconds = map(float, found.split())
        return octets * 8 / 1e6 / seconds


@contextmanager
def relayed(wire: Wire, path: Line, seed: int) -> Iterator[Relay]:
    """Run a relay on host b, in front of the far end."""
    with wire.b.entered():
        relay = Relay(("10.99.0.2", RELAYED), ("127.0.0.1", PORT), path, seed=seed)
        relay.start()
    try:
        yield relay
    finally:
        relay.close()


def _queue(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float]:
    """Return how full the queue was between two reports, and the share that it dropped."""

    def since(value: Callable[[dict[str, float]], float]) -> float:
        return value(after["up"]) - value(before["up"])

    area = since(lambda link: link["queue_average"] * link["seconds"])
    return {
        "line_queue": area / max(1e-9, since(lambda link: link["seconds"])) / 1e3,
        "line_dropped": 100
        * since(lambda link: link["dropped"])
        / max(1, since(lambda link: link["datagrams"])),
    }


def measure(
    wire: Wire, end: NearEnd, far: Implementation, name: str, seconds: float, seed: int
) -> dict[str, float]:
    """Take one near end's figures over one path; the server of the load runs already."""
    if end.name == KERNEL:  # of this namespace alone
        wire.a.sysctl("net.ipv4.tcp_congestion_control", "bbr")
    with (
        relayed(wire, PATHS[name], seed) as relay,
        joined(wire, end, far, relay=RELAYED) as near,
    ):
        turn = Turn(wire, near, seconds, 0, 0)
        before = relay.report()
        cpu = near.daemon.cpu_seconds()
        found = {name: Upload.begin(turn, seconds).end()}
        print(
            f"    {name} {end.name}: {found[name]:.1f} Mbit/s, near end's CPU"
            f" {near.daemon.cpu_seconds() - cpu:.2f} s",
            file=sys.stderr,
        )
        after = relay.report()
        if after["overrun"] or after["up"]["failed"]:
            raise RuntimeError(f"the relay did not keep up: {after}")
        if name == LINE:
            found |= _queue(before, after)
            first = Upload.begin(turn, 2 * seconds)
            time.sleep(seconds / 2)
            second = Upload.begin(turn, seconds).end()
            first.end()
            found["line_second"] = 100 * second / found[name]
        return found


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.overrelay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [end.name for end in TABLE]
    add = parser.add_argument
    add("--near", metavar="NAMES", default=",".join(names), help="comma list; default: all")
    add("--paths", metavar="NAMES", default=",".join(PATHS), help="comma list; default: all")
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=10.0, help="length of each upload (default 10)")
    add("--json", type=Path, metavar="FILE", help="write everything here too")
    add("--markdown", type=Path, metavar="FILE", help="write the tables here, as Markdown")
    options = parser.parse_args(words)
    options.near, options.paths = options.near.split(","), options.paths.split(",")
    for name in options.near:
        if name not in names:
            parser.error(f"--near: {name} is not one of {', '.join(names)}")
    for name in options.paths:
        if name not in PATHS:
            parser.error(f"--paths: {name} is not one of {', '.join(PATHS)}")
    options.near = [end for end in TABLE if end.name in options.near]
    for end in options.near:
        if not end.implementation.program:
            parser.error(f"{end.name}: not installed; tools/peers installs what others have made")
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds are above 0")
    return options


def run(options: argparse.Namespace) -> Result:
    """Run all rounds, path by path, and return what was found."""
    by_name = {one.name: one for one in find()}
    far = next(by_name[name] for name in FAR if name in by_name)
    versions = {end.name: end.implementation.describe() for end in options.near}
    shown = machine() | {"far end": f"{far.describe()}, the kernel's TCP"}
    shown |= {f"path {name}": describe(PATHS[name]) for name in options.paths}
    result = Result(THEIRS, shown, versions, figures=FIGURES)
    with wired() as wire, serving(wire):
        for number, order in rotated(result, options.near, options.rounds):
            for name, end in product(options.paths, order):
                begun, found, failed = time.monotonic(), {}, []
                try:
                    found = measure(wire, end, far, name, options.seconds, number)
                except (RuntimeError, OSError, ValueError) as error:
                    failed = [f"{name}: {error}"]
                take(result, end.name, number, begun, found, failed)
    return result


def main(words: list[str] | None = None) -> int:
    """Run the program; 0 when every turn went well."""
    options = _arguments(words)
    if os.geteuid():
        print("overrelay: needs root to make network namespaces", file=sys.stderr)
        return 4
    result = run(options)
    publish(result, reached(result, BOUNDS, OURS), options.json, options.markdown)
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
