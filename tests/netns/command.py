"""tunneld as its users run it: a command in a namespace, and the lines that it writes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tools.netlab import Namespace

BIN = Path(sys.executable).parent
PATIENCE = 20.0  # seconds that a line may take to appear


class Program:
    """A running command. `expect` reads its lines until one has what is looked for."""

    def __init__(self, space: Namespace, *words: str, **options: Any) -> None:
        self.lines: list[str] = []
        self.process = space.start(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **options,
        )
        assert self.process.stdout is not None
        self._output = self.process.stdout
        self._pipe = self._output.fileno()
        self._rest = b""

    def expect(self, text: str, within: float = PATIENCE) -> str:
        """Return the first line from now on that holds the text; fails with all that was said."""
        deadline = time.monotonic() + within
        while True:
            *complete, self._rest = self._rest.split(b"\n")
            for number, raw in enumerate(complete):
                line = raw.decode()
                self.lines.append(line)
                if text in line:
                    self._rest = b"\n".join([*complete[number + 1 :], self._rest])
                    return line
            ready, _, _ = select.select([self._pipe], [], [], max(0, deadline - time.monotonic()))
            data = os.read(self._pipe, 65536) if ready else b""
            assert data, f"no line with {text!r}; it said:\n" + "\n".join(self.lines)
            self._rest += data

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end and return the exit code; the lines that were left are in `lines`."""
        self._rest += self._output.read()
        self.lines += self._rest.decode().splitlines()
        self._rest = b""
        return self.process.wait(PATIENCE)


def start_tunneld(space: Namespace, *arguments: str) -> Program:
    """Start tunneld in a namespace."""
    return Program(space, str(BIN / "tunneld"), *arguments)


def tunnelctl(space: Namespace, *arguments: str, check: bool = True) -> Any:
    """Run tunnelctl with --json and return what it printed."""
    done = space.run([str(BIN / "tunnelctl"), *arguments, "--json"], check=check)
    return json.loads(done.stdout) if done.returncode == 0 else done
