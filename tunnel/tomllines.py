"""Where a key of a TOML document stands: tomllib gives values without lines.

A small scan finds headings and keys at the beginning of lines and steps over multi-line strings.
It serves messages only, so it may miss: a key inside an inline table is reported at the line of
the nearest thing around it that was found.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

_HEADING: Final = re.compile(r"\s*(\[\[?)([^\[\]]+)\]")
_KEY: Final = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')(?:\s*\.[^=\n]*)?)\s*=""")
_KEY_LENGTH_MAX: Final = 200  # beyond that a name is no help, and parsing it costs


class Lines:
    """The lines of a document's tables and keys."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._found: dict[tuple[str | int, ...], int] | None = None

    def find(self, path: tuple[str | int, ...]) -> int | None:
        """Return the line of a key, or of the nearest table around it, or None."""
        if self._found is None:
            self._found = _scan(self._text)
        for length in range(len(path), 0, -1):
            if path[:length] in self._found:
                return self._found[path[:length]]
        return None


def _scan(text: str) -> dict[tuple[str | int, ...], int]:
    found: dict[tuple[str | int, ...], int] = {}
    counts: dict[str, int] = {}
    table: tuple[str | int, ...] = ()
    inside: str | None = None  # the quotes that end a multi-line string
    for number, line in enumerate(text.split("\n"), 1):
        if inside is None and (heading := _HEADING.match(line)):
            table = tuple(_names(heading[2]))
            if heading[1] == "[[" and table:
                last = ".".join(map(str, table))
                counts[last] = counts.get(last, -1) + 1
                table = (*table, counts[last])
            found.setdefault(table, number)
        elif inside is None and (key := _KEY.match(line)):
            found.setdefault((*table, *_names(key[1])), number)
        for quotes in re.findall(r'"""|\'\'\'', line):
            inside = quotes if inside is None else (None if inside == quotes else inside)
    return found


def _names(key: str) -> list[str]:
    """Return the parts of a dotted key, as tomllib reads it."""
    if len(key) > _KEY_LENGTH_MAX:
        return []
    try:
        part: Any = tomllib.loads(f"{key} = 0")
    except ValueError:
        return []
    names = []
    while isinstance(part, dict) and part:
        name, part = next(iter(part.items()))
        names.append(name)
    return names
