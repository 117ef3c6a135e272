"""A worker with little to do keeps to the processor that its packets come from."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools.netlab import Lab
from tunnel.engine import REAL_TIME, Engine
from tunnel.tun import Tun

pytestmark = [
    pytest.mark.root,
    pytest.mark.alone,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors"),
]
EVERYWHERE = os.sched_getaffinity(0)
TASKS = Path("/proc/self/task")
PATIENCE = 10.0  # seconds


@dataclass
class Worker:
    """One that has a TUN device here and a socket, and its thread."""

    task: Path
    inside: tuple[str, int]
    outside: tuple[str, int]

    @property
    def processors(self) -> set[int]:
        """Where it may run."""
        return os.sched_getaffinity(int(self.task.name))

    def comes_to(self, wanted: set[int], to: tuple[str, int], processor: int, batch: int) -> bool:
        """Send from a processor, a batch each time it waits, until it runs where wanted."""
        reached = threading.Event()

        def send() -> None:
            os.sched_setaffinity(0, {processor})
            deadline = time.monotonic() + PATIENCE
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                while not reached.is_set() and time.monotonic() < deadline:
                    while (self.task / "wchan").read_text() == "0":
                        os.sched_yield()
                    for _ in range(batch):
                        one.sendto(b"x", to)
                    if self.processors == wanted:
                        reached.set()

        thread = threading.Thread(target=send)
        thread.start()
        thread.join()
        return reached.is_set()


@pytest.fixture
def worker(lab: Lab) -> Iterator[Worker]:
    space = lab.namespace("a")
    with (
        space.entered(),
        Tun.create("tpl0") as tun,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outer,
        Engine(flags=REAL_TIME) as engine,
    ):
        space.ip("addr add 10.9.0.1/24 dev tpl0")
        space.ip("link set tpl0 up")
        outer.bind(("10.9.0.1", 0))
        engine.attach_link(0, tun.fds[0], tun.link_flags, 1420)
        engine.attach_outer(0, 0, outer.fileno(), -1)
        before = set(TASKS.iterdir())
        engine.start()
        task = next(
            task
            for task in set(TASKS.iterdir()) - before
            if (task / "comm").read_text().startswith("tunnel-")
        )
        yield Worker(task, ("10.9.0.2", 9), outer.getsockname())


@pytest.mark.parametrize("side", ["inside", "outside"])
def test_it_follows_whoever_sends_and_is_free_for_a_batch(worker: Worker, side: str) -> None:
    to = getattr(worker, side)
    for processor in sorted(EVERYWHERE)[:2]:
        assert worker.processors != {processor}
        assert worker.comes_to({processor}, to, processor, 1)
    assert worker.comes_to(EVERYWHERE, to, processor, 64)
    assert worker.comes_to({processor}, to, processor, 1)
