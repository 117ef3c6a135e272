"""The control socket from tunnelctl's side: plain blocking calls, no event loop."""

from __future__ import annotations

import json
import os
import socket
import struct
from pathlib import Path
from typing import Any, Final

from tunnel.daemon.rundir import run_directory
from tunnel.errors import (
    MissingFacilityError,
    PrivilegeError,
    TunnelError,
    UsageError,
)

#: Seconds to wait for an answer; `down` runs the user's hooks and is given longer.
ANSWER_SECONDS: Final = 10.0
DOWN_SECONDS: Final = 120.0
_ANSWER_BYTES: Final = 64 << 20
_CREDENTIALS: Final = struct.Struct("3i")  # ucred of unix(7): process, user, group


class Refused(TunnelError):
    """What a tunneld answered in place of a result, with the exit code that it gave."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def running(directory: Path | None = None) -> list[str]:
    """Return the interfaces whose control socket has a tunneld behind it: a crash leaves others."""
    try:
        sockets = sorted((directory or run_directory()).glob("*.sock"))
    except OSError:
        return []
    return [path.stem for path in sockets if not _is_dead(path)]


def _is_dead(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as one:
        try:
            one.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return True
        except OSError:
            return False  # busy, or another user's: it is there
    return False


def choose(name: str | None, directory: Path | None = None) -> str:
    """Return the interface to talk to: the one named, or the only one there is.

    Raises UsageError where there are several, MissingFacilityError where there is none.
    """
    if name is not None:
        return name
    names = running(directory)
    if len(names) > 1:
        raise UsageError(f"several tunnels run: {', '.join(names)}; name one")
    if not names:
        raise MissingFacilityError("no tunneld runs here; start one with `tunneld --config FILE`")
    return names[0]


def ask(
    name: str,
    request: str,
    *,
    directory: Path | None = None,
    seconds: float = ANSWER_SECONDS,
    until_closed: bool = False,
    **fields: Any,
) -> Any:
    """Send one request and return its result.

    `until_closed` waits, after the answer, until the daemon has ended too. Raises TunnelError or
    one of its kinds, as tunneld gave it.
    """
    path = (directory or run_directory()) / f"{name}.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        try:
            connection.connect(str(path))
            _expect_our_own(connection, path)
            connection.sendall(json.dumps({**fields, "request": request}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                line = lines.readline(_ANSWER_BYTES)
                if until_closed:
                    lines.read(1)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise MissingFacilityError(
                f"no tunneld runs for {name}; start one with `tunneld --config FILE`"
            ) from error
        except PermissionError as error:
            raise PrivilegeError(f"{path} is not for this user; run tunnelctl as root") from error
        except TimeoutError as error:
            raise TunnelError(f"{name}: tunneld did not answer within {seconds:g} s") from error
        except OSError as error:
            raise TunnelError(f"{name}: {error.strerror}; see tunneld's log") from error
    if not line.endswith(b"\n"):
        raise TunnelError(f"{name}: tunneld ended without an answer; see its log")
    answer = json.loads(line)
    if "error" in answer:
        raise Refused(answer["error"], answer["exit_code"])
    return answer["result"]


def _expect_our_own(connection: socket.socket, path: Path) -> None:
    """Let nobody else answer. Raises PrivilegeError.

    Where there is no XDG_RUNTIME_DIR the folder is in /tmp, and whoever makes it first has it.
    """
    given = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(given)
    if os.geteuid() not in (0, user) and user != 0:
        raise PrivilegeError(
            f"{path} is user {user}'s; remove it, or run tunnelctl as the user who runs tunneld"
        )
