"""The result of a side-by-side run: figures by implementation and round, medians, text and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.implementations import COMPARED
from bench.measures import FIGURES, Figure

NO_TUNNEL = "no tunnel"
BEST = "the best of the set"


@dataclass
class Result:
    """All figures: `values[name][key]` holds one value a round.

    `base` is what ratios refer to: an implementation, or BEST, which is for each figure the best
    median of those that are compared with (`implementations.COMPARED`).
    """

    base: str
    machine: dict[str, str]
    versions: dict[str, str]
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    steal: float = 0.0
    figures: tuple[Figure, ...] = FIGURES

    def add(self, name: str, figures: dict[str, float]) -> None:
        """Take the figures of one turn."""
        columns = self.values.setdefault(name, {})
        for key, value in figures.items():
            columns.setdefault(key, []).append(value)

    def median(self, name: str, key: str) -> float | None:
        """Return the median of one figure, None where it was not measured."""
        if name == BEST:
            return self.best(key)
        found = self.values.get(name, {}).get(key)
        return median(found) if found else None

    def best(self, key: str) -> float | None:
        """Return the best median of the set in one figure, None where none was measured."""
        medians = [self.median(name, key) for name in COMPARED]
        found = [value for value in medians if value is not None]
        less = any(figure.less_is_better for figure in self.figures if figure.key == key)
        return (min if less else max)(found, default=None)

    def ratio(self, name: str, key: str) -> float | None:
        """Return the median divided by the base's median."""
        own, base = self.median(name, key), self.median(self.base, key)
        return own / base if own is not None and base else None

    def spread(self, name: str, key: str) -> float | None:
        """Return (highest - lowest) / median of one figure: of `NO_TUNNEL`, the machine's noise.

        None where there are not two rounds to compare.
        """
        found = self.values.get(name, {}).get(key, [])
        return (max(found) - min(found)) / median(found) if found[1:] and median(found) else None

    def as_json(self) -> dict[str, Any]:
        """Return everything, ready for json.dump."""
        names = list(self.values)
        keys = [figure.key for figure in self.figures]
        return {
            "schema": 1,
            "machine": self.machine,
            "versions": self.versions,
            "base": self.base,
            "steal": self.steal,
            "failures": self.failures,
            "rounds": self.values,
            "medians": {name: {key: self.median(name, key) for key in keys} for name in names},
            "ratios": {name: {key: self.ratio(name, key) for key in keys} for name in names},
        }

    def as_text(self) -> str:
        """Return the tables for people."""
        names = list(self.values)
        parts = [f"{key}: {value}" for key, value in self.machine.items()]
        parts += ["", *(f"{name}: {version}" for name, version in self.versions.items())]
        parts += ["", "Medians (spread over the rounds, of the median)", *self._medians(names)]
        others = [name for name in names if name not in (self.base, NO_TUNNEL)]
        if others and (self.base == BEST or self.base in names):
            parts += ["", f"Ratios of medians to {self.base} (* where less is better)"]
            parts += self._ratios(others)
        parts += ["", f"Noise: {self._noise()}"]
        parts += [f"FAILED {failure}" for failure in self.failures]
        return "\n".join(parts)

    def as_markdown(self) -> str:
        """Return the machine, the medians and the noise for a page of documentation."""
        parts = [*(f"- {key}: {value}" for key, value in self.machine.items())]
        parts += [f"- {name}: {version}" for name, version in self.versions.items()]
        parts += [f"- Noise: {self._noise()}"]
        parts += [f"- failed: {failure}" for failure in self.failures]
        rows = self._median_rows(list(self.values))
        return "\n".join([*parts, "", *markdown(rows)])

    def _medians(self, names: list[str]) -> Iterable[str]:
        return align(self._median_rows(names))

    def _median_rows(self, names: list[str]) -> list[list[str]]:
        rows = [["", *names]]
        for figure in self.figures:
            cells = [figure.title]
            for name in names:
                value, spread = self.median(name, figure.key), self.spread(name, figure.key)
                cell = "-" if value is None else f"{value:.{figure.digits}f}"
                cells.append(cell if spread is None else f"{cell} ({spread:.0%})")
            if any(cell != "-" for cell in cells[1:]):
                rows.append(cells)
        return rows

    def _ratios(self, names: list[str]) -> Iterable[str]:
        rows = [["", *names]]
        for figure in self.figures:
            ratios = [self.ratio(name, figure.key) for name in names]
            if any(ratio is not None for ratio in ratios):
                title = figure.title + (" *" if figure.less_is_better else "")
                rows.append([title, *("-" if r is None else f"{r:.2f}" for r in ratios)])
        return align(rows)

    def _noise(self) -> str:
        spreads = {f.key: self.spread(NO_TUNNEL, f.key) for f in self.figures}
        shown = [f"{key} {value:.0%}" for key, value in spreads.items() if value is not None]
        return (
            f"spread without a tunnel: {', '.join(shown) or 'not measured'};"
            f" stolen by the hypervisor: {self.steal:.1%} of the time"
        )


def markdown(rows: list[list[str]]) -> list[str]:
    """Return rows, of which the first is the heading, as the lines of a Markdown table."""
    rule = ["---", *("---:" for _ in rows[0][1:])]
    return [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])]


def align(rows: list[list[str]]) -> list[str]:
    """Return rows as lines with columns of equal width, the first to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def publish(
    result: Result, bounds: list[list[str]], json_file: Path | None, markdown_file: Path | None
) -> None:
    """Print a result with the bounds that it was held against, and write both to files."""
    print(result.as_text(), *(["", *align(bounds)] if bounds[1:] else []), sep="\n")
    if json_file:
        json_file.write_text(json.dumps(result.as_json(), indent=1) + "\n")
    if markdown_file:
        markdown_file.write_text("\n".join([result.as_markdown(), "", *markdown(bounds), ""]))
