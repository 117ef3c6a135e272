"""What `tunnelctl path`, `explain` and `leaktest` print for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

_COLOURS: Final = {
    "satisfied": "green", "in use": "green", "pass": "green", "stopped": "green", "seen": "green",
    "satisfiable": "yellow", "stands by": "yellow", "unproven": "yellow", "not sent": "yellow",
    "unsatisfied": "red", "fail": "red", "leaked": "red", "not used": "dim",
}  # fmt: skip


def show_path(report: Mapping[str, Any]) -> None:
    """Print the path, its interfaces in order, and the tunnel's resolvers."""
    path, console = report["path"], _console()
    state = _coloured(path["status"])
    console.print(Text.assemble("path: ", state, f": {path['reason']}" if path["reason"] else ""))
    bound = "is bound to its interface" if report["bound"] else "follows the routing table"
    console.print(f"tunneld's own traffic {bound}; mark {report['mark']:#x}")
    console.print(_grid(
        ("interface", "use", "type", "evidence", "addresses", "gateways", "DNS", "flags"),
        [
            (
                one["name"],
                one["role"] if one["reason"] is None else f"{one['role']}: {one['reason']}",
                one["type"],
                f"{one['evidence']} ({one['confidence']})",
                "\n".join(one["addresses"]),
                "\n".join(one["gateways"]),
                "\n".join(one["dns"]),
                ", ".join(word.replace("_", " ") for word in _FLAGS if one[word]),
            )
            for one in report["interfaces"]
        ],
    ))  # fmt: skip
    dns = report["dns"]
    if dns["servers"]:
        names = "every name"
        if dns["match_domains"] and "" not in dns["match_domains"]:
            names = "names under " + ", ".join(dns["match_domains"])
        servers = ", ".join(dns["servers"])
        console.print(f"the tunnel's DNS: {servers} for {names}, through {dns['method']}")


_FLAGS: Final = ("ipv4", "ipv6", "expensive", "constrained", "ultra_constrained")


def show_explanation(report: Mapping[str, Any]) -> None:
    """Print each packet's way, one fact a line."""
    console = _console()
    for one in report["packets"]:
        mark = f", mark {one['mark']:#x}" if one["mark"] else ""
        bound = f", bound to {one['bound_to']}" if one["bound_to"] else ""
        what = f"{one['protocol'].upper()} port {one['port']}{mark}{bound}"
        to = f"from {one['sender']} to {one['destination']} ({what})"
        console.print(Text.assemble((to, "bold"), ": ", one["result"]))
        rule, firewall = one["rule"], one["firewall"] or {}
        facts = (
            ("interface", one["interface"]),
            ("source", one["source"]),
            ("next hop", one["gateway"] or ("on the link" if one["interface"] else None)),
            ("rule", rule and f"{rule['preference']}: {rule['words']}"),
            ("table", one["table"]),
            ("route", one["route"]),
            ("firewall", _firewall(firewall)),
            ("unsure", "a rule with selectors that are not modelled here" if one["unsure"] else ""),
        )
        for name, value in facts:
            if value:
                console.print(Text.assemble((f"  {name:<10}", "dim"), str(value)))


def show_leaktest(report: Mapping[str, Any]) -> None:
    """Print each probe with what became of it, then the verdict."""
    console = _console()
    rows = [
        (one["probe"], one["interface"] or "", one["target"], one["outcome"], one["detail"] or "")
        for one in report["probes"]
    ]
    console.print(_grid(("probe", "bound to", "target", "outcome", "what happened"), rows))
    console.print(Text.assemble(_coloured(report["result"]), f": {report['reason']}"))


def _firewall(firewall: Mapping[str, Any]) -> str:
    if not firewall:
        return ""
    if firewall["verdict"] is None:
        return f"unknown: {firewall['by']}"
    unsure = "; not judged here: " + ", ".join(firewall["unsure"]) if firewall["unsure"] else ""
    return f"{firewall['verdict']} by {firewall['by']}{unsure}"


def _grid(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_coloured(cell) for cell in row))
    return table


def _coloured(word: str) -> Text:
    return Text(word, style=_COLOURS.get(word.partition(":")[0], ""))


def _console() -> Console:
    # Piped, it is read by programs too: a line is not cut to a width that nobody has.
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 400
    return console
