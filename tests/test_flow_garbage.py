"""A PacketFlow that only the collector can free: a provider and its context form a cycle."""

from __future__ import annotations

import subprocess
import sys

# What the flow holds is older than the cycle that keeps it, so the collector clears it first.
CYCLE = """
import gc, socket
from tunnel import PacketFlow

left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
for _ in range(20):
    cycle = list(vars(PacketFlow(left.fileno(), 0)).values())
    cycle.append(cycle)
    del cycle
    gc.collect()
"""


def test_collected_in_a_cycle() -> None:
    """Crashed the interpreter, hence a process of its own."""
    assert subprocess.run([sys.executable, "-c", CYCLE]).returncode == 0
