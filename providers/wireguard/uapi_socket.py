"""The socket at /var/run/wireguard/IF.sock through which wg(8) reads and changes a device.

Taking the path. The socket is bound and listens under a private name and is then linked to its
own, which fails where something is: there is no moment in which wg could find a socket that does
not answer (it would remove it) and nothing that is alive is ever replaced. What lies at the path
is moved aside and looked at again before it is deleted, so that two daemons that start together
cannot take each other's socket for the dead one.

Serving. Clients that are too many wait in the kernel's queue; each has `timeout` seconds for a
whole request and again for taking the answer. Changes are carried out one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import socket
import stat
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, Protocol

from providers.wireguard import uapi
from providers.wireguard.change import DeviceChange, DeviceSnapshot
from providers.wireguard.scopes import numbered
from tunnel.errors import PrivilegeError, TunnelError
from tunnel.filewatch import FileWatch, Identity, identity
from tunnel.secret import redact

DIRECTORY: Final = Path("/var/run/wireguard")
TIMEOUT: Final = 5.0  # seconds for a request, and for an answer
CLIENTS: Final = 16  # served at once

_BACKLOG: Final = 64
_READ_SIZE: Final = 1 << 16
_ACCEPT_PAUSE: Final = 1.0  # seconds, when the process has no descriptor left


class UapiDevice(Protocol):
    """What the server needs of the provider. Both are called on the server's event loop."""

    def get_snapshot(self) -> DeviceSnapshot:
        """Return the device as it is now."""

    async def configure(self, change: DeviceChange) -> None:
        """Carry out a change; OSError and TunnelError become errno (uapi.errno_of).

        The change is wiped after this returns: the device copies the keys that it keeps.
        """


class UapiServer:
    """Serves one interface's device. `on_removed` is called when somebody removes the socket."""

    def __init__(
        self,
        interface: str,
        device: UapiDevice,
        *,
        directory: Path = DIRECTORY,
        on_removed: Callable[[], None] | None = None,
        log: Callable[[str], None] | None = None,
        timeout: float = TIMEOUT,
        clients: int = CLIENTS,
        inotify: bool = True,
    ) -> None:
        self.interface = interface
        self.path = directory / f"{interface}.sock"
        self._device = device
        self._log = log or (lambda line: None)
        self._timeout = timeout
        self._slots = asyncio.Semaphore(clients)
        self._configuring = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._identity: Identity | None = None
        self._watch = FileWatch(self.path, on_removed or (lambda: None), inotify=inotify)

    async def __aenter__(self) -> UapiServer:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Take the path and serve. Raises TunnelError where it is taken, PrivilegeError."""
        try:
            _make_directory(self.path.parent)
            self._listener = _listen(self.path, self.interface)
        except PermissionError as error:
            raise PrivilegeError(f"{self.path}: {error.strerror}; run as root") from error
        except OSError as error:
            raise TunnelError(f"{self.path}: {error.strerror or error}; check the path") from error
        self._identity = identity(self.path)
        self._watch.start()
        self._start(self._accept(self._listener))

    async def close(self) -> None:
        """End all clients and remove the socket, if it is still ours. Safe to call again."""
        self._watch.close()
        if self._identity is not None:
            _take_away(self.path, self._identity)
            self._identity = None
        # This may run in a client's own task: a change that ends the daemon.
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    # -- clients -----------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._slots.acquire()
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                self._slots.release()
                if error.errno not in (errno.ECONNABORTED, errno.EINTR):
                    self._log(f"{self.path}: cannot accept a client: {error.strerror}")
                    await asyncio.sleep(_ACCEPT_PAUSE)
                continue
            except BaseException:
                self._slots.release()
                raise
            connection.setblocking(False)
            self._start(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        parser = uapi.RequestParser()
        buffer = bytearray(_READ_SIZE)
        try:
            deadline = loop.time() + self._timeout
            while True:
                async with asyncio.timeout_at(deadline):
                    length = await loop.sock_recv_into(connection, buffer)
                if not length:
                    return
                view = memoryview(buffer)[:length]
                for request in parser.feed(view):
                    await self._answer(connection, request)
                    if isinstance(request, uapi.Refusal) and request.final:
                        return
                    deadline = loop.time() + self._timeout
                view[:] = bytes(length)
                # Data that is there already is received without a pause: let others run.
                await asyncio.sleep(0)
        except TimeoutError:
            self._log(f"{self.path}: a client was silent for {self._timeout:g} s and is let go")
        except OSError:
            pass  # the client went away
        finally:
            parser.close()
            buffer[:] = bytes(len(buffer))
            connection.close()
            self._slots.release()

    async def _answer(self, connection: socket.socket, request: uapi.Request) -> None:
        answer = bytearray()
        number = 0
        match request:
            case uapi.Get():
                answer = uapi.render(self._device.get_snapshot())
            case uapi.Set(change):
                number = await self._configure(change)
            case uapi.Refusal(number=number, reason=reason):
                self._log(f"{self.path}: refused a request: {reason}")
        answer += b"errno=%d\n\n" % number
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.get_running_loop().sock_sendall(connection, answer)
        finally:
            answer[:] = bytes(len(answer))

    async def _configure(self, change: DeviceChange) -> int:
        try:
            async with self._configuring:
                await self._device.configure(numbered(change))
        except Exception as error:  # a client must not end the daemon with any change
            self._log(f"{self.path}: a change failed: {redact(str(error) or repr(error))}")
            return uapi.errno_of(error)
        finally:
            change.wipe()
        return 0


# -- the path --------------------------------------------------------------------------------


def _make_directory(directory: Path) -> None:
    """Make the folder if it is missing; refuse one in which others could play with our socket."""
    old = os.umask(0o022)
    try:
        directory.mkdir(0o755, parents=True, exist_ok=True)
    finally:
        os.umask(old)
    status = directory.stat()
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise TunnelError(
            f"{directory}: other users may write there; give it to root with mode 0755"
        )


def _listen(path: Path, interface: str) -> socket.socket:
    """Return a socket that listens at the path, 0600. Raises OSError and TunnelError."""
    _clear(path, interface)
    private = _private_name(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        try:
            listener.bind(str(private))
        finally:
            os.umask(old)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        try:
            os.link(private, path, follow_symlinks=False)
        except FileExistsError:
            raise _taken(path, interface) from None
        return listener
    except BaseException:
        listener.close()
        raise
    finally:
        private.unlink(missing_ok=True)


def _clear(path: Path, interface: str) -> None:
    """Remove a dead socket from the path. Raises TunnelError where anything else is there."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(status.st_mode):
        raise TunnelError(f"{path}: is a symbolic link, which is not followed; remove it")
    if not stat.S_ISSOCK(status.st_mode):
        raise TunnelError(f"{path}: is in the way and is no socket; remove it")
    if _is_alive(path):
        raise _taken(path, interface)
    if not _take_away(path, (status.st_dev, status.st_ino)):
        raise _taken(path, interface)


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a queue that is full (EAGAIN) is alive, and must not hold us
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:
            return True
    return True


def _take_away(path: Path, expected: Identity) -> bool:
    """Delete what is at the path if it is what is expected, in this order: move, look, delete."""
    aside = _private_name(path)
    try:
        path.rename(aside)
    except OSError:
        return identity(path) is None
    ours = identity(aside) == expected
    if not ours:
        with contextlib.suppress(FileExistsError):
            os.link(aside, path, follow_symlinks=False)
    aside.unlink(missing_ok=True)
    return ours


def _private_name(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}")  # wg lists *.sock only


def _taken(path: Path, interface: str) -> TunnelError:
    return TunnelError(
        f"{path}: tunneld or another WireGuard runs as {interface} already; "
        "end it or choose another name"
    )
