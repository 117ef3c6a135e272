"""Keys in files of their own: one line of base64, as `wg genkey` prints it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from tunnel.errors import reading_mend
from tunnel.secret import Secret
from tunnel.values import BadValue, secret_key

_READ_MAX: Final = 4096


def read_key_file(path: Path) -> tuple[Secret, bool]:
    """Return the key, and whether every user may read the file (a reason to warn).

    Raises BadValue, which names the file but quotes nothing of it.
    """
    named = repr(str(path))  # an odd character in it must not break the line
    try:
        # Non-blocking, so that a pipe at this path cannot hold the start up.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise BadValue(f"{named} is not a file", "name a file that holds one key")
            text = os.read(descriptor, _READ_MAX).decode("ascii").strip()
        finally:
            os.close(descriptor)
    except OSError as error:
        problem = f"{named} cannot be read: {error.strerror}"
        raise BadValue(problem, reading_mend(error)) from None
    except UnicodeDecodeError:
        raise BadValue(f"{named} is not text", "put one key in base64 into it") from None
    try:
        return secret_key(text), bool(mode & 0o004)
    except BadValue as error:
        raise BadValue(f"{named} {error.problem}", error.mend) from None
