"""tunnelctl's answers for people: one fact a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

from rich.console import Console
from rich.text import Text

_COLOURS: Final = {
    "connected": "green",
    "connecting": "yellow",
    "reasserting": "yellow",
    "error": "red",
}


def show_status(report: Mapping[str, Any]) -> None:
    """Print the state, the path and the peers."""
    state = Text(report["status"], style=_COLOURS.get(report["status"], ""))
    _print(
        [
            ("interface", report["interface"]),
            ("status", _with_reason(state, report["status_reason"])),
            ("path", _path(report["path"])),
            ("kill switch", _kill_switch(report["kill_switch"], report.get("kill_switch_opening"))),
        ]
    )
    for peer in report["peers"]:
        print()
        _print(_peer(peer))


def show_kill_switch(report: Mapping[str, Any]) -> None:
    """Print the state and the rules that packets have met."""
    state = _kill_switch(report["kill_switch"], report["opening"])
    facts: list[tuple[str, str | Text]] = [("kill switch", state)]
    if report["interface"]:
        facts.append(("tunnel", report["interface"]))
    if report["confirm"] is not None:
        facts.append(("opens again", f"in {report['confirm']:.0f} s unless confirmed"))
    if report["lockdown_on_exit"]:
        facts.append(("at the end", "stays closed"))
    met = [rule for rule in report["rules"] if rule["packets"]]
    _print(facts)
    if met:
        print()
        _print(_counted(met))
    if report["rules"]:
        rest = len(report["rules"]) - len(met)
        print(f"\n{rest} more rules met no packet; --json shows all, `nft list ruleset` too")


def _kill_switch(state: str, opening: str | None) -> str | Text:
    return state if opening is None else Text(f"{state}, but OPEN: {opening}", style="bold red")


def show_stats(report: Mapping[str, Any]) -> None:
    """Print the counters that are not zero, by name."""
    counters = [
        (name.replace("_", " "), f"{value:,}")
        for name, value in sorted(report["counters"].items())
        if value
    ]
    _print([("interface", report["interface"]), *counters])
    met = [rule for rule in report.get("rules", []) if rule["packets"]]
    if met:
        print("\nkill switch")
        _print(_counted(met))


def _counted(rules: Sequence[Mapping[str, Any]]) -> list[tuple[str, str | Text]]:
    return [
        (
            f"{rule['table']} {rule['chain']}: {rule['rule']}",
            f"{rule['packets']:,} packets, {size(rule['bytes'])}",
        )
        for rule in rules
    ]


def _print(facts: Sequence[tuple[str, str | Text]]) -> None:
    # One fact a line, never cut or folded to a width: it is read, searched and cut by programs too.
    console = _console()
    width = max(len(name) for name, _ in facts)
    if console.is_terminal:
        for name, value in facts:
            console.print(Text.assemble((f"{name:<{width}}", "dim"), "  ", value))
    else:  # 10,000 peers took rich 20 s
        print("\n".join(f"{name:<{width}}  {value}" for name, value in facts))


@cache
def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def _with_reason(state: Text, reason: str | None) -> Text:
    return state if not reason else Text.assemble(state, f": {reason}")


def _path(path: Mapping[str, Any] | None) -> str:
    if path is None:
        return "none"
    text = f"{path['status']}: {path['reason']}" if path["reason"] else str(path["status"])
    marks = [word for word in ("expensive", "constrained") if path[word]]
    return f"{text} ({', '.join(marks)})" if marks else text


def _peer(peer: Mapping[str, Any]) -> list[tuple[str, str | Text]]:
    return [
        ("peer", peer["public_key"]),
        ("endpoint", peer["endpoint"] or "unknown"),
        ("handshake", handshake(peer["handshake_age"], peer["reason"])),
        ("round trip", "unknown" if peer["rtt"] is None else f"{peer['rtt'] * 1000:.1f} ms"),
        ("received", size(peer["rx_bytes"])),
        ("sent", size(peer["tx_bytes"])),
    ]


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
