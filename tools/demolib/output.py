"""The lines that a process prints, as events: a thread reads them, others wait for one.

Waiting for what a program says it has done is exact where sleeping is a guess.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tools.demolib.errors import DemoError

#: Seconds after which an event that was waited for has not happened.
PATIENCE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Line:
    """One line of output and when it was read (seconds of time.monotonic)."""

    when: float
    text: str


class Output:
    """Everything that a process has printed so far; it must have been started with text=True."""

    def __init__(self, process: subprocess.Popen[Any]) -> None:
        self._process = process
        self._lines: list[Line] = []
        self._ended = False
        self._news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            with self._news:
                self._lines.append(Line(time.monotonic(), text.rstrip("\n")))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def position(self) -> int:
        """How many lines there are; a wait with `after` this looks at later ones only."""
        with self._news:
            return len(self._lines)

    def lines(self, after: int = 0) -> list[Line]:
        """Return the lines from a position on."""
        with self._news:
            return self._lines[after:]

    def wait_until(
        self, done: Callable[[list[Line]], bool], what: str, *, after: int = 0
    ) -> list[Line]:
        """Wait until `done` says so of the lines after a position, and return these.

        Raises DemoError, which names what was waited for, when it takes longer than PATIENCE or
        when the process has ended.
        """
        deadline = time.monotonic() + PATIENCE
        with self._news:
            while not done(self._lines[after:]):
                left = deadline - time.monotonic()
                if self._ended:
                    raise DemoError(f"waiting for {what}: the program that reports it has ended")
                if left <= 0:
                    raise DemoError(f"waiting for {what}: not within {PATIENCE:.0f} s")
                self._news.wait(left)
            return self._lines[after:]

    def wait(self, pattern: str, what: str, *, after: int = 0) -> Line:
        """Wait for a line that a regular expression finds, and return it."""
        wanted = re.compile(pattern)
        lines = self.wait_until(
            lambda lines: any(wanted.search(line.text) for line in lines), what, after=after
        )
        return next(line for line in lines if wanted.search(line.text))
