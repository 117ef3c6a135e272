"""How many clients all listeners of a process may have at once, and what that hangs on.

Each client is a socket, so the process's limit of open files is what ends it, and EMFILE in the
middle of something else is a bad way to notice. So the soft limit is raised to the hard one, what
is open already is counted, some files are left for all else (a client's datagrams take another one,
tunnelctl needs one), and clients beyond what remains are told so in their protocol's words.
"""

from __future__ import annotations

import logging
import os
import resource
from typing import Final

MOST: Final = 32_768
"""Clients of a process, whatever its limits: a hundred times that many would exhaust its memory."""
_OTHERS: Final = 512  # files for datagrams, names, the engine and those who are only refused
_AS_A_RULE: Final = 32  # files of a tunneld without clients
REFUSED_AT_ONCE: Final = 256
_FEW: Final = 4096


class Capacity:
    """Places for clients. With all taken, some more come in only to hear that."""

    __slots__ = ("_log", "_refused_at_once", "most", "refused", "taken")

    def __init__(
        self,
        most: int = MOST,
        log: logging.Logger | None = None,
        refused_at_once: int = REFUSED_AT_ONCE,
    ) -> None:
        """`log` hears once that clients are refused."""
        self.most = most
        self._refused_at_once = refused_at_once
        self._log = log
        self.taken = 0
        self.refused = 0

    def enter(self) -> bool:
        """Take a place; False where one must not even be told that there is none."""
        if self.taken >= self.most + self._refused_at_once:
            self.refused += 1
            return False
        self.taken += 1
        if self.is_over:
            self.refused += 1
            if self._log is not None:
                self._log.warning("%d clients at once are the most; others are refused", self.most)
                self._log = None
        return True

    @property
    def is_over(self) -> bool:
        """Whether whoever has just entered is to be refused."""
        return self.taken > self.most

    def leave(self) -> None:
        """Give a place back."""
        self.taken -= 1


def of_process(log: logging.Logger) -> Capacity:
    """Raise the limit of open files as far as the process may; return what that leaves room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as error:
            log.debug("the limit of open files stays at %d: %s", soft, error)
    if soft == resource.RLIM_INFINITY:
        return Capacity(log=log)
    left = max(soft - _open_files(), 3)
    most = min(max(left - _OTHERS, left // 3), MOST)
    if most < _FEW:
        log.warning(
            "only %d clients at once: this process may open no more than %d files; raise the hard "
            "limit (ulimit -Hn, LimitNOFILE= of systemd)", most, soft,
        )  # fmt: skip
    return Capacity(most, log, min((left - most) // 4, REFUSED_AT_ONCE))


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    except OSError:
        return _AS_A_RULE
