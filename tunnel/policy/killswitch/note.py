"""Who holds the kill switch of this network namespace, and what a crash must not lose.

The file's lock says who holds it; the kernel drops the lock with its process, however that ends.
Its text says which tunnel closed it and the former value of the sysctl that was changed, for
whoever opens it. It stays as long as the kill switch is closed, held or not.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tunnel.errors import PrivilegeError, file_error

RUN: Final = Path("/run/tunneld")
#: 2: answer ARP only for addresses of the interface that was asked, from its own network.
_ARP_IGNORE: Final = Path("/proc/sys/net/ipv4/conf/all/arp_ignore")
_ARP_VALUE: Final = "2"


@dataclass(frozen=True, slots=True)
class Note:
    """What is written down. `arp_ignore` None: it was not changed.

    `inbound` are the services that stay reachable, as texts; `interface` is "" without a tunnel.
    """

    interface: str = ""
    arp_ignore: str | None = None
    inbound: tuple[str, ...] = ()


class NoteFile:
    """The file of this namespace. Take it before anything else of the kill switch is touched."""

    def __init__(self, folder: Path = RUN) -> None:
        inode = Path("/proc/thread-self/ns/net").stat().st_ino
        self.path = folder / f"killswitch-{inode}"
        self._fd = -1

    def take(self) -> bool:
        """Lock it; False while a living process has it. Raises PrivilegeError, TunnelError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        while True:
            try:
                self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                fd = os.open(self.path, flags, 0o600)
            except PermissionError as error:
                raise PrivilegeError(f"may not write {self.path}; run as root") from error
            except OSError as error:
                raise file_error(self.path, error) from error
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return False
            # Its last holder may have removed the file between our open and our lock.
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(fd).st_ino == self.path.stat().st_ino:
                    self._fd = fd
                    return True
            os.close(fd)

    def holder(self) -> str | None:
        """Return the tunnel whose living process has it; None where nobody has."""
        try:
            with self.path.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self.read().interface or None
        except OSError:
            pass  # not there, or not for us to see
        return None

    def read(self) -> Note:
        """Return what is written there; an empty note where there is nothing to be understood."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            inbound = tuple(str(word) for word in found["inbound"])
            return Note(str(found["interface"]), found["arp_ignore"], inbound)
        except (OSError, ValueError, KeyError, TypeError):
            return Note()

    def write(self, note: Note) -> None:
        """Write it in place of the former text, which stays where this fails. Raises TunnelError.

        One write, padded over what was longer: a crash between two would leave half a note.
        """
        data = json.dumps(asdict(note)).encode()
        try:
            os.pwrite(self._fd, data.ljust(os.fstat(self._fd).st_size), 0)
        except OSError as error:
            raise file_error(self.path, error) from error

    def release(self, *, keep: bool) -> None:
        """Let go of it; `keep` leaves the text for whoever opens the kill switch."""
        if self._fd >= 0:
            if not keep:
                self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


def set_arp_ignore() -> str | None:
    """Set it, and return the former value; None where it was set already or cannot be."""
    with contextlib.suppress(OSError):
        former = _ARP_IGNORE.read_text().strip()
        if former != _ARP_VALUE:
            _ARP_IGNORE.write_text(_ARP_VALUE)
            return former
    return None


def restore_arp_ignore(former: str | None) -> None:
    """Set it back to what it was before `set_arp_ignore`."""
    if former is not None:
        with contextlib.suppress(OSError):
            _ARP_IGNORE.write_text(former)
