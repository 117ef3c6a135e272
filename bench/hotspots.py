"""Where a tunnel's processor time goes under one TCP stream: python -m bench.hotspots [NAME].

Records both daemons with perf(1) while iperf3 runs through them, and prints the shares of the
sender (host a) and the receiver (host b) by object and by symbol. Needs root and Debian's
linux-perf. Symbols of a stripped library appear as addresses, gathered by 4 KB page.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from bench.implementations import find
from bench.lab import tunnelled, wired
from bench.measures import Run, iperf

_ADDRESS = re.compile(r"0x0*([0-9a-f]+)[0-9a-f]{3}\b")
FREQUENCY = 1999  # samples a second; not a divisor of anything


def shares(data: Path, what: str, count: int) -> list[tuple[str, float]]:
    """Return the `count` largest percentages of the samples by `what`: "dso", or "dso,symbol"."""
    done = subprocess.run(
        ["perf", "report", "-i", str(data), "--no-children", "--stdio", "-g", "none", "-t", "|",
         "--sort", what],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, float] = defaultdict(float)
    for line in done.stdout.splitlines():
        percent, *names = (part.strip() for part in line.split("|"))
        if names and not line.startswith("#"):
            name = " ".join(names[: what.count(",") + 1])
            found[_ADDRESS.sub(r"0x\1...", name)] += float(percent.rstrip("%"))
    return sorted(found.items(), key=lambda item: -item[1])[:count]


def main(words: list[str] | None = None) -> int:
    """Record and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.hotspots", description=__doc__)
    parser.add_argument("name", nargs="?", default="tunneld", help="which implementation")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--reverse", action="store_true", help="host b sends")
    parser.add_argument("--top", type=int, default=25, help="symbols shown")
    options = parser.parse_args(words)
    if os.geteuid():
        print("hotspots: needs root to make network namespaces", file=sys.stderr)
        return 4
    if not shutil.which("perf"):
        parser.error("perf is not installed; Debian has it in linux-perf")
    try:
        implementation = find([options.name])[0]
    except LookupError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as folder, wired() as wire:
        with tunnelled(wire, implementation) as tunnel:
            recordings = []
            for side, daemon in zip("ab", tunnel.daemons, strict=True):
                data = Path(folder) / f"{side}.data"
                record = ["perf", "record", "-q", "-F", str(FREQUENCY), "-o", str(data)]
                watched = ["-p", str(daemon.process.pid), "--", "sleep", f"{options.seconds:g}"]
                recordings.append((side, data, subprocess.Popen([*record, *watched])))
            run = Run(wire, tunnel, options.seconds, 0)
            report = iperf(run, *(["-R"] if options.reverse else []))
            for _, _, process in recordings:
                process.wait()
        speed = report["end"]["sum_received"]["bits_per_second"] / 1e9
        print(f"{options.name}: {speed:.2f} Gbit/s while perf watched")
        for side, data, _ in recordings:
            sends = (side == "a") != options.reverse
            print(f"\nhost {side}, which {'sends' if sends else 'receives'}")
            for what, count in (("dso", 6), ("dso,symbol", options.top)):
                for name, percent in shares(data, what, count):
                    print(f"  {percent:6.2f} %  {name}")
                print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
