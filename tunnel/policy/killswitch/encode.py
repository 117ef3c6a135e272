"""A ruleset as one transaction for the kernel. Pure.

The tables are made anew each time, in the same transaction that removes the former ones, so that
there is no moment without them. Counters go on from where the former rules' counters were.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tunnel.policy.killswitch import match, nfnl
from tunnel.policy.killswitch.nfnl import Attribute, be32, be64, text
from tunnel.policy.killswitch.ruleset import TIMERS, Chain, Hook, Rule, Ruleset, Table

LABEL_MAX: Final = 127
#: (family, chain, label) -> (packets, bytes)
Counts = Mapping[tuple[int, str, str], tuple[int, int]]
Step = tuple[int, int, Sequence[Attribute], int]

_SET_TIMEOUT: Final = 0x10
_TYPE_MARK: Final = 19  # how nft shows the keys
_COMMENT: Final = 0  # NFTNL_UDATA_*_COMMENT


def transaction(
    ruleset: Ruleset, *, flags: int, remove: Iterable[tuple[int, str]], counts: Counts | None = None
) -> list[Step]:
    """Return the messages that put `ruleset` in place of the tables in `remove`.

    `flags` are those of the tables (nfnl.TABLE_*).
    """
    steps = removal(remove)
    for table in ruleset.tables:
        steps += _table(table, ruleset, flags, counts or {})
    return steps


def removal(tables: Iterable[tuple[int, str]]) -> list[Step]:
    """Return the messages that remove tables, given as (family, name)."""
    return [(nfnl.DELTABLE, family, ((1, text(name)),), 0) for family, name in tables]


def expressions(rule: Rule, start: tuple[int, int] = (0, 0)) -> list[match.Expression]:
    """Return a rule's expressions: its matches, its counter, its verdict."""
    found = [expression for one in rule.matches for expression in one.expressions]
    return [*found, match.counter(*start), rule.verdict.expression]


def _table(table: Table, ruleset: Ruleset, flags: int, counts: Counts) -> list[Step]:
    family = table.family
    made: list[Attribute] = [
        (1, text(table.name)),
        (2, be32(flags)),
        (6, userdata(ruleset.comment)),
    ]
    steps: list[Step] = [(nfnl.NEWTABLE, family, made, nfnl.CREATE)]
    steps += _timers(table, ruleset)
    steps += [_chain(table, chain) for chain in table.chains]
    for chain in table.chains:
        for rule in chain.rules:
            start = counts.get((family, chain.name, rule.label), (0, 0))
            steps.append(_rule(table, chain, rule, start))
    return steps


def _timers(table: Table, ruleset: Ruleset) -> list[Step]:
    made: list[Attribute] = [
        (1, text(table.name)),
        (2, text(TIMERS)),
        (3, be32(_SET_TIMEOUT)),
        (4, be32(_TYPE_MARK)),
        (5, be32(4)),
        (10, be32(1)),
    ]
    steps: list[Step] = [(nfnl.NEWSET, table.family, made, nfnl.CREATE)]
    elements: list[Attribute] = [
        (1, ((1, ((1, struct.pack("=I", key)),)), (4, be64(max(1, round(seconds * 1000))))))
        for key, seconds in ruleset.timers
    ]
    if elements:
        items: list[Attribute] = [(1, text(table.name)), (2, text(TIMERS)), (3, elements)]
        steps.append((nfnl.NEWSETELEM, table.family, items, nfnl.CREATE))
    return steps


def _chain(table: Table, chain: Chain) -> Step:
    items: list[Attribute] = [(1, text(table.name)), (3, text(chain.name))]
    if chain.hook is not None:
        items += [
            (4, _hook(chain.hook)),
            (5, be32(nfnl.DROP if chain.hook.drops else nfnl.ACCEPT)),
            (7, text("filter")),
        ]
    return nfnl.NEWCHAIN, table.family, items, nfnl.CREATE


def _hook(hook: Hook) -> list[Attribute]:
    items: list[Attribute] = [(1, be32(hook.number)), (2, be32(hook.priority))]
    if hook.devices:
        items.append((4, [(1, text(name)) for name in hook.devices]))
    return items


def _rule(table: Table, chain: Chain, rule: Rule, start: tuple[int, int]) -> Step:
    listed: list[Attribute] = [
        (1, ((1, text(name)), (2, items))) for name, items in expressions(rule, start)
    ]
    items: list[Attribute] = [
        (1, text(table.name)),
        (2, text(chain.name)),
        (4, listed),
        (7, userdata(rule.label)),
    ]
    return nfnl.NEWRULE, table.family, items, nfnl.CREATE | nfnl.APPEND


def userdata(comment: str) -> bytes:
    """Return a comment as nft keeps it with tables and rules."""
    value = comment.encode()[:LABEL_MAX] + b"\0"
    return bytes([_COMMENT, len(value)]) + value


def commented(data: bytes) -> str:
    """Return the comment in user data; empty where there is none."""
    place = 0
    while place + 2 <= len(data):
        kind, length = data[place], data[place + 1]
        if kind == _COMMENT:
            value = data[place + 2 : place + 2 + length]
            return value.rstrip(b"\0").decode(errors="replace")
        place += 2 + length
    return ""
