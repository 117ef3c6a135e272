"""What was measured, the verdict on each line of it, and the tables that a person reads. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from tools.demolib.ping import Answers
from tools.demolib.tap import Count


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried through the tunnel; `problem` None where it went well."""

    what: str
    measured: str
    problem: str | None = None


class Kind(Enum):
    """What a part of the story must show."""

    BOUND = "only cellular carries the tunnel, and no ping is lost"
    CUT = "no packet leaves at all"
    RESUMED = "only cellular carries the tunnel, again"
    MOVED = "both carry the tunnel while it moves, and no ping is lost"
    CLOSED = "nothing leaves but the tunnel, on cellular"
    OPEN = "without the kill switch, what was tried leaves"
    ENDING = "nothing leaves on Wi-Fi"
    CONTROL = "without --bind, Wi-Fi carries the tunnel"


_ON_WIFI = (Kind.CONTROL, Kind.MOVED)
_ON_CELLULAR = (Kind.BOUND, Kind.RESUMED, Kind.MOVED)
_LOSSLESS = (Kind.BOUND, Kind.MOVED)


@dataclass(frozen=True, slots=True)
class Part:
    """What was counted during a part of the story, at the two routers."""

    name: str
    kind: Kind
    wifi: Count
    cellular: Count
    pings: Answers | None = None
    note: str = ""

    @property
    def other(self) -> int:
        """Packets of the client, on either way, that were neither the tunnel's nor small talk."""
        return self.wifi.other + self.cellular.other

    def problems(self) -> list[str]:
        """Say what is not as it must be."""
        found = []
        if self.kind in _ON_WIFI and not self.wifi.outer:
            control = self.kind is Kind.CONTROL
            proves = ": the control proves nothing" if control else ""
            found.append(f"no outer packet on Wi-Fi{proves}")
        if self.kind not in _ON_WIFI and self.wifi.outer:
            found.append(f"{self.wifi.outer} outer packets on Wi-Fi instead of 0")
        if self.kind is Kind.CUT and self.cellular.outer:
            found.append(f"{self.cellular.outer} outer packets on cellular, which was down")
        if self.kind in _ON_CELLULAR and not self.cellular.outer:
            found.append("no outer packet on cellular")
        if self.kind is Kind.OPEN and not self.other:
            found.append("nothing left outside the tunnel: the control proves nothing")
        if self.kind is not Kind.OPEN and self.other:
            found.append(f"{self.other} packets left the client outside the tunnel")
        if self.kind is not Kind.CUT and self.pings is not None and not self.pings.times:
            found.append("no ping was answered")
        if self.kind in _LOSSLESS and self.pings is not None and self.pings.lost:
            found.append(f"{self.pings.lost} of {self.pings.asked} pings were lost")
        return found


@dataclass(slots=True)
class Findings:
    """Everything that the story has measured so far."""

    checks: list[Check] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    def failures(self) -> list[str]:
        """Return one line for each thing that is not as it must be."""
        lines = [f"{check.what}: {check.problem}" for check in self.checks if check.problem]
        for part in self.parts:
            lines += [f"{part.name}: {problem}" for problem in part.problems()]
        return lines

    def total(self) -> int:
        """Return the number of lines that were judged."""
        return len(self.checks) + len(self.parts)


def milliseconds(times: Sequence[float]) -> str:
    """Return the average of round trips, their range and their number in words."""
    mean = sum(times) / len(times)
    return f"{mean:.2f} ms ({min(times):.2f} to {max(times):.2f}, {len(times)} pings)"


def _pings(part: Part) -> str:
    if part.note or part.pings is None:
        return part.note
    return f"{part.pings.lost} of {part.pings.asked} lost"


def _verdict(problem: object) -> str:
    return "FAILED" if problem else "ok"


def render(findings: Findings) -> str:
    """Return the closing report: two tables."""
    blocks = []
    if findings.checks:
        blocks.append(
            _table(
                ("THROUGH THE TUNNEL", "", ""),
                (
                    (check.what, check.measured, _verdict(check.problem))
                    for check in findings.checks
                ),
                right=(),
            )
        )
    if findings.parts:
        blocks.append(
            _table(
                ("PACKETS SEEN BY THE ROUTERS", "wlan0", "wwan0", "other", "pings", ""),
                (
                    (part.name, str(part.wifi.outer), str(part.cellular.outer), str(part.other),
                     _pings(part), _verdict(part.problems()))
                    for part in findings.parts
                ),
                right=(1, 2, 3),
            )
            + "\n\nwlan0, wwan0: the tunnel's outer packets, both directions."
            "\nother: all else that left the client on either, but ARP and neighbour discovery."
        )  # fmt: skip
    return "\n\n".join(blocks)


def _table(
    heading: tuple[str, ...], rows: Iterable[tuple[str, ...]], *, right: Sequence[int]
) -> str:
    """Align columns; those in `right` to the right, as numbers are read."""
    table = [heading, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(heading))]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))

    def line(row: tuple[str, ...]) -> str:
        cells = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join([line(heading), rule, *(line(row) for row in table[1:])])
