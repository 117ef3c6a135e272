"""KernelStream: a stream socket of the kernel as the transport of a client.

Event loops have transports of their own, which can do more and cost a short connection a tenth of
its time. This one is read where its listener's epoll says so (listening.py), with edges instead of
levels: it is registered once, and what was said of it is remembered until a read comes up short.

Its protocol is an `End`: one that says how many bytes to receive at once (`read_size`). They come
as immutable bytes, so that they are sent on from where they lie.
"""

from __future__ import annotations

import asyncio
from collections import deque
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP
from socket import MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_WR, SocketType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tunnel.proxy.listening import Listening

#: Behind what a read gets there is an end, an error, or more: one ends at an urgent byte.
_MORE: Final = EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR
_INPUT: Final = EPOLLIN | _MORE
_OUTPUT: Final = EPOLLOUT | EPOLLHUP | EPOLLERR
_DONTWAIT: Final = MSG_DONTWAIT | MSG_NOSIGNAL
_HIGH: Final = 64 * 1024  # as event loops have it
_LOW: Final = _HIGH // 4
_READS: Final = 32  # in a row; then others have their turn


class KernelStream:
    """One client's connection, from its acceptance to its end; asyncio's calls of a transport."""

    __slots__ = (
        "_closing", "_eof_told", "_eof_wanted", "_listening", "_loop", "_lost", "_more",
        "_paused", "_peer", "_pending", "_pending_bytes", "_protocol", "_ready", "_socket",
        "_stopped", "fd",
    )  # fmt: skip

    def __init__(self, listening: Listening, socket: SocketType, peer: Any, protocol: Any) -> None:
        self._listening: Listening | None = listening
        self._loop: asyncio.AbstractEventLoop = listening.loop
        self._socket = socket
        self.fd: int = socket.fileno()
        self._peer = peer
        self._protocol: Any = protocol  # None once it was told of the end
        self._pending: deque[memoryview] | None = None
        self._pending_bytes = 0
        self._ready = True  # there may be something to read
        self._more = False  # and behind a read that comes up short, too
        self._paused = False
        self._stopped = False  # the protocol was told to stop writing
        self._eof_wanted = False
        self._eof_told = False
        self._closing = False
        self._lost = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return `socket`, `peername` or `sockname`."""
        if name == "socket":
            return self._socket
        if name == "peername":
            return self._peer
        if name == "sockname":
            return self._socket.getsockname()
        return default

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._closing

    def event(self, mask: int) -> None:
        """Take what epoll says of the socket."""
        if mask & _INPUT:
            self._ready = True
            if mask & _MORE:
                self._more = True
            if not self._paused:
                self.read()
        if self._pending is not None and mask & _OUTPUT:
            self._push()

    # ---- reading ----

    def read(self) -> None:
        """Give the protocol what has come."""
        reads = _READS
        protocol = self._protocol
        while self._ready and not self._paused and not self._closing and not self._eof_told:
            if not reads:
                self._loop.call_soon(self._read_on)
                return
            reads -= 1
            most = protocol.read_size()
            try:
                data = self._socket.recv(most, MSG_DONTWAIT)
            except BlockingIOError:
                self._ready = False
                return
            except OSError as error:
                self.fail(error)
                return
            if not data:
                self._ready = False
                self._eof_told = True
                if not protocol.eof_received():
                    self.close()
                return
            if len(data) < most and not self._more:
                self._ready = False
            protocol.data_received(data)

    def pause_reading(self) -> None:
        """Leave what comes to the kernel."""
        self._paused = True

    def resume_reading(self) -> None:
        """Give the protocol what comes, soon."""
        if self._paused and not self._closing:
            self._paused = False
            if self._ready:
                self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        try:
            self.read()
        except Exception as error:
            if self._listening is not None:
                self._listening.failed(self, error)

    # ---- writing ----

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, or keep until there is room."""
        if self._eof_wanted:
            raise RuntimeError("cannot write after write_eof()")
        if self._closing:
            return
        taken = 0
        pending = self._pending
        if pending is None:
            try:
                taken = self._socket.send(data, _DONTWAIT)
            except BlockingIOError:
                pass
            except OSError as error:
                self.fail(error)
                return
            if taken == len(data):
                return
            pending = self._pending = deque()
        rest = memoryview(data)[taken:]
        if not rest.readonly:
            rest = memoryview(bytes(rest))
        pending.append(rest)
        self._pending_bytes += len(rest)
        if self._pending_bytes > _HIGH and not self._stopped and self._protocol is not None:
            self._stopped = True
            self._protocol.pause_writing()

    def _push(self) -> None:
        """Send what waits."""
        pending = self._pending
        if pending is None or self._lost:
            return
        while pending:
            head = pending[0]
            try:
                taken = self._socket.send(head, _DONTWAIT)
            except BlockingIOError:
                break
            except OSError as error:
                self.fail(error)
                return
            self._pending_bytes -= taken
            if taken < len(head):
                pending[0] = head[taken:]
            else:
                pending.popleft()
        if not pending:
            self._pending = None
            if self._closing:
                self._lose(None)
                return
            if self._eof_wanted:
                self._shut()
        if self._stopped and self._pending_bytes <= _LOW and self._protocol is not None:
            self._stopped = False
            self._protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait for room in the socket."""
        return self._pending_bytes

    def write_eof(self) -> None:
        """Send no more after what was written; reading goes on."""
        if self._eof_wanted or self._closing:
            return
        self._eof_wanted = True
        if self._pending is None:
            self._shut()

    def _shut(self) -> None:
        try:
            self._socket.shutdown(SHUT_WR)
        except OSError as error:
            self.fail(error)

    # ---- the end ----

    def close(self) -> None:
        """Send what was written, then close."""
        if not self._closing:
            self._closing = True
            if self._pending is None:
                self._lose(None)

    def abort(self) -> None:
        """Close now."""
        self.fail(None)

    def fail(self, error: BaseException | None) -> None:
        """Close now, and tell the protocol why."""
        self._closing = True
        self._pending = None
        self._pending_bytes = 0
        self._lose(error)

    def _lose(self, error: BaseException | None) -> None:
        if not self._lost:
            self._lost = True
            self._loop.call_soon(self._tell_lost, error)

    def _tell_lost(self, error: BaseException | None) -> None:
        protocol, self._protocol = self._protocol, None  # without a cycle both go at once
        listening, self._listening = self._listening, None
        try:
            if protocol is not None:
                protocol.connection_lost(error)
        finally:
            if listening is not None:
                listening.forget(self)
            self._socket.close()
