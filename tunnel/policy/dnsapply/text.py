"""What stands in a resolv.conf(5): read, and written for a tunnel. Pure.

A file of ours is known by its first line, so that nobody takes it for the machine's own: neither
the next start, which would keep it as "the original", nor the reader of an interface's servers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tunnel.settings import Address

HEAD: Final = "# Written by tunneld"
STUB: Final = ("127.0.0.53", "127.0.0.54")
"""Where systemd-resolved listens."""
KEPT_SUFFIX: Final = ".before-tunneld"
"""What is added to the file's name while the original is kept beside it."""

_NAMESERVER: Final = re.compile(r"^\s*nameserver\s+(\S+)", re.MULTILINE)


def render(interface: str, servers: Sequence[Address | str], search: Sequence[str]) -> str:
    """Return the file that sends every name to these servers."""
    lines = [f"{HEAD} for {interface}; what was here comes back when the tunnel stops."]
    lines += [f"nameserver {server}" for server in servers]
    lines += [f"search {' '.join(search)}"] if search else []
    return "".join(f"{line}\n" for line in lines)


def nameservers(text: str) -> tuple[str, ...]:
    """Return the servers of a file, in their order."""
    return tuple(_NAMESERVER.findall(text))


def is_ours(text: str) -> bool:
    """Tell whether a tunneld wrote this."""
    return text.startswith(HEAD)


def read(path: Path) -> str:
    """Return a file's text; one that cannot be read counts as empty."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
