"""What is measured between the two hosts, and how: one function a measure.

Each takes a `Run` and returns figures by key; `FIGURES` says what the keys mean. iperf3 measures
TCP, ping the round trip, our own generator (datagrams.c) small packets: the highest rate of a
ladder at which at most one in a hundred is lost.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from bench.lab import Tunnel, Wire
from tools.compiled import compiled

IPERF_PORT = "5201"
LOSS = 0.01  # of small packets, at most
SMALL = 64  # bytes of UDP payload
STEP = 1.1  # between rates of the ladder
LOWEST = 10_000  # packets a second


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    key: str
    title: str
    digits: int
    less_is_better: bool = False


FIGURES = (
    Figure("tcp1", "TCP, 1 stream, Gbit/s", 2),
    Figure("tcp1_reverse", "TCP, 1 stream, reverse, Gbit/s", 2),
    Figure("tcp1_wire", "TCP, 1 stream, veth offloads off, Gbit/s", 2),
    Figure("tcp4", "TCP, 4 streams, Gbit/s", 2),
    Figure("tcp4_reverse", "TCP, 4 streams, reverse, Gbit/s", 2),
    Figure("small", "UDP 64 B at most 1 % lost, k/s", 0),
    Figure("dialogue", "round trips one after the other, k/s", 1),
    Figure("idle_average", "round trip idle, average, ms", 3, less_is_better=True),
    Figure("idle_p99", "round trip idle, p99, ms", 3, less_is_better=True),
    Figure("loaded_average", "round trip under load, average, ms", 3, less_is_better=True),
    Figure("loaded_p99", "round trip under load, p99, ms", 3, less_is_better=True),
    Figure("cpu", "CPU seconds a Gbit, both ends", 3, less_is_better=True),
    Figure("memory_peak", "memory, larger end, peak, MiB", 0, less_is_better=True),
    Figure("memory", "memory, larger end, after load, MiB", 0, less_is_better=True),
)


@dataclass
class Run:
    """One implementation's turn: where, through what (None: no tunnel), and for how long."""

    wire: Wire
    tunnel: Tunnel | None
    seconds: float
    pings: int
    small_start: float = 100_000.0
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def far(self) -> str:
        """The address of host b."""
        return self.tunnel.far if self.tunnel else self.wire.far


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


@contextlib.contextmanager
def _quiet(process: subprocess.Popen[str]) -> Iterator[None]:
    """Read away what a process still writes, since a full pipe would stop it; end it after."""
    assert process.stdout
    with tempfile.TemporaryFile() as sink:
        drain = subprocess.Popen(["cat"], stdin=process.stdout, stdout=sink)
        try:
            yield
        finally:
            process.terminate()
            process.wait()
            drain.wait()


@contextlib.contextmanager
def iperf_server(wire: Wire) -> Iterator[None]:
    """Run an iperf3 server for one test on host b, ready when the block starts.

    One a test: a server whose client was stopped in the middle may refuse the next.
    """
    server = wire.b.start(
        ["iperf3", "-s", "-1", "-p", IPERF_PORT, "--forceflush"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout
    for line in server.stdout:
        if "listening" in line:
            break
    with _quiet(server):
        yield


def iperf(run: Run, *arguments: str) -> dict[str, Any]:
    """Run an iperf3 client on host a and return its report. The first second is not counted."""
    seconds = math.ceil(run.seconds)  # iperf3 cuts a fraction off, and 0 is without end
    words = ["iperf3", "-c", run.far, "-p", IPERF_PORT, "-t", f"{seconds}", "-O", "1", "-J"]
    with iperf_server(run.wire):
        done = run.wire.a.run([*words, *arguments], check=False, timeout=seconds + 30)
    report: dict[str, Any] = json.loads(done.stdout)
    if "error" in report:
        raise RuntimeError(f"iperf3: {report['error']}")
    return report


def _gigabits(report: dict[str, Any]) -> float:
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9


def tcp1(run: Run) -> dict[str, float]:
    """One stream from a to b, and what it cost the daemons."""
    before = sum(daemon.cpu_seconds() for daemon in run.tunnel.daemons) if run.tunnel else 0.0
    report = iperf(run)
    found = {"tcp1": _gigabits(report)}
    if run.tunnel:
        spent = sum(daemon.cpu_seconds() for daemon in run.tunnel.daemons) - before
        # The omitted second costs processor time too, so it counts among the bits.
        total = sum(float(part["sum"]["bytes"]) for part in report["intervals"]) * 8 / 1e9
        found["cpu"] = spent / total
    return found


def tcp1_reverse(run: Run) -> dict[str, float]:
    """One stream from b to a."""
    return {"tcp1_reverse": _gigabits(iperf(run, "-R"))}


def tcp1_wire(run: Run) -> dict[str, float]:
    """One stream from a to b over a link that carries single packets, as a real wire does."""
    with run.wire.without_offloads():
        return {"tcp1_wire": _gigabits(iperf(run))}


def tcp4(run: Run) -> dict[str, float]:
    """Four streams from a to b."""
    return {"tcp4": _gigabits(iperf(run, "-P4"))}


def tcp4_reverse(run: Run) -> dict[str, float]:
    """Four streams from b to a."""
    return {"tcp4_reverse": _gigabits(iperf(run, "-P4", "-R"))}


def _ping(run: Run) -> list[float]:
    done = run.wire.a.run(
        f"ping -n -i 0.005 -c {run.pings} {run.far}", check=False, timeout=run.pings * 0.05 + 30
    )
    times = [float(text) for text in re.findall(r"time=([\d.]+) ms", done.stdout)]
    if len(times) < run.pings * 0.9:
        raise RuntimeError(f"ping: {len(times)} answers to {run.pings}\n{done.stdout[-500:]}")
    return times


def idle(run: Run) -> dict[str, float]:
    """Round trip with nothing else going on."""
    times = _ping(run)
    return {"idle_average": mean(times), "idle_p99": percentile(times, 0.99)}


def dialogue(run: Run) -> dict[str, float]:
    """Round trips a second, each begun when the one before is over."""
    count = run.pings * 10
    done = run.wire.a.run(f"ping -n -A -q -c {count} {run.far}", check=False, timeout=120)
    took = re.search(rf" {count} received.* time (\d+)ms", done.stdout)
    if not took:
        raise RuntimeError(f"ping -A: {done.stdout[-500:]}")
    return {"dialogue": count / int(took[1])}


def loaded(run: Run) -> dict[str, float]:
    """Round trip beside one bulk stream, at the speed that the tunnel itself reaches."""
    longer = run.pings * 0.05 + 30
    command = ["iperf3", "-c", run.far, "-p", IPERF_PORT, "-t", f"{longer:g}", "-i", "0.1"]
    with iperf_server(run.wire):
        bulk = run.wire.a.start(
            [*command, "--forceflush"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert bulk.stdout
        started = 0
        for line in bulk.stdout:
            started += "bits/sec" in line
            if started == 5:  # half a second of traffic: past slow start
                break
        with _quiet(bulk):
            times = _ping(run)
    return {"loaded_average": mean(times), "loaded_p99": percentile(times, 0.99)}


def _try_rate(run: Run, rate: float, seconds: float) -> tuple[float, float]:
    """Send small packets at a rate; return the rate that was reached and the share lost."""
    program = str(compiled(Path(__file__).with_name("datagrams.c")))
    with subprocess.Popen(
        run.wire.b.command([program, "count", run.far, "7000"]), stdout=subprocess.PIPE, text=True
    ) as counter:
        assert counter.stdout
        counter.stdout.readline()  # it listens
        sent_text = run.wire.a.run(
            [program, "send", run.far, "7000", f"{rate:.0f}", f"{seconds:g}", str(SMALL)]
        ).stdout
        received = int(counter.stdout.readline())
    sent, took = sent_text.split()
    return int(sent) / float(took), 1 - received / max(1, int(sent))


def small(run: Run) -> dict[str, float]:
    """The highest rate of small packets at which at most `LOSS` of them are lost.

    Walks a ladder of rates from `run.small_start`, up while it goes well and down while not; a
    rate is given up after two failures. Answers the rate that the sender really reached, so that
    where the sender is the limit that limit shows.
    """
    seconds = run.seconds / 4

    def attempt(rate: float) -> float | None:
        for _ in range(2):
            reached, lost = _try_rate(run, rate, seconds)
            if lost <= LOSS:
                return reached
        return None

    rate, best = run.small_start, attempt(run.small_start)
    if best is not None:
        while best >= rate * 0.95:
            rate *= STEP
            further = attempt(rate)
            if further is None or further <= best:
                break
            best = further
    while best is None:
        rate /= STEP
        if rate < LOWEST:
            return {"small": 0.0}
        best = attempt(rate)
    return {"small": best / 1e3}


def memory(run: Run) -> dict[str, float]:
    """Resident memory of the larger daemon, after all that was measured before."""
    if not run.tunnel:
        return {}
    ends = [daemon.memory() for daemon in run.tunnel.daemons]
    return {
        "memory_peak": max(end["VmHWM"] for end in ends),
        "memory": max(end["VmRSS"] for end in ends),
    }


#: In the order in which a turn runs them.
MEASURES: dict[str, Callable[[Run], dict[str, float]]] = {
    "idle": idle,
    "dialogue": dialogue,
    "tcp1": tcp1,
    "tcp1-reverse": tcp1_reverse,
    "tcp1-wire": tcp1_wire,
    "tcp4": tcp4,
    "tcp4-reverse": tcp4_reverse,
    "loaded": loaded,
    "small": small,
    "memory": memory,
}
