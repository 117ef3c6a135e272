"""A lock that the kernel drops with its holder, however that ends: flock(2) on a file of its own.

A lock that is free while what it guards is still there means: its holder has crashed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


def try_lock(path: Path) -> int:
    """Return a descriptor that holds the lock, -1 while somebody else has it. Raises OSError."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with contextlib.suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its last holder may have removed the file between our open and our lock.
        if os.fstat(lock).st_ino == path.stat().st_ino:
            return lock
    os.close(lock)
    return -1


def unlock(path: Path, lock: int) -> None:
    """Give the lock back and remove its file."""
    path.unlink(missing_ok=True)
    os.close(lock)
