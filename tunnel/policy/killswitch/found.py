"""What the kernel has, and how it differs from what it should have. Pure.

The kernel gives back what it was sent and more (handles, sizes). So the comparison is: all that
was sent must be there as it was sent, in the same order, and no chain or rule beside it.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tunnel.policy.killswitch import encode, nfnl
from tunnel.policy.killswitch.nfnl import Attribute, Message, parsed
from tunnel.policy.killswitch.ruleset import FAMILIES, Chain, Hook, Ruleset, Table


@dataclass(frozen=True, slots=True)
class FoundRule:
    """A rule in the kernel: its comment, its expressions (name, raw attributes), its counter."""

    label: str
    expressions: tuple[tuple[str, bytes], ...]
    packets: int
    size: int


@dataclass(slots=True)
class FoundChain:
    """A chain in the kernel; `hook` None where it is only jumped to."""

    hook: Hook | None
    rules: list[FoundRule] = field(default_factory=list)


@dataclass(slots=True)
class FoundTable:
    """A table in the kernel; `owner` is the netlink port of its owner, 0 for none."""

    family: int
    name: str
    flags: int
    owner: int
    comment: str
    chains: dict[str, FoundChain] = field(default_factory=dict)


def tables(messages: Iterable[Message], name: str) -> list[FoundTable]:
    """Return the tables of this name, from the answers to GETTABLE, GETCHAIN and GETRULE."""
    found: dict[int, FoundTable] = {}
    rest = []
    for message in messages:
        if message.kind == nfnl.SUBSYSTEM << 8 | nfnl.NEWTABLE:
            items = dict(parsed(message.body))
            if _string(items[1]) == name and message.family in FAMILIES:
                found[message.family] = FoundTable(
                    message.family,
                    name,
                    _be32(items.get(2)),
                    _be32(items.get(7)),
                    encode.commented(items.get(6, b"")),
                )
        else:
            rest.append(message)
    for message in rest:
        items = dict(parsed(message.body))
        table = found.get(message.family)
        if table is None or _string(items.get(1, b"")) != name:
            continue
        if message.kind == nfnl.SUBSYSTEM << 8 | nfnl.NEWCHAIN:
            table.chains[_string(items[3])] = FoundChain(_hook(items))
        elif message.kind == nfnl.SUBSYSTEM << 8 | nfnl.NEWRULE:
            chain = table.chains.setdefault(_string(items[2]), FoundChain(None))
            chain.rules.append(_rule(items))
    return list(found.values())


def timers(messages: Iterable[Message]) -> set[int]:
    """Return the keys of the timers that run, from the answers to GETSETELEM."""
    running = set()
    for message in messages:
        for _, element in parsed(dict(parsed(message.body)).get(3, b"")):
            key = dict(parsed(dict(parsed(element)).get(1, b""))).get(1, b"")
            running.add(int.from_bytes(key, sys.byteorder))
    return running


def counts(found: Iterable[FoundTable]) -> dict[tuple[int, str, str], tuple[int, int]]:
    """Return each rule's packets and bytes by family, chain and label."""
    return {
        (table.family, name, rule.label): (rule.packets, rule.size)
        for table in found
        for name, chain in table.chains.items()
        for rule in chain.rules
    }


def differences(wanted: Ruleset, found: Sequence[FoundTable], flags: int) -> list[str]:
    """Say what is not as it should be; nothing where all is."""
    by_family = {table.family: table for table in found}
    said: list[str] = []
    for table in wanted.tables:
        there = by_family.get(table.family)
        name = f"table {FAMILIES[table.family]} {table.name}"
        if there is None:
            said.append(f"{name} is gone")
        elif there.flags != flags:
            said.append(f"{name} has the flags {there.flags:#x}, not {flags:#x}")
        else:
            said += _chain_differences(table, there, name)
    return said


def _chain_differences(table: Table, there: FoundTable, name: str) -> Iterator[str]:
    for chain in table.chains:
        found = there.chains.get(chain.name)
        if found is None:
            yield f"chain {chain.name} of {name} is gone"
        elif not _same_hook(chain.hook, found.hook):
            yield f"chain {chain.name} of {name} has another hook, policy or list of devices"
        else:
            yield from _rule_differences(chain, found, name)
    for extra in sorted(there.chains.keys() - {chain.name for chain in table.chains}):
        yield f"{name} has a chain {extra}"


def _rule_differences(chain: Chain, found: FoundChain, name: str) -> Iterator[str]:
    if len(chain.rules) != len(found.rules):
        yield f"chain {chain.name} of {name} has {len(found.rules)} rules, not {len(chain.rules)}"
        return
    for rule, there in zip(chain.rules, found.rules, strict=True):
        sent = encode.expressions(rule)
        same = [name for name, _ in sent] == [name for name, _ in there.expressions] and all(
            word == "counter" or _holds(items, data)
            for (word, items), (_, data) in zip(sent, there.expressions, strict=True)
        )
        if not same:
            yield f"rule {rule.label!r} of chain {chain.name} of {name} is another"


def _same_hook(wanted: Hook | None, found: Hook | None) -> bool:
    if wanted is None or found is None:
        return wanted is found
    return (wanted.number, wanted.priority, wanted.drops) == (
        found.number,
        found.priority,
        found.drops,
    ) and set(wanted.devices) == set(found.devices)


def _holds(sent: Sequence[Attribute], data: bytes) -> bool:
    """Whether all attributes that were sent are there; numbers may be padded by the kernel."""
    there = dict(parsed(data))
    for kind, value in sent:
        found = there.get(kind)
        if found is None:
            return False
        if not isinstance(value, bytes):
            if not _holds(value, found):
                return False
        elif found.rstrip(b"\0") != value.rstrip(b"\0"):
            return False
    return True


def _rule(items: dict[int, bytes]) -> FoundRule:
    expressions = []
    packets = size = 0
    for _, listed in parsed(items.get(4, b"")):
        expression = dict(parsed(listed))
        name, data = _string(expression.get(1, b"")), expression.get(2, b"")
        expressions.append((name, data))
        if name == "counter":
            values = dict(parsed(data))
            size, packets = _be64(values.get(1)), _be64(values.get(2))
    label = encode.commented(items.get(7, b""))
    return FoundRule(label, tuple(expressions), packets, size)


def _hook(items: dict[int, bytes]) -> Hook | None:
    if 4 not in items:
        return None
    hook = dict(parsed(items[4]))
    devices = list(parsed(hook.get(4, b"")))
    if not devices and 3 in hook:
        devices = [(1, hook[3])]
    (priority,) = struct.unpack(">i", hook[2])
    return Hook(
        _be32(hook.get(1)),
        priority,
        drops=_be32(items.get(5)) == nfnl.DROP,
        devices=tuple(_string(name) for _, name in devices),
    )


def _string(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode(errors="replace")


def _be32(data: bytes | None) -> int:
    return int.from_bytes(data or b"", "big")


def _be64(data: bytes | None) -> int:
    return int.from_bytes(data or b"", "big")
