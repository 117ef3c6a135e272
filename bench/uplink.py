"""What an upload over a slow uplink leaves to everything else: python -m bench.uplink; needs root.

    host a: uploads, ping, exchanges -- tbf, a deep queue -- host b: streams.c's server

Host a's end of the wire sends at a limited rate, as a modem does, and below the tunnel there is a
queue that holds a second and more of it. Once an upload has had time to fill whatever it fills,
pings and small exchanges are tried beside it, then a second upload begins. The wire without a
tunnel is the floor: there TCP itself sees the queue of the device.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from subprocess import SubprocessError

from bench.bounds import ABSOLUTE, Bound, reached
from bench.implementations import Implementation, find
from bench.lab import Wire, tunnelled, wired
from bench.measures import Figure, percentile
from bench.nearends import STREAMS, serving
from bench.report import BEST, NO_TUNNEL, Result, publish
from bench.rounds import rotated, take
from bench.sidebyside import machine

WITHOUT = "ordinary-queue"
VARIANT = f"{WITHOUT}=tunneld {{interface}} --ephemeral-key --without uplink-queue"
ECHO = STREAMS + 3
PIECE, ASKED = bytes(256 << 10), bytes(100)
PING, PAUSE, LOOK = 0.05, 0.5, 0.1  # seconds between two; so few that they are no load
PATIENCE = 30.0  # seconds
_TCP_INFO_ACKED = 120  # where struct tcp_info has tcpi_bytes_acked


@dataclass(frozen=True)
class Line:
    """An uplink: Mbit/s, and the bytes that its queue holds."""

    rate: int
    queue: int

    @property
    def title(self) -> str:
        """How people write its rate."""
        return "1 Gbit/s" if self.rate == 1000 else f"{self.rate} Mbit/s"

    def __str__(self) -> str:
        seconds = self.queue * 8 / self.rate / 1e6
        return f"tbf, {self.title}, a queue of {self.queue / 1e6:g} MB ({seconds:.1f} s)"


LINES = {
    "1": Line(1, 150_000),
    "10": Line(10, 1_500_000),
    "100": Line(100, 15_000_000),
    "1000": Line(1000, 25_000_000),
}
_KINDS = (
    Figure("average", "round trip beside an upload, average, ms", 1, less_is_better=True),
    Figure("p99", "the same, p99, ms", 1, less_is_better=True),
    Figure("lost", "pings lost, percent", 1, less_is_better=True),
    Figure("exchange", "connection, 100 bytes there and back, ms", 1, less_is_better=True),
    Figure("rate", "the upload, Mbit/s", 2),
    Figure("second", "share of a second upload, percent of both", 0),
    Figure("queue", "most in the line's queue, ms of the line", 1, less_is_better=True),
)
FIGURES = tuple(
    Figure(f"{kind.key}_{key}", f"{line.title}: {kind.title}", kind.digits, kind.less_is_better)
    for (key, line), kind in product(LINES.items(), _KINDS)
)
# At 1 Mbit/s a packet of full size takes 12 ms; faster lines are bound by what may wait, 5 ms.
_ROUND_TRIPS = {"1": (40, 30), "10": (10, 6), "100": (10, 6), "1000": (10, 6)}
BOUNDS = tuple(
    bound
    for key, (most, aim) in _ROUND_TRIPS.items()
    for bound in (
        Bound(f"average_{key}", ABSOLUTE, most, aim, at_most=True, unit="ms"),
        Bound(f"rate_{key}", BEST, 0.95, 1),
        Bound(f"second_{key}", ABSOLUTE, 30, 40, unit="%"),
    )
)


def times(text: str) -> list[float]:
    """Return the round trips that ping shows, ms."""
    return [float(found) for found in re.findall(r"time=([\d.]+) ms", text)]


def pinged(found: list[float], sent: int) -> dict[str, float]:
    """Return the figures of pings. Raises RuntimeError when none was answered."""
    if not found:
        raise RuntimeError(f"ping: none of {sent} answered")
    lost = 100 * max(0, 1 - len(found) / sent)
    return {"average": mean(found), "p99": percentile(found, 0.99), "lost": lost}


def backlog(text: str) -> int:
    """Return the bytes that wait, of what `tc -s -j qdisc` writes of one device."""
    return max((int(one.get("backlog", 0)) for one in json.loads(text)), default=0)


def _connected(wire: Wire, far: str, port: int) -> socket.socket:
    """Connect from host a, with the kernel's most usual congestion control."""
    with wire.a.entered():
        made = socket.socket()
    made.settimeout(PATIENCE)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        made.connect((far, port))
    except OSError:
        made.close()
        raise
    return made


class Upload:
    """A transfer that goes on until it is closed; what has not left by then never does."""

    def __init__(self, wire: Wire, far: str) -> None:
        self.socket = _connected(wire, far, STREAMS)
        self.thread = threading.Thread(target=self._send)
        self.thread.start()

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.socket.sendall(PIECE)

    @property
    def acknowledged(self) -> int:
        """Bytes that are known to be at the far end."""
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        (octets,) = struct.unpack_from("Q", info, _TCP_INFO_ACKED)
        return int(octets)

    def close(self) -> None:
        """End it at once."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.socket.close()


@contextlib.contextmanager
def narrowed(wire: Wire, line: Line) -> Iterator[list[int]]:
    """Let host a send as slowly as the line, and watch how many bytes wait for it."""
    wire.a.run(f"tc qdisc add dev a0 root tbf rate {line.rate}mbit burst 6000 limit {line.queue}")
    seen, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(LOOK):
            seen.append(backlog(wire.a.run("tc -s -j qdisc show dev a0").stdout))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()
        wire.a.run("tc qdisc del dev a0 root")


def exchange(wire: Wire, far: str) -> float:
    """Return how long a connection, a small question and its answer took, ms."""
    begun = time.monotonic()
    with _connected(wire, far, ECHO) as talk:
        talk.sendall(ASKED)
        came = 0
        while came < len(ASKED):
            part = len(talk.recv(len(ASKED)))
            if not part:
                raise RuntimeError("an exchange was cut off")
            came += part
    return (time.monotonic() - begun) * 1e3


def _beside(wire: Wire, far: str, seconds: float) -> dict[str, float]:
    """Ping, and exchange, for so long."""
    sent = round(seconds / PING)
    exchanges = []
    with wire.a.start(
        f"ping -n -i {PING} -c {sent} -W 3 {far}", stdout=subprocess.PIPE, text=True
    ) as ping:
        while ping.poll() is None:
            exchanges.append(exchange(wire, far))
            time.sleep(PAUSE)
        assert ping.stdout
        return pinged(times(ping.stdout.read()), sent) | {"exchange": mean(exchanges)}


def measure(wire: Wire, far: str, seconds: float) -> dict[str, float]:
    """Take the figures of one way to host b over the line as it is."""
    with ExitStack() as stack:
        first = stack.enter_context(closing(Upload(wire, far)))
        time.sleep(seconds / 2)
        before, begun = first.acknowledged, time.monotonic()
        found = _beside(wire, far, seconds)
        octets = first.acknowledged - before
        found["rate"] = octets * 8 / 1e6 / (time.monotonic() - begun)
        before = first.acknowledged
        second = stack.enter_context(closing(Upload(wire, far)))
        time.sleep(seconds)
        theirs, ours = first.acknowledged - before, second.acknowledged
        found["second"] = 100 * ours / max(1, ours + theirs)
        return found


def turn(wire: Wire, subject: Implementation | None, key: str, seconds: float) -> dict[str, float]:
    """Take one subject's figures over one line; the server of the load runs already."""
    line = LINES[key]
    with narrowed(wire, line) as seen, ExitStack() as stack:
        far = stack.enter_context(tunnelled(wire, subject)).far if subject else wire.far
        found = measure(wire, far, seconds)
        found["queue"] = max(seen) * 8 / line.rate / 1e3
    return {f"{kind}_{key}": value for kind, value in found.items()}


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.uplink",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--implementations", metavar="NAMES", help=f"comma list, {WITHOUT} too; default: the set")
    add("--add", action="append", metavar="NAME=COMMAND", help="another one; {interface} in it")
    add("--lines", metavar="RATES", default=",".join(LINES), help="comma list; default: all")
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=4.0, help="length of each of two measures (default 4)")
    add("--json", type=Path, metavar="FILE", help="write everything here too")
    add("--markdown", type=Path, metavar="FILE", help="write the tables here, as Markdown")
    options = parser.parse_args(words)
    options.lines = options.lines.split(",")
    for name in options.lines:
        if name not in LINES:
            parser.error(f"--lines: {name} is not one of {', '.join(LINES)}")
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds are above 0")
    names = options.implementations.split(",") if options.implementations else None
    try:
        options.implementations = find(names, [VARIANT, *(options.add or [])])
    except LookupError as error:
        parser.error(str(error))
    return options


def run(options: argparse.Namespace) -> Result:
    """Run all rounds, line by line, and return what was found."""
    subjects: list[Implementation | None] = [None, *options.implementations]
    versions = {one.name: one.describe() for one in options.implementations}
    shown = machine() | {f"line {key}": str(LINES[key]) for key in options.lines}
    result = Result(BEST, shown, versions, figures=FIGURES)
    with wired() as wire, serving(wire):
        for number, order in rotated(result, subjects, options.rounds):
            for key, subject in product(options.lines, order):
                begun, found, failed = time.monotonic(), {}, []
                try:
                    found = turn(wire, subject, key, options.seconds)
                except (RuntimeError, OSError, ValueError, SubprocessError) as error:
                    failed = [f"{LINES[key].title}: {error}"]
                name = subject.name if subject else NO_TUNNEL
                take(result, name, number, begun, found, failed)
    return result


def main(words: list[str] | None = None) -> int:
    """Run the program; 0 when every turn went well."""
    options = _arguments(words)
    if os.geteuid():
        print("uplink: needs root to make network namespaces", file=sys.stderr)
        return 4
    result = run(options)
    publish(result, reached(result, BOUNDS), options.json, options.markdown)
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
