"""A ping that goes on for as long as a part of the story lasts; its answers are events."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tools.demolib.output import Line, Output
from tools.netlab import Namespace

#: Seconds between two pings.
INTERVAL: Final = 0.02

_ANSWER: Final = re.compile(r"bytes from .*icmp_seq=(\d+) .*time=([\d.]+) ms")
# `ping -O` says at each sending that the one before has no answer yet; a refusal by the kernel
# is an error instead.
_SILENCE: Final = re.compile(r"no answer yet|sendmsg:|Unreachable")


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers in a stretch of a ping: round trips in ms by sequence number.

    `asked` counts the pings between the first and the last answer, so that one which is still
    under way when the stretch ends does not pass for lost.
    """

    asked: int
    times: tuple[float, ...]

    @property
    def lost(self) -> int:
        """The pings that no answer came to."""
        return self.asked - len(self.times)


def answers(lines: Iterable[Line], after: int = 0) -> Answers:
    """Read the answers out of what ping printed; `after` is the last sequence number before."""
    times: dict[int, float] = {}
    for line in lines:
        if (found := _ANSWER.search(line.text)) and int(found[1]) > after:
            times[int(found[1])] = float(found[2])
    if not times:
        return Answers(0, ())
    first = after + 1 if after else min(times)
    return Answers(max(times) - first + 1, tuple(times.values()))


class Ping:
    """Pings an address from a namespace until it is stopped."""

    def __init__(self, namespace: Namespace, target: str) -> None:
        self._process = namespace.start(
            ["ping", "-n", "-O", "-i", str(INTERVAL), target],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.target = target
        self.output = Output(self._process)

    def wait_answers(self, number: int, why: str) -> Line:
        """Wait for so many more answers; return the line of the first of them."""
        return self._wait(_ANSWER, number, f"{number} answers of {self.target} {why}")

    def wait_silence(self, number: int, why: str) -> Line:
        """Wait until so many pings in a row had no answer; return the line of the first."""
        what = f"{number} pings of {self.target} in a row without an answer {why}"
        return self._wait(_SILENCE, number, what, in_a_row=True)

    def _wait(
        self, pattern: re.Pattern[str], number: int, what: str, *, in_a_row: bool = False
    ) -> Line:
        after = self.output.position

        def matching(lines: list[Line]) -> list[Line]:
            found: list[Line] = []
            for line in lines:
                if pattern.search(line.text):
                    found.append(line)
                elif in_a_row:
                    found.clear()
            return found

        lines = self.output.wait_until(lambda new: len(matching(new)) >= number, what, after=after)
        return matching(lines)[0]

    def last_answered(self) -> int:
        """Return the sequence number of the last answer so far, 0 without one."""
        found = (_ANSWER.search(line.text) for line in reversed(self.output.lines()))
        return next((int(match[1]) for match in found if match), 0)

    def stop(self) -> None:
        """End it; what it printed stays readable."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait()
