"""The plot of a side-by-side run: one group of bars a figure, as an SVG that needs no program.

Bars are medians, thin lines reach from the lowest round to the highest. Every group has a scale of
its own, from zero to its highest bar, and each bar carries its figure: groups are not comparable
with each other, bars of one group are.
"""

from __future__ import annotations

from html import escape

from bench.measures import FIGURES, Figure
from bench.report import NO_TUNNEL, Result

_KEYS = ("tcp1", "tcp1_wire", "tcp4", "small", "loaded_p99", "cpu")
_LABELS, _BAR, _LINE, _GAP, _WIDTH = 170, 320, 18, 34, 620
_OWN, _OTHER = "#1a7f5a", "#9aa5b1"


def svg(result: Result, subject: str = "tunneld") -> str:
    """Return the picture; only figures that were measured are in it."""
    names = [name for name in result.values if name != NO_TUNNEL]
    parts: list[str] = []
    y = 10
    for figure in FIGURES:
        if figure.key in _KEYS and any(result.median(name, figure.key) for name in names):
            y = _group(parts, result, figure, names, subject, y)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}"'
        f' viewBox="0 0 {_WIDTH} {y}" font-family="sans-serif" font-size="12">'
    )
    background = f'<rect width="{_WIDTH}" height="{y}" fill="#ffffff"/>'
    return "\n".join([head, background, *parts, "</svg>", ""])


def _group(
    parts: list[str], result: Result, figure: Figure, names: list[str], subject: str, y: int
) -> int:
    """Append one figure's title and bars from height `y` on; return where the next one begins."""
    better = "less is better" if figure.less_is_better else "more is better"
    title = escape(f"{figure.title} ({better})")
    parts.append(f'<text x="10" y="{y + 14}" font-weight="bold">{title}</text>')
    y += 22
    rounds = {name: result.values[name].get(figure.key, []) for name in names}
    top = max((max(values) for values in rounds.values() if values), default=1.0) or 1.0
    for name in names:
        value = result.median(name, figure.key)
        if value is None:
            continue
        middle = y + _LINE / 2
        width, low, high = (
            _BAR * part / top for part in (value, min(rounds[name]), max(rounds[name]))
        )
        colour = _OWN if name == subject else _OTHER
        parts += [
            f'<text x="{_LABELS - 8}" y="{middle + 4:g}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LABELS}" y="{y + 2}" width="{width:.1f}" height="{_LINE - 4}"'
            f' fill="{colour}"/>',
            f'<line x1="{_LABELS + low:.1f}" x2="{_LABELS + high:.1f}" y1="{middle:g}"'
            f' y2="{middle:g}" stroke="#333333"/>',
            f'<text x="{_LABELS + max(width, high) + 6:.1f}" y="{middle + 4:g}">'
            f"{value:.{figure.digits}f}</text>",
        ]
        y += _LINE
    return y + _GAP - 22
