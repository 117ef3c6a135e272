"""Workers at real-time priority, where the process may have it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tunnel.engine import REAL_TIME

pytestmark = pytest.mark.root

#: Prints the scheduling of a worker and of the main thread. A worker has set itself up once it
#: waits for work, which its wait channel shows.
_PROGRAM = """
import os
from pathlib import Path
from tunnel.engine import Engine
{before}
with Engine(flags={flags}) as engine:
    engine.start()
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().startswith("tunnel-"):
            while (task / "wchan").read_text() == "0":
                os.sched_yield()
            print(os.sched_getscheduler(int(task.name)), os.sched_getscheduler(0))
"""
_LEAVE_ROOT = "os.setgroups([]); os.setgid(65534); os.setuid(65534)"


def scheduling(flags: int, before: str = "") -> list[int]:
    """Return what a worker and the main thread of another process run as."""
    program = _PROGRAM.format(flags=flags, before=before)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return [int(word) for word in done.stdout.split()]


def test_workers_are_ordinary_threads_unless_asked() -> None:
    assert scheduling(0) == [os.SCHED_OTHER, os.SCHED_OTHER]


def test_workers_run_in_real_time_when_asked_and_nobody_else_does() -> None:
    assert scheduling(REAL_TIME) == [os.SCHED_RR, os.SCHED_OTHER]


def test_without_the_privilege_they_are_ordinary_threads() -> None:
    assert scheduling(REAL_TIME, _LEAVE_ROOT) == [os.SCHED_OTHER, os.SCHED_OTHER]
