"""Errors raised at the API. Each is one line: what, where, the mend; each knows its exit code.

The packet path raises nothing: packets are dropped and counted by reason.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path


class TunnelError(Exception):
    """A failure while running (exit code 1), and the base of all the others."""

    exit_code = 1


class UsageError(TunnelError):
    """A wrong command line (exit code 2)."""

    exit_code = 2


@dataclass(frozen=True)
class Where:
    """A place in a configuration: a file's line, or a source such as 'uapi' without one."""

    source: Path | str
    line: int | None = None

    def __str__(self) -> str:
        return str(self.source) if self.line is None else f"{self.source}:{self.line}"


class ConfigError(TunnelError):
    """A wrong configuration (exit code 3): names the file, the line, the key and the mend.

    The offending value is quoted by callers only where it cannot be a secret.
    """

    exit_code = 3

    def __init__(self, problem: str, *, where: Where | None, key: str | None, mend: str) -> None:
        self.problem = problem
        self.where = where
        self.key = key
        self.mend = mend
        parts = [str(where)] if where else []
        parts += [key] if key else []
        super().__init__(": ".join([*parts, problem]) + f"; {mend}")


class PrivilegeError(TunnelError):
    """The process may not do what it was asked to do (exit code 4)."""

    exit_code = 4


def file_error(path: Path, error: OSError) -> TunnelError:
    """Say that a file of ours cannot be made or written, with the mend."""
    mends = {
        errno.EROFS: "make it writable",
        errno.ENOSPC: "make room there",
        errno.EDQUOT: "make room there",
        errno.EMFILE: "raise the limit of open files",
        errno.ENFILE: "close files elsewhere",
    }
    if error.errno in (errno.EPERM, errno.EACCES):
        return PrivilegeError(f"{path}: {error.strerror}; run as root")
    mend = mends.get(error.errno or 0, "remove what is there")
    return TunnelError(f"{path}: {error.strerror}; {mend}")


def reading_mend(error: OSError) -> str:
    """Return what to do about a file of the user's that cannot be read."""
    if error.errno in (errno.EPERM, errno.EACCES):
        return "make it readable to this user, or run as its owner"
    return "name a file" if error.errno == errno.EISDIR else "check the path"


class MissingFacilityError(TunnelError):
    """A device, interface or kernel facility is not there (exit code 5)."""

    exit_code = 5
