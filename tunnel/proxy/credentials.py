"""Who may use a proxy: names and passwords from a file, one NAME:PASSWORD a line.

They are compared in constant time, all of them each time, so that an answer's delay tells nothing.
"""

from __future__ import annotations

import hmac
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tunnel.errors import ConfigError, Where, reading_mend

_LONGEST: Final = 255  # bytes of a name or password, RFC 1929 section 2
_FILE_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """Pairs of name and password."""

    pairs: tuple[tuple[bytes, bytes], ...]

    def __repr__(self) -> str:
        return f"<{len(self.pairs)} credentials>"

    def admit(self, name: bytes, password: bytes) -> bool:
        """Say whether this pair is among them."""
        found = False
        for own_name, own_password in self.pairs:
            same = hmac.compare_digest(own_name, name)
            found |= same & hmac.compare_digest(own_password, password)
        return found


def read_credentials(path: Path) -> Credentials:
    """Read a file that only its owner may read. Raises ConfigError, which quotes nothing of it."""
    where = Where(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_FILE_MAX) if stat.S_ISREG(mode) else None
    except OSError as error:
        problem = f"the credentials cannot be read: {error.strerror}"
        raise ConfigError(problem, where=where, key=None, mend=reading_mend(error)) from None
    if text is None:
        raise ConfigError("this is not a file", where=where, key=None, mend="check the path")
    if mode & 0o077:
        raise ConfigError(
            "other users may read the credentials", where=where, key=None, mend="chmod 600"
        )
    pairs = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith(b"#"):
            continue
        name, colon, password = line.partition(b":")
        if not (colon and 0 < len(name) <= _LONGEST and 0 < len(password) <= _LONGEST):
            problem = f"line {number} is not NAME:PASSWORD"
            raise ConfigError(problem, where=where, key=None, mend="write one pair a line")
        pairs.append((name, password))
    if not pairs:
        raise ConfigError("no credentials are in it", where=where, key=None, mend="add a pair")
    return Credentials(tuple(pairs))
