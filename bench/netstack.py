"""The userspace stack beside others: python -m bench.netstack [options]; needs root.

Through a real WireGuard tunnel, whose far end is wireguard-go and the kernel's TCP: tunneld without
root, wireproxy, and the kernel's TCP over tunneld's TUN. Each has its turn in each round, in an
order that rotates; figures are medians over the rounds, and what counts are the ratios. The wire
without a tunnel takes its turns too: it is the ceiling of the load's own programs. Over paths that
lose and are narrow, the same near ends run in bench.overrelay.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from bench.bounds import ABSOLUTE, Bound, reached
from bench.implementations import find
from bench.lab import wired
from bench.nearends import KERNEL, OURS, TABLE, THEIRS, NearEnd, joined, serving
from bench.report import NO_TUNNEL, Result, publish
from bench.rounds import rotated, take
from bench.sidebyside import machine
from bench.stackmeasures import FIGURES, MEASURES, Turn

BOUNDS = (
    Bound("down", THEIRS, 1.3, 1.5),
    Bound("up", THEIRS, 2.5, 3),
    Bound("rate1", THEIRS, 1, 1.2),
    Bound("rate16", THEIRS, 1, 1.2),
    Bound("open_memory", ABSOLUTE, 400, 300, at_most=True),
    Bound("short_growth", ABSOLUTE, 8, 4, at_most=True),
    Bound("stall_held", ABSOLUTE, 512, 448, at_most=True, unit="KiB"),
    Bound("down", KERNEL, None, 0.8),
    Bound("up", KERNEL, None, 0.8),
)
FAR = ("wireguard-go-current", "wireguard-go")
MANY, LONG = 10_000, 100_000


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.netstack", description=__doc__)
    add = parser.add_argument
    names = ", ".join(end.name for end in TABLE)
    add("--near", metavar="NAMES", help=f"comma list of {names}; default: the installed ones")
    add("--far", metavar="NAME", help=f"the far end; default: the first installed of {FAR}")
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=5.0, help="length of each bulk run (default 5)")
    add("--connections", type=int, default=MANY, help=f"short ones (default {MANY})")
    add("--open", type=int, default=MANY, help=f"open at once (default {MANY})")
    add("--long", action="store_true", help=f"{LONG} short connections")
    add("--measures", help=f"comma list of {', '.join(MEASURES)}; default: all")
    add("--json", type=Path, metavar="FILE", help="write everything here too")
    add("--markdown", type=Path, metavar="FILE", help="write the tables here, as Markdown")
    options = parser.parse_args(words)
    if options.long:
        options.connections = LONG
    if options.rounds < 1 or options.seconds <= 0 or min(options.connections, options.open) < 1:
        parser.error("--rounds, --seconds, --connections and --open are above 0")
    options.measures = _chosen(parser, "--measures", options.measures, list(MEASURES))
    near = [end.name for end in TABLE if options.near or end.implementation.program]
    wanted = _chosen(parser, "--near", options.near, near)
    options.near = [end for end in TABLE if end.name in wanted]
    try:
        far = find([options.far] if options.far else None)
    except LookupError as error:
        parser.error(str(error))
    by_name = {one.name: one for one in far}
    options.far = next((by_name[name] for name in FAR if name in by_name), far[0])
    for end in options.near:
        if not end.implementation.program:
            parser.error(f"{end.name}: not installed; tools/peers installs what others have made")
    return options


def _chosen(
    parser: argparse.ArgumentParser, option: str, text: str | None, known: list[str]
) -> list[str]:
    wanted = text.split(",") if text else known
    for name in wanted:
        if name not in known:
            parser.error(f"{option}: {name} is not one of {', '.join(known)}")
    return [name for name in known if name in wanted]


def _turn(turn: Turn, measures: list[str]) -> list[str]:
    """Take all measures; one that fails keeps nobody from the next. Return what failed."""
    failed = []
    for name in measures:
        try:
            turn.figures.update(MEASURES[name](turn))
        except (RuntimeError, OSError, ValueError) as error:
            failed.append(f"{name}: {error}")
    return failed


def run(options: argparse.Namespace) -> Result:
    """Run all rounds and return what was found."""
    subjects: list[NearEnd | None] = [None, *options.near]
    versions = {end.name: end.implementation.describe() for end in options.near}
    shown = machine() | {"far end": f"{options.far.describe()}, the kernel's TCP"}
    result = Result(THEIRS, shown, versions, figures=FIGURES)
    with wired() as wire, serving(wire):
        for key, value in (
            ("net.ipv4.ip_local_port_range", "10000 65000"),
            ("net.ipv4.tcp_tw_reuse", 1),
        ):
            wire.a.sysctl(key, value)
        for number, order in rotated(result, subjects, options.rounds):
            for end in order:
                begun = time.monotonic()
                turn = Turn(wire, None, options.seconds, options.connections, options.open)
                try:
                    if end is None:
                        failed = _turn(turn, options.measures)
                    else:
                        with joined(wire, end, options.far) as turn.near:
                            failed = _turn(turn, options.measures)
                except (RuntimeError, OSError, ValueError) as error:
                    failed = [str(error)]
                name = end.name if end else NO_TUNNEL
                take(result, name, number, begun, turn.figures, failed)
    return result


def main(words: list[str] | None = None) -> int:
    """Run the program; 0 when every turn went well."""
    options = _arguments(words)
    if os.geteuid():
        print("netstack: needs root to make network namespaces", file=sys.stderr)
        return 4
    result = run(options)
    publish(result, reached(result, BOUNDS, OURS), options.json, options.markdown)
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
