"""Names of routing tables as ip(8) knows them: /etc/iproute2/rt_tables and its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

# Later places win, as with ip(8): the distribution's file, the administrator's, its drop-ins.
_PLACES: Final = (Path("/usr/share/iproute2"), Path("/etc/iproute2"))


def parse(text: str) -> dict[str, int]:
    """Return name -> number from rt_tables text; lines that ip(8) would skip are skipped."""
    tables = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        try:
            if len(words) == 2:
                tables[words[1]] = int(words[0], 0)
        except ValueError:
            continue
    return tables


def lookup(name: str) -> int | None:
    """Return the number of the routing table with this name, or None where there is none."""
    tables = {"default": 253, "main": 254, "local": 255}
    for place in _PLACES:
        for path in (place / "rt_tables", *sorted((place / "rt_tables.d").glob("*.conf"))):
            try:
                tables |= parse(path.read_text(encoding="utf-8", errors="replace"))
            except OSError:
                continue
    return tables.get(name) or None  # 0 is "unspec", no table
