"""tunnelctl's answers for people: tables in a terminal, plain columns elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_COLOURS: Final = {
    "connected": "green",
    "connecting": "yellow",
    "reasserting": "yellow",
    "error": "red",
}


def show_status(report: Mapping[str, Any]) -> None:
    """Print the state, the path and the peers."""
    console = Console(highlight=False, soft_wrap=True)
    facts = _facts()
    state = Text(report["status"], style=_COLOURS.get(report["status"], ""))
    facts.add_row("interface", report["interface"])
    facts.add_row("status", _with_reason(state, report["status_reason"]))
    facts.add_row("path", _path(report["path"]))
    facts.add_row("kill switch", report["kill_switch"])
    console.print(facts)
    if report["peers"]:
        console.print()
        console.print(_peers(report["peers"]))


def show_stats(report: Mapping[str, Any]) -> None:
    """Print the counters that are not zero, by name."""
    console = Console(highlight=False, soft_wrap=True)
    counters = _facts()
    counters.add_row("interface", report["interface"])
    for name, value in sorted(report["counters"].items()):
        if value:
            counters.add_row(name.replace("_", " "), f"{value:,}")
    console.print(counters)


def _facts() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    return table


def _with_reason(state: Text, reason: str | None) -> Text:
    return state if not reason else Text.assemble(state, f": {reason}")


def _path(path: Mapping[str, Any] | None) -> str:
    if path is None:
        return "none"
    text = f"{path['status']}: {path['reason']}" if path["reason"] else str(path["status"])
    marks = [word for word in ("expensive", "constrained") if path[word]]
    return f"{text} ({', '.join(marks)})" if marks else text


def _peers(peers: Iterable[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("peer", "endpoint", "handshake"):
        table.add_column(heading, no_wrap=heading == "peer")
    for heading in ("rtt", "received", "sent"):
        table.add_column(heading, justify="right", no_wrap=True)
    for peer in peers:
        table.add_row(
            peer["public_key"],
            peer["endpoint"] or "unknown",
            handshake(peer["handshake_age"], peer["reason"]),
            "" if peer["rtt"] is None else f"{peer['rtt'] * 1000:.1f} ms",
            size(peer["rx_bytes"]),
            size(peer["tx_bytes"]),
        )
    return table


def handshake(age: float | None, reason: str | None) -> str:
    """Return when the last handshake was, or why there is none. `age` is in seconds."""
    if age is None:
        return f"none: {reason}" if reason else "none"
    parts: Sequence[tuple[int, str]] = ((3600, "h"), (60, "min"), (1, "s"))
    for seconds, unit in parts:
        if age >= seconds:
            return f"{int(age // seconds)} {unit} ago"
    return "now"


def size(count: int | None) -> str:
    """Return a number of bytes in binary units."""
    if count is None:
        return ""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
