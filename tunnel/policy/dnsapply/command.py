"""resolvconf(8): hands a tunnel's resolvers to openresolv or to Debian's resolvconf.

openresolv takes `-x`, "these servers and no others". Debian's knows no such thing and lists the
others after ours; the caller reads the file back and sees that. systemd's command of the same name
only translates for systemd-resolved, which is asked directly where it runs.

Their records outlive us, and a record's name holds the interface's, so that one whose interface is
gone is known to be a crash's (`leftover`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tunnel.errors import TunnelError
from tunnel.policy.dnsapply.leftover import RECORD_AFTER, RECORD_BEFORE

SECONDS: Final = 10.0
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Resolvconf:
    """The command at `path`."""

    def __init__(self, path: str, *, exclusive: bool) -> None:
        self._path = path
        self._only_ours = ["-m", "0", "-x"] if exclusive else []

    @classmethod
    async def find(cls) -> Resolvconf | None:
        """Return the machine's command, None where it has none that keeps resolv.conf."""
        path = shutil.which("resolvconf", path=_PATH)
        if path is None or _is_resolvectl(path):
            return None
        with contextlib.suppress(TunnelError):
            said = await _run([path, "--version"])
            return cls(path, exclusive=said.startswith("openresolv"))
        return None

    async def add(self, interface: str, text: str) -> None:
        """Give the interface's servers, in place of those given before. Raises TunnelError."""
        await _run([self._path, "-a", _name(interface), *self._only_ours], text)

    async def remove(self, interface: str) -> None:
        """Take the interface's servers back. Raises TunnelError."""
        await _run([self._path, "-d", _name(interface)])

    async def update(self) -> None:
        """Have resolv.conf written anew. Raises TunnelError."""
        await _run([self._path, "-u"])


def _is_resolvectl(path: str) -> bool:
    return Path(path).resolve().name == "resolvectl"


def _name(interface: str) -> str:
    return f"{RECORD_BEFORE}{interface}{RECORD_AFTER}"


async def _run(words: Sequence[str], given: str = "") -> str:
    return await asyncio.to_thread(_run_here, words, given)


def _run_here(words: Sequence[str], given: str) -> str:
    try:
        done = subprocess.run(
            words,
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
            umask=0o022,  # tunneld's own would make a resolv.conf that only root can read
            env={**os.environ, "PATH": _PATH},
        )
    except subprocess.TimeoutExpired:
        raise TunnelError(f"{' '.join(words)} did not end within {SECONDS:g} s") from None
    if done.returncode:
        why = done.stderr.strip().replace("\n", "; ") or "no reason given"
        raise TunnelError(f"{' '.join(words)} failed: {why}")
    return done.stdout
