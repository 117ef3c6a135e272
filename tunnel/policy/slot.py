"""A slot: one running tunnel's share of table ids and rule preferences, held by a file lock.

The kernel drops the lock when the process ends, however it ends, so a free slot whose numbers are
still in use was left by a crash, and whoever takes it may remove them, with one exception: what a
tunnel that includes all networks left is closed on purpose, and stays for the next start of the
tunnel of that name, which takes the same slot again. The lock's file says so, and what else cannot
be read back from the kernel: the former value of a sysctl that had to be changed.
Locks belong to a network namespace (its inode is in their names), as tables and rules do.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tunnel.errors import PrivilegeError, TunnelError, file_error
from tunnel.policy.numbers import SLOTS

RUN = Path("/run/tunneld")
_NOTE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Note:
    """What outlives a crash: whose slot it is, whether it stays closed, a sysctl's former value."""

    name: str = ""
    closed: bool = False
    src_valid_mark: str = ""

    @classmethod
    def parse(cls, text: str) -> Note:
        """Read a note; what is not one counts as an empty one."""
        try:
            said = json.loads(text)
            return cls(**{field.name: said[field.name] for field in fields(cls)})
        except (ValueError, KeyError, TypeError):
            return cls()


class Slot:
    """A slot that is held. `number` is 0 to SLOTS - 1."""

    def __init__(self, number: int, path: Path, fd: int) -> None:
        self.number = number
        self._path = path
        self._fd = fd

    @classmethod
    def take(
        cls, folder: Path = RUN, name: str = "", standing: Collection[int] = range(SLOTS)
    ) -> Slot:
        """Take the slot that the tunnel of this name left closed, else the first free one.

        `standing` are the slots that the kernel has rules of: a note that says closed of another
        one is about a namespace that was, whose number this one has got. Raises TunnelError when
        there is none, PrivilegeError.
        """
        free: Slot | None = None
        for number in range(SLOTS):
            slot = cls.take_if_free(number, folder)
            if slot is None:
                continue
            note = slot.note()
            if note.closed and number not in standing:
                note = Note()
                slot.record(note)
            if note.closed and note.name == name:
                if free is not None:
                    free.release()
                return slot
            if note.closed or free is not None:
                slot.release(keep=note != Note())
            else:
                free = slot
        if free is None:
            raise TunnelError(f"{SLOTS} tunnels run on this machine already; stop one of them")
        return free

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
            except OSError as error:
                raise file_error(path, error) from error
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

    def record(self, note: Note) -> None:
        """Keep a note that outlives a crash, in place of the former one."""
        data = json.dumps(asdict(note)).encode()
        # One write, padded over what was longer: a crash between two would leave half a note.
        try:
            os.pwrite(self._fd, data.ljust(os.fstat(self._fd).st_size), 0)
        except OSError as error:
            raise file_error(self._path, error) from error

    def note(self) -> Note:
        """Return the note: ours, or the one that a crashed holder left."""
        return Note.parse(os.pread(self._fd, _NOTE_BYTES, 0).decode(errors="replace"))

    def others(self) -> dict[int, Note]:
        """Return the notes of the other slots of this namespace, by their numbers."""
        notes = {}
        for path in self._path.parent.glob(f"routes-{_namespace()}-*"):
            if path != self._path:
                with contextlib.suppress(OSError, ValueError):
                    text = path.read_text(encoding="utf-8", errors="replace")
                    notes[int(path.name.rpartition("-")[2])] = Note.parse(text)
        return notes

    def release(self, *, keep: bool = False) -> None:
        """Give the slot back; `keep` leaves its note behind. Safe to call again."""
        if self._fd >= 0:
            if not keep:
                with contextlib.suppress(FileNotFoundError):
                    self._path.unlink()
            os.close(self._fd)
            self._fd = -1


def _namespace() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino
