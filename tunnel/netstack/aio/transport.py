"""A TCP connection of the stack as an asyncio transport.

Back-pressure is true both ways. While reading is paused, what comes stays in the receive buffer and
the window closes. What is written and does not fit into the send buffer waits here; beyond the
high-water mark the protocol is told to pause, and a writer that goes on without draining gets a
BufferError, so that what it holds stays bounded.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from tunnel.netstack.aio.names import failure, spelt
from tunnel.netstack.endpoint import Event, EventKind, Reason
from tunnel.netstack.rtt import SECOND
from tunnel.netstack.tcpsocket import TcpSocket

if TYPE_CHECKING:
    from tunnel.netstack.aio.loop import StackLoop

READ_BYTES: Final = 256 * 1024
HIGH_WATER: Final = 128 * 1024
LEAST_REFUSAL: Final = 64 * 1024  # a mark below it, as of set_write_buffer_limits(0), still lets in
# An enum's member costs a look-up in its class each time.
_ESTABLISHED: Final = EventKind.ESTABLISHED
_READABLE: Final = EventKind.READABLE
_WRITABLE: Final = EventKind.WRITABLE
_URGENT: Final = EventKind.URGENT
_FINISHED: Final = EventKind.FINISHED


Opened = Callable[["TcpTransport", BaseException | None], None]


class TcpTransport(asyncio.Transport):
    """What `create_connection` and servers give to protocols."""

    __slots__ = (
        "_closing", "_eof_told", "_eof_wanted", "_high", "_lost", "_low", "_net", "_opened",
        "_paused", "_pending", "_pending_bytes", "_pending_urgent", "_protocol", "_reason",
        "_socket", "_stopped", "_told", "_urgent_unheard",
    )  # fmt: skip

    def __init__(
        self,
        net: StackLoop,
        socket: TcpSocket,
        opened: Opened | None = None,
    ) -> None:
        """`opened` hears when the connection stands, and gives it a protocol then or later
        (`begin`), or why it never will.
        """
        # Nothing of asyncio's own constructor: it makes a dictionary that nobody looks at, and that
        # the compiled form of this class would never give back.
        self._net = net
        self._socket = socket
        self._protocol: Any = None
        self._opened = opened
        self._pending: deque[memoryview] = deque()
        self._pending_bytes = 0
        self._pending_urgent = 0  # how many of them until the last urgent one
        self._low, self._high = HIGH_WATER // 4, HIGH_WATER
        self._paused = True  # for reading: by the protocol, and until there is one
        self._stopped = False  # the protocol was told to stop writing
        self._closing = False
        self._eof_wanted = False  # write_eof was called
        self._eof_told = False
        self._reason: Reason | None = None  # why it is closed on the wire
        self._lost = False
        self._told = False  # that it is lost, or nobody was there to hear it
        self._urgent_unheard = False  # urgent data was announced before there was a protocol
        socket.owner = self

    def __repr__(self) -> str:
        state = "closing" if self._closing else self._socket.connection.state.value
        return f"<TcpTransport {spelt(self._socket.local)} -> {spelt(self._socket.remote)} {state}>"

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return `peername`, `sockname`; there is no kernel socket.

        And `unit`: how many bytes leave at once at most. Who writes so many at a time, read-only
        and not to be changed, has them sent from where they lie. `urgent`: how many bytes are
        still to come to the protocol until the end of what the peer sent as urgent.
        """
        if name == "peername":
            return spelt(self._socket.remote)
        if name == "sockname":
            return spelt(self._socket.local)
        if name == "unit":
            return self._socket.connection.sender.unit
        if name == "urgent":
            return self._socket.connection.urgent
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give what comes to another protocol."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._closing

    def set_nodelay(self, value: bool) -> None:
        """TCP_NODELAY. It is set from the start, as asyncio does for its sockets."""
        self._socket.connection.sender.nodelay = value

    def set_timeouts(self, *, keepalive: float | None = None, user: float | None = None) -> None:
        """TCP_KEEPIDLE (0: no SO_KEEPALIVE) and TCP_USER_TIMEOUT, in seconds."""
        if min(keepalive or 0, user or 0) < 0:
            raise ValueError(f"a time is negative: keepalive {keepalive!r}, user {user!r}")
        self._socket.set_timeouts(
            keepalive=None if keepalive is None else int(keepalive * SECOND),
            user=None if user is None else int(user * SECOND),
        )
        self._net.wake()

    # ---- what happens to the connection ----

    def begin(self, protocol: asyncio.BaseProtocol) -> None:
        """Give an established connection to its protocol, with what has come already."""
        self._protocol = protocol
        self._paused = False
        protocol.connection_made(self)
        if self._urgent_unheard:
            self._tell_urgent()
        if self._told:  # it ended before there was anybody to tell
            self._net.loop.call_soon(protocol.connection_lost, self._error())
        if self._lost:
            return
        if self._socket.connection.readable or self._socket.connection.finished:
            self._net.loop.call_soon(self._resume)

    def tcp_event(self, event: Event) -> None:
        """Take an event of the socket."""
        kind = event.kind
        if kind is _READABLE or kind is _FINISHED:
            self._read()
        elif kind is _WRITABLE:
            self._push()
        elif kind is _URGENT:
            self._tell_urgent()
        elif kind is _ESTABLISHED:
            opened, self._opened = self._opened, None
            if opened is not None:
                opened(self, None)
        else:
            self._reason = event.reason or Reason.FINISHED
            self._ended()

    def _ended(self) -> None:
        """The connection is over on the wire: what came before is still for the protocol."""
        if self._opened is not None:
            code = self._socket.errno_for(self._reason or Reason.ABORTED)
            self._never_opened(failure(code, self._socket.remote, "cannot connect to"))
            return
        self._read()
        if not self._paused or not self._socket.connection.readable:
            self._lose(self._error())

    def _never_opened(self, error: BaseException) -> None:
        opened, self._opened = self._opened, None
        self._lost = self._closing = True
        self._socket.owner = None
        self._net.forget(self)
        if opened is not None:
            opened(self, error)

    def _error(self) -> OSError | None:
        if self._reason is None or self._reason is Reason.FINISHED:
            return None
        return failure(self._socket.errno_for(self._reason), self._socket.remote, "connection to")

    def _lose(self, error: BaseException | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        self._socket.owner = None
        self._pending.clear()
        self._pending_bytes = 0
        self._net.loop.call_soon(self._tell_lost, error)

    def _tell_lost(self, error: BaseException | None) -> None:
        self._told = True
        try:
            if self._protocol is not None:
                self._protocol.connection_lost(error)
        finally:
            self._protocol = None  # whose transport this is: without a cycle both go at once
            self._net.forget(self)

    # ---- reading ----

    def _tell_urgent(self) -> None:
        """A protocol that has `urgent_received(left)` hears of urgent data before it comes."""
        self._urgent_unheard = self._protocol is None
        left = self._socket.connection.urgent
        hear = getattr(self._protocol, "urgent_received", None)
        if left and hear is not None and not self._closing:
            hear(left)

    def _read(self) -> None:
        socket, protocol = self._socket, self._protocol
        while not self._paused and not self._closing:
            if isinstance(protocol, asyncio.BufferedProtocol):
                view = memoryview(protocol.get_buffer(-1))
                data = socket.read(len(view))
                if not data:
                    break
                view[: len(data)] = data
                protocol.buffer_updated(len(data))
            else:
                data = socket.read(READ_BYTES)
                if not data:
                    break
                protocol.data_received(data)
        self._net.wake()
        if self._paused or self._closing or self._eof_told or not socket.connection.finished:
            return
        self._eof_told = True
        if not protocol.eof_received() and not self._closing:
            self.close()

    def pause_reading(self) -> None:
        """Leave what comes in the receive buffer; the window closes."""
        self._paused = True

    def resume_reading(self) -> None:
        """Give what waits to the protocol, soon."""
        if self._paused and not self._closing:
            self._paused = False
            self._net.loop.call_soon(self._resume)

    def is_reading(self) -> bool:
        """Whether the protocol takes data."""
        return not self._paused and not self._closing

    def _resume(self) -> None:
        if self._lost:
            return
        if self._reason is not None:
            self._ended()
        else:
            self._read()

    # ---- writing ----

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send, or keep until there is room.

        Raises BufferError while more than the high-water mark waits already: drain first.
        """
        self._write(data, urgent=False)

    def write_urgent(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Write in place, and tell the peer at once to hurry until it has read this (`write`).

        RFC 9293, section 3.8.5; new protocols should not need it (SHLD-13).
        """
        self._write(data, urgent=True)

    def _write(self, data: bytes | bytearray | memoryview[Any], *, urgent: bool) -> None:
        if self._eof_wanted:
            raise RuntimeError("cannot write after write_eof()")
        if self._closing:
            return
        self.check_room()
        waiting = self._pending_bytes
        taken = 0
        if not waiting:
            try:
                taken = self._socket.write(data, urgent=urgent)
            except BrokenPipeError:
                return  # the reason is on its way to connection_lost
            self._net.wake()
        if taken == len(data):
            return
        rest = memoryview(data)[taken:]
        if not rest.readonly:
            rest = memoryview(bytes(rest))
        self._pending.append(rest)
        self._pending_bytes += len(rest)
        if urgent:
            self._pending_urgent = self._pending_bytes
        if self._pending_bytes > self._high and not self._stopped:
            self._stopped = True
            self._protocol.pause_writing()

    def check_room(self) -> None:
        """Raise BufferError where `write` would."""
        if self._pending_bytes > max(self._high, LEAST_REFUSAL):
            raise BufferError(
                f"{self._pending_bytes} bytes wait to be written, more than the high-water mark of "
                f"{self._high}: the peer does not take them; await drain() before writing on"
            )

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        """Write several pieces as one."""
        self.write(b"".join(list_of_data))

    def _push(self) -> None:
        """Move what waits into the send buffer."""
        while self._pending:
            head = self._pending.popleft()
            try:
                taken = self._socket.write(head, urgent=self._pending_urgent > 0)
            except BrokenPipeError:
                return
            self._pending_bytes -= taken
            self._pending_urgent = max(self._pending_urgent - taken, 0)
            if taken < len(head):
                self._pending.appendleft(head[taken:])
                break
        if self._stopped and self._pending_bytes <= self._low:
            self._stopped = False
            self._protocol.resume_writing()
        if not self._pending:
            if self._closing:
                self._let_go()
            elif self._eof_wanted:
                self._socket.shut()
        self._net.wake()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait for room in the send buffer."""
        return self._pending_bytes

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low-water and the high-water mark."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks at which the protocol pauses and resumes writing, as asyncio does."""
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._low, self._high = low, high

    def can_write_eof(self) -> bool:
        """TCP has half-close."""
        return True

    def write_eof(self) -> None:
        """Send no more after what was written; reading goes on."""
        if self._eof_wanted or self._closing:
            return
        self._eof_wanted = True
        if not self._pending:
            self._socket.shut()
            self._net.wake()

    # ---- the end ----

    def close(self) -> None:
        """Send what was written, then close; the stack sees to the rest."""
        if self._closing:
            return
        self._closing = True
        if not self._pending:
            self._let_go()

    def _let_go(self) -> None:
        self._socket.close(self._net.now())
        self._net.wake()
        self._lose(None)

    def abort(self) -> None:
        """Reset the peer, drop everything."""
        self.fail(None)

    def fail(self, error: BaseException | None) -> None:
        """Abort, and tell the protocol why."""
        if self._lost:
            return
        self._socket.owner = None
        self._socket.abort(self._net.now())
        self._net.wake()
        if self._opened is not None:
            self._never_opened(error or failure(errno.ECONNABORTED))
        else:
            self._lose(error)
