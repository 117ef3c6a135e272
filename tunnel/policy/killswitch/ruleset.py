"""A firewall as a value: tables of chains of rules, and how a person reads it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tunnel.policy.killswitch import nfnl
from tunnel.policy.killswitch.match import Match, Verdict

TIMERS: Final = "timers"
FAMILIES: Final = {nfnl.INET: "inet", nfnl.ARP: "arp", nfnl.NETDEV: "netdev"}
_HOOKS: Final = {
    nfnl.INET: {
        nfnl.PRE_ROUTING: "prerouting",
        nfnl.LOCAL_IN: "input",
        nfnl.FORWARD: "forward",
        nfnl.LOCAL_OUT: "output",
        nfnl.POST_ROUTING: "postrouting",
    },
    nfnl.ARP: {nfnl.ARP_IN: "input"},
    nfnl.NETDEV: {nfnl.EGRESS: "egress"},
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `label` says what it is for, is unique in its chain and names its counter."""

    label: str
    matches: tuple[Match, ...]
    verdict: Verdict

    def __str__(self) -> str:
        words = [match.text for match in self.matches]
        return " ".join([*words, "counter", self.verdict.text, f'comment "{self.label}"'])


@dataclass(frozen=True, slots=True)
class Hook:
    """Where a base chain sits; at the egress, on which devices."""

    number: int
    priority: int
    drops: bool
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain; without a hook it is only jumped to."""

    name: str
    rules: tuple[Rule, ...]
    hook: Hook | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table of one family."""

    family: int
    name: str
    chains: tuple[Chain, ...]


@dataclass(frozen=True, slots=True)
class Ruleset:
    """The whole firewall. `comment` says its state; `timers` are keys and seconds, in each table.

    A timer that is to end at once is left out: what waits for its end sees it ended.
    """

    comment: str
    tables: tuple[Table, ...]
    timers: tuple[tuple[int, float], ...] = ()


def lines(ruleset: Ruleset) -> Iterator[str]:
    """Yield the firewall in nft's language, as `tunneld --check` prints it."""
    for table in ruleset.tables:
        yield f"table {FAMILIES[table.family]} {table.name} {{"
        yield f'  comment "{ruleset.comment}"'
        for key, seconds in ruleset.timers:
            yield f"  # timer {key}: {seconds:g} s"
        for chain in table.chains:
            yield f"  chain {chain.name} {{"
            if chain.hook is not None:
                yield f"    {_hook(table.family, chain.hook)}"
            yield from (f"    {rule}" for rule in chain.rules)
            yield "  }"
        yield "}"


def _hook(family: int, hook: Hook) -> str:
    names = ", ".join(f'"{name}"' for name in hook.devices)
    devices = f" devices = {{ {names} }}" if names else ""
    policy = "drop" if hook.drops else "accept"
    where = _HOOKS[family][hook.number]
    return f"type filter hook {where}{devices} priority {hook.priority}; policy {policy};"
