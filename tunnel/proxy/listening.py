"""Listening: sockets of the kernel that accept clients, and one epoll that watches all of them.

The event loop watches the epoll. A client is accepted, and given a first chance to be read, in one
go; it is registered once, and its end unregisters it.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from select import EPOLLET, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP, epoll
from socket import (
    IPPROTO_TCP,
    SO_LINGER,
    SO_OOBINLINE,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_DEFER_ACCEPT,
    TCP_NODELAY,
    SocketType,
)
from typing import Any, Final

from tunnel.proxy.kernelstream import KernelStream
from tunnel.proxy.relay import AT_ONCE

_EVENTS: Final = 64  # of one call
_FEW: Final = 2
_ACCEPTS: Final = 64  # in a row; then those who are there have their turn
_CLIENT: Final[int] = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET
RETRY = 1.0  # seconds, where there is no file, watch or memory for another client
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listening:
    """What `Machine.create_server` returns: `sockets` that listen, of a caller who bound them."""

    def __init__(self, make: Callable[[], Any], sockets: list[Any]) -> None:
        """`make` makes a client's protocol, see `KernelStream`."""
        self.loop = asyncio.get_running_loop()
        self.sockets = sockets
        self._make = make
        self._listeners: dict[int, Any] = {}
        self._clients: dict[int, KernelStream] = {}
        self._deferred = False
        self._epoll = epoll(-1)
        for one in sockets:
            one.setblocking(False)
            # What it accepts inherits both. An urgent byte stays in its place in the stream.
            one.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            one.setsockopt(SOL_SOCKET, SO_OOBINLINE, 1)
            self._listeners[one.fileno()] = one
            self._epoll.register(one.fileno(), EPOLLIN)
        self.loop.add_reader(self._epoll.fileno(), self._on_readable)

    def defer(self) -> None:
        """Let the kernel wait until a client has said something: they all speak first.

        One that is silent is accepted a second later.
        """
        self._deferred = True
        for one in self.sockets:
            one.setsockopt(IPPROTO_TCP, TCP_DEFER_ACCEPT, 1)

    def close(self) -> None:
        """Listen no more; those who are there stay."""
        listeners, self._listeners = self._listeners, {}
        for one in listeners.values():
            one.close()
        self.sockets = []
        if listeners:
            self._end()

    def forget(self, stream: KernelStream) -> None:
        """A client is about to close its socket."""
        del self._clients[stream.fd]
        self._end()

    def _end(self) -> None:
        if not self._listeners and not self._clients:
            self.loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _on_readable(self) -> None:
        clients = self._clients
        ready = self._epoll.poll(0, _EVENTS)
        # One at a time where little happens: to ask for another in vain costs an exception.
        accepts = 1 if len(ready) <= _FEW else _ACCEPTS
        for fd, mask in ready:
            stream = clients.get(fd)
            if stream is not None:
                try:
                    stream.event(mask)
                except Exception as error:
                    self.failed(stream, error)
            elif fd in self._listeners:
                self._accept(self._listeners[fd], accepts)

    def _accept(self, listener: Any, most: int) -> None:
        for _ in range(most):
            try:
                fd, peer = listener._accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._rest(listener, error, "a client has to wait")
                    return
                continue  # it has gone again
            socket = SocketType(listener.family, SOCK_STREAM, 0, fd)
            try:
                self._epoll.register(fd, _CLIENT)
            except OSError as error:  # no memory, or too many watches (fs.epoll.max_user_watches)
                socket.setsockopt(SOL_SOCKET, SO_LINGER, AT_ONCE)
                socket.close()
                self._rest(listener, error, "a client was refused")
                return
            protocol = self._make()
            stream = KernelStream(self, socket, peer, protocol)
            self._clients[fd] = stream
            try:
                protocol.connection_made(stream)
                if self._deferred:
                    stream.read()
            except Exception as error:
                self.failed(stream, error)

    def _rest(self, listener: Any, error: OSError, message: str) -> None:
        """Accept nobody for a while."""
        self.loop.call_exception_handler({"message": message, "exception": error})
        self._epoll.unregister(listener.fileno())
        self.loop.call_later(RETRY, self._go_on, listener)

    def _go_on(self, listener: Any) -> None:
        if listener.fileno() in self._listeners:
            try:
                self._epoll.register(listener.fileno(), EPOLLIN)
            except OSError:  # somebody else has taken its place meanwhile
                self.loop.call_later(RETRY, self._go_on, listener)

    def failed(self, stream: KernelStream, error: Exception) -> None:
        """A protocol raised: its connection ends, and nobody else's."""
        context = {"message": "a protocol failed", "exception": error, "transport": stream}
        self.loop.call_exception_handler(context)
        stream.fail(error)
