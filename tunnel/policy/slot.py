"""A slot: one running tunnel's share of table ids and rule preferences, held by a file lock.

The kernel drops the lock when the process ends, however it ends, so a free slot whose numbers are
still in use was left by a crash, and whoever takes it may remove them. The lock's file also says
what cannot be read back from the kernel: the former value of a sysctl that had to be changed.
Locks belong to a network namespace (its inode is in their names), as tables and rules do.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from tunnel.errors import PrivilegeError, TunnelError
from tunnel.policy.numbers import SLOTS

RUN = Path("/run/tunneld")


class Slot:
    """A slot that is held. `number` is 0 to SLOTS - 1."""

    def __init__(self, number: int, path: Path, fd: int) -> None:
        self.number = number
        self._path = path
        self._fd = fd

    @classmethod
    def take(cls, folder: Path = RUN) -> Slot:
        """Take the first free slot. Raises TunnelError when there is none, PrivilegeError."""
        for number in range(SLOTS):
            if slot := cls.take_if_free(number, folder):
                return slot
        raise TunnelError(f"{SLOTS} tunnels run on this machine already; stop one of them")

    @classmethod
    def take_if_free(cls, number: int, folder: Path = RUN) -> Slot | None:
        """Take this slot; None while a living process has it. Raises PrivilegeError."""
        path = folder / f"routes-{_namespace()}-{number}"
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        while True:
            try:
                folder.mkdir(mode=0o755, parents=True, exist_ok=True)
                fd = os.open(path, flags, 0o600)
            except PermissionError as error:
                raise PrivilegeError(f"may not write {path}; run as root") from error
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return None
            # Its last holder may have removed the file between our open and our lock.
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(fd).st_ino == path.stat().st_ino:
                    return cls(number, path, fd)
            os.close(fd)

    def record(self, text: str) -> None:
        """Keep a note that outlives a crash, in place of the former one."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text.encode(), 0)

    def note(self) -> str:
        """Return the note: ours, or the one that a crashed holder left."""
        return os.pread(self._fd, 4096, 0).decode(errors="replace")

    def others(self) -> list[str]:
        """Return the notes of the other slots of this namespace."""
        notes = []
        for path in self._path.parent.glob(f"routes-{_namespace()}-*"):
            if path != self._path:
                with contextlib.suppress(OSError):
                    notes.append(path.read_text(encoding="utf-8", errors="replace"))
        return notes

    def release(self) -> None:
        """Give the slot back and forget its note; safe to call again."""
        if self._fd >= 0:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
            os.close(self._fd)
            self._fd = -1


def _namespace() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino
