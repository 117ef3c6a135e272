"""Tunnels side by side: python -m bench.sidebyside [options]; needs root.

Every implementation has its turn in each round, in an order that rotates, so that a machine that
grows slower or faster meanwhile does so to all of them; figures are medians over the rounds, and
what counts are the ratios. The wire without a tunnel takes its turns too: it is the ceiling, and
how much its figures vary is how far the others can be trusted.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path
from subprocess import SubprocessError

from bench.bounds import reached
from bench.implementations import Implementation, find
from bench.lab import MTU, tunnelled, wired
from bench.measures import MEASURES, Run
from bench.plot import svg
from bench.report import BEST, NO_TUNNEL, Result, publish
from bench.rounds import processor_times, rotated, take

IDLE = 0.9  # share of idle time that counts as a quiet machine


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.sidebyside", description=__doc__)
    add = parser.add_argument
    add(
        "--implementations",
        metavar="NAMES",
        help="comma list; default: the installed ones of the set",
    )
    add("--add", action="append", metavar="NAME=COMMAND", help="another one; {interface} in it")
    add("--base", metavar="NAME", default=BEST, help=f"what ratios refer to (default: {BEST})")
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=5.0, help="length of each TCP run (default 5)")
    add("--pings", type=int, default=1000, help="round trips a measure (default 1000)")
    add("--measures", help=f"comma list of {', '.join(MEASURES)}; default: all")
    add("--quick", action="store_true", help="3 rounds of 2 s: to see that it works")
    add("--patience", type=float, default=0.0, metavar="SECONDS",
        help="before each turn, wait at most so long for the machine to be idle")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write everything here too")
    add("--markdown", type=Path, metavar="FILE", help="write the tables here, as Markdown")
    add("--svg", type=Path, metavar="FILE", help="draw the medians here")
    options = parser.parse_args(words)
    if options.quick:
        options.rounds, options.seconds, options.pings = 3, 2.0, 200
    if options.rounds < 1 or options.seconds <= 0 or options.pings < 10:
        parser.error("--rounds 1, --seconds above 0 and --pings 10 are the least")
    wanted = options.measures.split(",") if options.measures else list(MEASURES)
    unknown = [name for name in wanted if name not in MEASURES]
    if unknown:
        parser.error(f"--measures: {unknown[0]} is not one of {', '.join(MEASURES)}")
    options.measures = [name for name in MEASURES if name in wanted]
    names = options.implementations.split(",") if options.implementations else None
    try:
        options.implementations = find(names, options.add)
    except LookupError as error:
        parser.error(str(error))
    taking_part = [BEST, *(one.name for one in options.implementations)]
    if options.base not in taking_part:
        parser.error(f"--base: {options.base} is not one of {', '.join(taking_part)}")
    for file in (options.json, options.markdown, options.svg):
        if file and not file.parent.is_dir():
            parser.error(f"{file}: there is no folder {file.parent}; make it first")
    return options


def _wait_for_quiet(patience: float) -> None:
    """Wait until the processors were idle for a second, or `patience` is at its end."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        before = processor_times()
        time.sleep(1)
        spent = [after - start for start, after in zip(before, processor_times(), strict=True)]
        if spent[3] + spent[4] > IDLE * sum(spent):
            return


def machine() -> dict[str, str]:
    """Return what the figures depend on, for the head of a report."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((x.split(":")[1].strip() for x in info.splitlines() if "model name" in x), "?")
    return {
        "machine": f"{model}, {os.cpu_count()} processors, Linux {platform.release()}",
        "wire": f"veth, MTU 1500, tunnel MTU {MTU}, both ends on this machine",
        "load before": Path("/proc/loadavg").read_text().split()[0],
    }


def _turn(run: Run, measures: list[str]) -> None:
    for name in measures:
        run.figures.update(MEASURES[name](run))


def side_by_side(options: argparse.Namespace) -> Result:
    """Run all rounds and return what was found; a turn that fails is kept as a failure."""
    subjects: list[Implementation | None] = [None, *options.implementations]
    versions = {one.name: one.describe() for one in options.implementations}
    result = Result(options.base, machine(), versions)
    starts: dict[str, float] = {}  # where the search for the small-packet rate begins
    with wired() as wire:
        for number, order in rotated(result, subjects, options.rounds):
            for subject in order:
                name = subject.name if subject else NO_TUNNEL
                _wait_for_quiet(options.patience)
                begun, failed = time.monotonic(), []
                run = Run(wire, None, options.seconds, options.pings)
                run.small_start = starts.get(name, run.small_start)
                try:
                    if subject is None:
                        _turn(run, options.measures)
                    else:
                        with tunnelled(wire, subject) as run.tunnel:
                            _turn(run, options.measures)
                except (RuntimeError, OSError, ValueError, KeyError, SubprocessError) as error:
                    failed = [str(error)]
                if run.figures.get("small"):
                    starts[name] = run.figures["small"] * 1e3
                take(result, name, number, begun, run.figures, failed)
    return result


def main(words: list[str] | None = None) -> int:
    """Run the program; 0 when every turn went well."""
    options = _arguments(words)
    if os.geteuid():
        print("sidebyside: needs root to make network namespaces", file=sys.stderr)
        return 4
    result = side_by_side(options)
    publish(result, reached(result), options.json, options.markdown)
    if options.svg:
        options.svg.write_text(svg(result))
    return 1 if result.failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("sidebyside: interrupted; nothing is left running")
