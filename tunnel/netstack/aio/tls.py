"""TLS over a transport of the stack, through ssl.MemoryBIO.

Event loops refuse to wrap transports that are not their own, so this wraps them on any loop. The
object between two memory buffers is the whole of it: what comes goes in, what it wants to send goes
down. Back-pressure passes through: pausing stops the transport below, and so does its high-water
mark for the protocol above.

Closing sends close_notify and our FIN, tells the protocol at once, and lingers a little for what
the peer still says, so that it gets everything and no reset (RFC 8446, section 6.1).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

HANDSHAKE_SECONDS: Final = 60.0
LINGER_SECONDS: Final = 5.0
_READ_BYTES: Final = 256 * 1024


class _State(Enum):
    HANDSHAKE = "handshake"
    OPEN = "open"
    LINGERING = "lingering"
    CLOSED = "closed"


class TlsProtocol(asyncio.Protocol):
    """Between a transport below and a protocol above, which sees a TlsTransport."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.BaseProtocol,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        handshake_timeout: float | None = None,
        waiter: asyncio.Future[None] | None = None,
        tell_made: bool = True,
    ) -> None:
        self.context = context
        self.above: Any = protocol
        self._loop = loop
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self._state = _State.HANDSHAKE
        self._timeout = HANDSHAKE_SECONDS if handshake_timeout is None else handshake_timeout
        self._waiter = waiter
        self._tell_made = tell_made
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._ended = False  # the peer has said that it sends no more
        self._told_lost = False
        self.below: Any = None
        self.transport = TlsTransport(self)

    # ---- from below ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self.below = transport
        self._timer = self._loop.call_later(self._timeout, self._too_slow)
        self._pump()

    def data_received(self, data: bytes) -> None:
        """Take ciphertext."""
        if self._state is not _State.LINGERING:
            self._incoming.write(data)
            self._pump()

    def eof_received(self) -> bool:
        """The peer has closed its side, with or without close_notify."""
        if self._state is _State.HANDSHAKE:
            self._fail(ConnectionResetError("the peer closed the connection in the TLS handshake"))
        elif self._state is _State.OPEN:
            self._incoming.write_eof()
            self._pump()
            return not self._ended or self._state is _State.OPEN
        return False

    def connection_lost(self, error: BaseException | None) -> None:
        """The transport below is gone."""
        if self._state is _State.HANDSHAKE and error is None:
            error = ConnectionResetError("the connection was closed in the TLS handshake")
        self._finish(error)

    def pause_writing(self) -> None:
        """The transport below holds more than its high-water mark."""
        if self._state is _State.OPEN:
            self.above.pause_writing()

    def resume_writing(self) -> None:
        """It has room again."""
        if self._state is _State.OPEN:
            self.above.resume_writing()

    # ---- the machine between ----

    def _pump(self) -> None:
        """Do whatever the bytes that are there allow."""
        if self._state is _State.HANDSHAKE and not self._shake():
            return
        try:
            while self._state is _State.OPEN and not self._paused and not self._ended:
                data = self.object.read(_READ_BYTES)
                if not data:
                    self._eof()
                    break
                self._deliver(data)
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._eof()
        except ssl.SSLError as error:
            self._flush()
            self._fail(error)
            return
        self._flush()

    def _deliver(self, data: bytes) -> None:
        above = self.above
        if not isinstance(above, asyncio.BufferedProtocol):
            above.data_received(data)
            return
        rest = memoryview(data)
        while rest:
            view = memoryview(above.get_buffer(len(rest)))
            size = min(len(view), len(rest))
            view[:size] = rest[:size]
            above.buffer_updated(size)
            rest = rest[size:]

    def _shake(self) -> bool:
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except (ssl.SSLError, ssl.CertificateError) as error:
            self._flush()  # the alert says why
            self._fail(error)
            return False
        self._state = _State.OPEN
        self._stop_timer()
        self._flush()
        if self._tell_made:
            self.above.connection_made(self.transport)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._waiter = None
        return True

    def _eof(self) -> None:
        if not self._ended:
            self._ended = True
            if not self.above.eof_received():
                self.close()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data and self.below is not None and not self.below.is_closing():
            self.below.write(data)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        if self._state is not _State.OPEN or not len(data):
            return
        self.below.check_room()
        view = memoryview(data).cast("B")
        try:
            while view:
                view = view[self.object.write(view) :]
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._flush()

    # ---- the end ----

    def _too_slow(self) -> None:
        self._timer = None
        if self._state is _State.HANDSHAKE:
            self._fail(TimeoutError(f"the TLS handshake took longer than {self._timeout:g} s"))
        elif self._state is _State.LINGERING:
            self.below.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Say goodbye and linger."""
        if self._state is _State.HANDSHAKE:
            self._fail(None)
        elif self._state is _State.OPEN:
            with contextlib.suppress(ssl.SSLError):  # it wants the peer's answer; we do not wait
                self.object.unwrap()
            self._flush()
            self._state = _State.LINGERING
            self._tell_lost(None)
            if self._ended:
                self.below.close()
                return
            self.below.write_eof()
            self.below.resume_reading()
            self._timer = self._loop.call_later(LINGER_SECONDS, self._too_slow)

    def abort(self) -> None:
        """Drop everything."""
        self._fail(None)

    def _fail(self, error: BaseException | None) -> None:
        if self._state is _State.CLOSED:
            return
        below = self.below
        handshake = self._state is _State.HANDSHAKE
        self._finish(error)
        if below is None:
            return
        if handshake and error is not None:
            below.close()  # the alert still goes out
        else:
            below.abort()

    def _finish(self, error: BaseException | None) -> None:
        self._stop_timer()
        waiter, self._waiter = self._waiter, None
        made = self._state is not _State.HANDSHAKE
        self._state = _State.CLOSED
        if waiter is not None and not waiter.done():
            waiter.set_exception(error or ConnectionAbortedError("the TLS handshake was aborted"))
        if made or not self._tell_made:
            self._tell_lost(error)

    def _tell_lost(self, error: BaseException | None) -> None:
        if not self._told_lost:
            self._told_lost = True
            self._loop.call_soon(self.above.connection_lost, error)

    @property
    def closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._state in (_State.LINGERING, _State.CLOSED)

    def pause(self) -> None:
        """Let what comes wait below."""
        self._paused = True
        self.below.pause_reading()

    def resume(self) -> None:
        """Go on with what waits here, then below."""
        if self._paused:
            self._paused = False
            self.below.resume_reading()
            self._loop.call_soon(self._pump)

    @property
    def paused(self) -> bool:
        """Whether the protocol above paused reading."""
        return self._paused


class TlsTransport(asyncio.Transport):
    """What the protocol above sees."""

    def __init__(self, tls: TlsProtocol) -> None:
        super().__init__()
        self._tls = tls

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return `ssl_object`, `sslcontext`, `peercert`, `cipher`, and what is known below."""
        tls = self._tls
        if name == "ssl_object":
            return tls.object
        if name == "sslcontext":
            return tls.context
        if name == "peercert":
            return tls.object.getpeercert()
        if name == "cipher":
            return tls.object.cipher()
        if name == "compression":
            return tls.object.compression()
        return default if tls.below is None else tls.below.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give plaintext to another protocol."""
        self._tls.above = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        protocol: asyncio.BaseProtocol = self._tls.above
        return protocol

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._tls.closing

    def pause_reading(self) -> None:
        """Leave what comes in the receive buffer; the window closes."""
        self._tls.pause()

    def resume_reading(self) -> None:
        """Give what waits to the protocol, soon."""
        self._tls.resume()

    def is_reading(self) -> bool:
        """Whether the protocol takes data."""
        return not self._tls.paused and not self._tls.closing

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Encrypt and send. Raises BufferError as TcpTransport.write does."""
        self._tls.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        """Write several pieces as one."""
        self.write(b"".join(list_of_data))

    def check_room(self) -> None:
        """Raise BufferError where `write` would."""
        self._tls.below.check_room()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait below."""
        size: int = self._tls.below.get_write_buffer_size()
        return size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the marks of the transport below."""
        limits: tuple[int, int] = self._tls.below.get_write_buffer_limits()
        return limits

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks of the transport below."""
        self._tls.below.set_write_buffer_limits(high=high, low=low)

    def can_write_eof(self) -> bool:
        """TLS has no half-close that peers agree on."""
        return False

    def close(self) -> None:
        """Send what was written and close_notify, then close."""
        self._tls.close()

    def abort(self) -> None:
        """Drop everything."""
        self._tls.abort()
