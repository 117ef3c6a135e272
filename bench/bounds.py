"""What the project promises of its speed, as ratios, and whether a side-by-side run shows it.

A bound against the best of the set counts only where all of the set ran, since the one that is
missing could be the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.implementations import COMPARED
from bench.report import BEST, Result

SUBJECT = "tunneld"
_GO = "wireguard-go"
ABSOLUTE = ""


@dataclass(frozen=True)
class Bound:
    """`key` of ours, against another's median (or as it is): at least, or at most, `bound`.

    Without a bound there is only the aim.
    """

    key: str
    against: str
    bound: float | None
    aim: float
    at_most: bool = False
    unit: str = "MiB"  # of an absolute one

    @property
    def title(self) -> str:
        """What the row is called."""
        return f"{self.key} against {self.against}" if self.against else self.key

    def holds(self, value: float, limit: float) -> bool:
        """Say whether a value is on the right side of a limit."""
        return value <= limit if self.at_most else value >= limit


BOUNDS = (
    Bound("tcp1", BEST, 1.8, 2.2),
    Bound("tcp1", _GO, 6, 8),
    Bound("tcp4", BEST, 1.8, 2.4),
    Bound("tcp1_reverse", BEST, 1.8, 2.4),
    Bound("tcp4_reverse", BEST, 1.8, 2.4),
    Bound("tcp1_wire", BEST, 2.5, 3.2),
    Bound("cpu", BEST, 0.5, 0.4, at_most=True),
    Bound("small", BEST, 2, 3),
    Bound("idle_average", BEST, 1.0, 0.7, at_most=True),
    Bound("loaded_p99", BEST, 0.7, 0.2, at_most=True),
    Bound("memory_peak", ABSOLUTE, 60, 50, at_most=True),
)


def reached(
    result: Result, bounds: Sequence[Bound] = BOUNDS, subject: str = SUBJECT
) -> list[list[str]]:
    """Return the rows of the table: what, figure, bound, aim, verdict; the first is the heading."""
    rows = [["what", "reached", "bound", "aim", ""]]
    for bound in bounds:
        value = _value(result, bound, subject)
        if value is None:
            continue
        missing = _missing(result, bound)
        sign = "<=" if bound.at_most else ">="
        if missing:
            verdict = f"does not count: {', '.join(missing)} did not run"
        elif bound.holds(value, bound.aim):
            verdict = "aim reached"
        elif bound.bound is None:
            verdict = "below the aim" if not bound.at_most else "above the aim"
        else:
            verdict = "reached" if bound.holds(value, bound.bound) else "NOT REACHED"
        shown = f"{value:.0f} {bound.unit}" if bound.against is ABSOLUTE else f"{value:.2f}"
        limit = "-" if bound.bound is None else f"{sign} {bound.bound:g}"
        rows.append([bound.title, shown, limit, f"{bound.aim:g}", verdict])
    return rows


def _value(result: Result, bound: Bound, subject: str) -> float | None:
    own = result.median(subject, bound.key)
    if bound.against is ABSOLUTE or own is None:
        return own
    other = result.median(bound.against, bound.key)
    return own / other if other else None


def _missing(result: Result, bound: Bound) -> list[str]:
    if bound.against is not BEST:
        return []
    return [name for name in COMPARED if result.median(name, bound.key) is None]
