"""The control socket: how tunnelctl, and anything else that speaks JSON, talks to a tunneld.

/run/tunneld/IFNAME.sock, mode 0600, for the daemon's own user and root. One JSON object a line,
one answer a line, any number of them:

    {"request": "status"}                      {"result": {"schema": 1, ...}}
    {"request": "fly"}                         {"error": "unknown request ...", "exit_code": 2}

Who holds the lock on IFNAME.lock owns the path of the socket: the kernel drops the lock with its
process, however that ends, so a socket that is found there while the lock is free is a dead one.
Every request and answer is bounded in size and time, and so is the number of clients: where one
more comes than fit, the one that has been silent for longest is let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tunnel.daemon.rundir import run_directory
from tunnel.errors import PrivilegeError, TunnelError, file_error
from tunnel.lockfile import try_lock, unlock

REQUEST_BYTES: Final = 65_536
REQUEST_SECONDS: Final = 30.0
ANSWER_SECONDS: Final = 10.0
CLIENTS: Final = 16
LOCK_ATTEMPTS: Final = 40
LOCK_PAUSE: Final = 0.05  # seconds
_PEERCRED: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid

Handler = Callable[[Mapping[str, Any]], Awaitable[Any]]


class ControlServer:
    """Answers requests with `handlers`: request's name -> coroutine of the whole request."""

    def __init__(
        self,
        name: str,
        handlers: Mapping[str, Handler],
        *,
        directory: Path | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        self.path = (directory or run_directory()) / f"{name}.sock"
        self._name = name
        self._handlers = handlers
        self._log = log or logging.getLogger("tunnel")
        self._lock = -1
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        #: Those that wait for a request, the longest waiting first.
        self._idle: dict[asyncio.Task[None], None] = {}

    async def start(self) -> None:
        """Take the path and listen. Raises TunnelError when a living tunneld has it."""
        try:
            _make_directory(self.path.parent)
            self._lock = await self._take_lock(self.path.with_suffix(".lock"))
            listener = _listen(self.path)
        except PermissionError as error:
            self._unlock()
            raise PrivilegeError(
                f"{self.path}: {error.strerror}; set XDG_RUNTIME_DIR to a folder of this user's"
            ) from error
        except OSError as error:
            self._unlock()
            raise file_error(self.path, error) from error
        except TunnelError:
            self._unlock()
            raise
        self._server = await asyncio.start_unix_server(
            self._serve, sock=listener, limit=REQUEST_BYTES
        )

    async def close(self) -> None:
        """Stop listening, let answers on their way arrive, and remove the socket."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for client in self._idle:
            client.cancel()
        if self._clients:
            _, late = await asyncio.wait(self._clients, timeout=ANSWER_SECONDS)
            for client in late:
                client.cancel()
        self.path.unlink(missing_ok=True)
        self._unlock()

    async def _take_lock(self, path: Path) -> int:
        """Take the lock; one that is on its way down is given a moment (wg-quick down, up)."""
        for _ in range(LOCK_ATTEMPTS):
            lock = try_lock(path)
            if lock >= 0:
                return lock
            await asyncio.sleep(LOCK_PAUSE)
        raise TunnelError(
            f"a tunneld runs for {self._name} already; stop it with `tunnelctl down {self._name}`"
        )

    def _unlock(self) -> None:
        if self._lock >= 0:
            unlock(self.path.with_suffix(".lock"), self._lock)
            self._lock = -1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or not _is_ours(writer) or not self._make_room():
            writer.close()
            return
        self._clients.add(task)
        try:
            await self._converse(task, reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # a client that went away or fell silent, or our own end
        finally:
            self._clients.discard(task)
            writer.close()

    def _make_room(self) -> bool:
        """Tell whether one more client fits; the one that was silent for longest makes way."""
        if len(self._clients) < CLIENTS:
            return True
        silent = next(iter(self._idle), None)
        if silent is None:
            return False  # each of them waits for an answer of ours
        del self._idle[silent]
        self._clients.discard(silent)
        silent.cancel()
        return True

    async def _converse(
        self,
        task: asyncio.Task[None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        while self._server is not None:
            self._idle[task] = None
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    line = await reader.readuntil(b"\n")
            except asyncio.IncompleteReadError:
                return
            except asyncio.LimitOverrunError:
                await _send(writer, _refusal(f"a request has at most {REQUEST_BYTES} bytes", 2))
                return
            finally:
                self._idle.pop(task, None)
            await _send(writer, await self._answer(line))

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return _refusal("not JSON; send one object a line", 2)
        name = request.get("request") if isinstance(request, dict) else None
        handler = self._handlers.get(name) if isinstance(name, str) else None
        if handler is None:
            known = ", ".join(sorted(self._handlers))
            return _refusal(f"unknown request {name!r:.40}; known are {known}", 2)
        try:
            return {"result": await handler(request)}
        except TunnelError as error:
            return _refusal(str(error), error.exit_code)
        except Exception as error:
            self._log.error("request %s failed: %s", name, error)
            self._log.debug("traceback", exc_info=error)
            return _refusal(f"{name} failed: {error}", 1)


def _refusal(why: str, exit_code: int) -> dict[str, Any]:
    return {"error": why, "exit_code": exit_code}


async def _send(writer: asyncio.StreamWriter, answer: Mapping[str, Any]) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
    async with asyncio.timeout(ANSWER_SECONDS):
        await writer.drain()


def _is_ours(writer: asyncio.StreamWriter) -> bool:
    raw = writer.get_extra_info("socket").getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size
    )
    return _PEERCRED.unpack(raw)[1] in (0, os.geteuid())


def _make_directory(directory: Path) -> None:
    """Make it 0755 whatever the umask; one that is there must be a directory of ours or root's."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(parents=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, os.geteuid()):
        raise TunnelError(f"{directory} is not a directory of this user; remove it")
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != 0o755:
        directory.chmod(0o755)


def _listen(path: Path) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise TunnelError(f"{path} is there and is not a socket; remove it")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    former = os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen(CLIENTS)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(former)
    return listener
