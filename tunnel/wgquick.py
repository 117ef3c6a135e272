"""wg-quick's configuration format, read as wg-quick(8) and wg(8) read it.

The file is lines. '#' begins a comment anywhere, in hooks too. '[Interface]' and '[Peer]' open
sections; all else is KEY = VALUE. Section names and keys have no case. Two programs share the
file and differ in one point: wg drops white space everywhere in its lines, wg-quick at both ends
of key and value only. Two lenient habits of the originals are not followed: names of services
in place of port numbers, and an unknown key that is handed on to the other program.

wg refuses an empty AllowedIPs in a file, `wg set` takes it; here it means no networks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tunnel import sections
from tunnel.config import Config
from tunnel.errors import ConfigError, Where
from tunnel.sections import Field, Section
from tunnel.values import quoted

# White space for wg and bash in the C locale. Python's own idea of it takes in more.
_SPACE: Final = " \t\r\v\f"
_DROP_SPACE: Final = str.maketrans("", "", _SPACE)

_KEYS: Final = {item.name: item.key for item in (*sections.INTERFACE, *sections.PEER)}
_FIELDS: Final = {
    "Interface": {item.key.lower(): item for item in sections.INTERFACE},
    "Peer": {item.key.lower(): item for item in sections.PEER},
}


def parse(text: str, source: Path) -> Config:
    """Read the text of a .conf file. `source` only names it.

    Raises ConfigError, which names file, line, key and the mend, and quotes no secret.
    """
    interface: Section | None = None
    peers: list[Section] = []
    warnings: list[str] = []
    kind = None
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        where = Where(source, number)
        line = raw.partition("#")[0].strip(_SPACE)
        if "\0" in raw:
            raise ConfigError("holds a zero byte", where=where, key=None, mend="remove it")
        if not line:
            continue
        if line.startswith("["):
            kind = _heading(line, where)
            if kind == "Peer":
                peers.append(Section(where))
            elif interface is None:
                interface = Section(where)
            else:
                warnings.append(f"{where}: [Interface] is there twice; the two are read as one")
            continue
        section = peers[-1] if kind == "Peer" else interface
        if kind is None or section is None:
            raise ConfigError(
                "stands before any section",
                where=where,
                key=None,
                mend="begin the file with [Interface]",
            )
        _read_line(line, section, kind, where)
    made, peer_configs, more = sections.assemble(interface, peers, _KEYS)
    return Config(source, made, peer_configs, warnings=(*warnings, *more))


def _heading(line: str, where: Where) -> str:
    name = line.translate(_DROP_SPACE).lower()
    for kind in _FIELDS:
        if name == f"[{kind.lower()}]":
            return kind
    raise ConfigError(
        f"{quoted(line)} is not a section",
        where=where,
        key=None,
        mend="write [Interface] or [Peer]",
    )


def _read_line(line: str, section: Section, kind: str, where: Where) -> None:
    key, equals, value = line.partition("=")
    key, value = key.strip(_SPACE), value.strip(_SPACE)
    item = _field(key, kind, where, has_value=bool(equals))
    if item.spaced:
        value = value.translate(_DROP_SPACE)
    if not value and not item.blank:
        raise ConfigError(
            "has no value",
            where=where,
            key=item.key,
            mend="write one after '=', or remove the line",
        )
    section.put(item, item.split(value), where, item.key)


def _field(key: str, kind: str, where: Where, *, has_value: bool) -> Field:
    known = _FIELDS[kind]
    item = known.get(key.lower())
    if item is None:
        item = known.get(key.translate(_DROP_SPACE).lower())
        item = item if item is not None and item.spaced else None
    if item is not None and has_value:
        return item
    if item is not None:
        raise ConfigError("has no '='", where=where, key=item.key, mend=f"write {item.key} = VALUE")
    other = "Peer" if kind == "Interface" else "Interface"
    if key.lower() in _FIELDS[other]:
        moved = _FIELDS[other][key.lower()].key
        raise ConfigError(
            f"does not belong in [{kind}]", where=where, key=moved, mend=f"move it to [{other}]"
        )
    # An unknown word may be half of a broken key, so it is quoted only when it is like a known one.
    meant = sections.closest(key, (item.key for item in known.values()))
    if meant is not None:
        raise ConfigError(
            "is not a key of this section", where=where, key=quoted(key), mend=f"write {meant}"
        )
    raise ConfigError(
        f"this is not a key of [{kind}]",
        where=where,
        key=None,
        mend="use one of " + ", ".join(item.key for item in known.values()),
    )
