"""GuardedFile: /etc/resolv.conf with a tunnel's text in it, and the original kept beside it.

The original is first kept under another name (a hard link: a symbolic link, owner, mode and labels
stay as they are), then ours is renamed over the path, and putting it back is one rename. At every
moment in between, a crash leaves either the original in its place or ours with the original beside
it, and `recover` tells them apart by our first line. What is there and is not ours is never
overwritten without having been kept.

Where the path is a mount point (containers, `ip netns exec`) nothing can be renamed over it: then
the text is written into the file, and the original's text is kept under `state`.

A lock says whether the holder lives. Two tunnels cannot both have the file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tunnel.errors import TunnelError
from tunnel.lockfile import try_lock, unlock
from tunnel.policy.dnsapply import text as resolv

RUN: Final = Path("/run/tunneld")
STATE: Final = Path("/var/lib/tunneld")
_MOUNTS: Final = Path("/proc/thread-self/mountinfo")
_THERE_WAS_NONE: Final = ".none"


class GuardedFile:
    """One resolv.conf, guarded or as it was. Calls raise TunnelError, which names the file."""

    def __init__(self, path: Path, *, run: Path = RUN, state: Path = STATE) -> None:
        self.path = path
        self._run = run
        self._state = state
        self._lock = -1
        self._lock_path = Path()
        self._text = ""

    @property
    def holds(self) -> bool:
        """Whether our text is meant to be in the file."""
        return bool(self._text)

    def text(self) -> str:
        """Return what is in the file now; empty where there is none."""
        return resolv.read(self.path)

    def original(self) -> str:
        """Return the machine's own text, also while a tunnel's is in its place."""
        found = self.text()
        return resolv.read(self._kept()) if resolv.is_ours(found) else found

    def install(self, text: str, *, keep_newer: bool = False) -> bool:
        """Put our text into the file, again after another program has changed it.

        The original is kept at the first call. With `keep_newer`, what another program has put
        there since then is kept in its place, if it is a file with servers in it. Tells whether
        something was kept.
        """
        kept = False
        with self._explained("written"):
            if not self._text:
                self._take()
                self._recover()
                self._keep()
                try:
                    self._write(text)
                except OSError:
                    self._forget()
                    raise
                kept = True
            else:
                if keep_newer and self._is_newer():
                    self._forget()
                    self._keep()
                    kept = True
                if self.text() != text:
                    self._write(text)
            self._text = text
        return kept

    def restore(self) -> None:
        """Put the original back and give the file free; safe to call again."""
        if self._lock < 0:
            return
        with self._explained("restored"):
            if self._text:
                self._put_back()
                self._text = ""
            self._give()

    def recover(self) -> bool:
        """Put the original back if a holder has crashed; tell whether there was one to put back."""
        if self._lock >= 0 or not self._is_kept():
            return False
        with self._explained("restored"):
            try:
                self._take()
            except TunnelError:
                return False  # its holder lives
            try:
                return self._recover()
            finally:
                self._give()

    # ---- the original ----

    def _recover(self) -> bool:
        """Undo what a crashed holder left; a file that somebody has written since then stays."""
        found = self._is_kept()
        if found and (resolv.is_ours(self.text()) or not self.path.exists()):
            self._put_back()
        elif found:
            self._forget()
        return found

    def _keep(self) -> None:
        kept = self._kept()
        if is_mounted(self.path):
            kept.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            _replace(kept, self.path.read_bytes())
        elif os.path.lexists(self.path):
            with contextlib.suppress(FileNotFoundError):
                kept.unlink()
            os.link(self.path, kept, follow_symlinks=False)
        else:
            _replace(kept.with_name(kept.name + _THERE_WAS_NONE), b"")

    def _put_back(self) -> None:
        kept = self._kept()
        if is_mounted(self.path):
            _overwrite(self.path, kept.read_bytes())
            kept.unlink()
        elif os.path.lexists(kept):
            kept.rename(self.path)
        else:
            self.path.unlink(missing_ok=True)
            self._forget()

    def _forget(self) -> None:
        kept = self._kept()
        for path in (kept, kept.with_name(kept.name + _THERE_WAS_NONE)):
            path.unlink(missing_ok=True)

    def _is_kept(self) -> bool:
        kept = self._kept()
        return os.path.lexists(kept) or kept.with_name(kept.name + _THERE_WAS_NONE).exists()

    def _is_newer(self) -> bool:
        """Tell whether another program has written a plain file that can resolve names.

        Where the original is a symbolic link, somebody else keeps what it points to, and the link
        itself is what has to come back.
        """
        found = self.text()
        return (
            bool(resolv.nameservers(found))
            and not resolv.is_ours(found)
            and not self._kept().is_symlink()
        )

    def _kept(self) -> Path:
        """Return where the original is kept."""
        if is_mounted(self.path):
            return self._state / f"resolv.conf-{self._identity()}"
        return self.path.with_name(self.path.name + resolv.KEPT_SUFFIX)

    # ---- the file ----

    def _write(self, text: str) -> None:
        if is_mounted(self.path):
            _overwrite(self.path, text.encode())
        else:
            _replace(self.path, text.encode())

    def _identity(self) -> str:
        """Return what tells this file from those of other mount namespaces, renames or not."""
        status = (self.path if is_mounted(self.path) else self.path.parent).stat()
        return f"{status.st_dev}-{status.st_ino}"

    def _take(self) -> None:
        self._run.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._lock_path = self._run / f"resolv.conf-{self._identity()}.lock"
        self._lock = try_lock(self._lock_path)
        if self._lock < 0:
            raise TunnelError(
                f"{self.path}: another tunnel's resolvers are in it; for several at a time run "
                "systemd-resolved, or stop that one"
            )

    def _give(self) -> None:
        unlock(self._lock_path, self._lock)
        self._lock = -1

    @contextlib.contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TunnelError(
                f"{self.path} cannot be {verb}: {error.strerror}; make it writable (lsattr may "
                "show it immutable), or remove the tunnel's DNS"
            ) from error
        finally:
            if self._lock >= 0 and not self._text:
                self._give()


def is_mounted(path: Path) -> bool:
    """Tell whether something is mounted right on the path, or on what it leads to."""
    target = str(path.resolve()).replace(" ", "\\040")
    mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    return any(line.split(" ", 5)[4] == target for line in mounts)


def _replace(path: Path, data: bytes) -> None:
    """Write a new file of mode 0644 and rename it over the path, or leave things as they are."""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o644)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o644)  # tunneld's umask leaves it to root alone
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _overwrite(path: Path, data: bytes) -> None:
    """Write into a file that cannot be replaced; at no moment is it empty."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, data, 0)
        os.ftruncate(descriptor, len(data))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
