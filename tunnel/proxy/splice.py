"""Joining two connections, byte for byte, until both directions have ended.

Each direction ends by itself: where one side has sent all that it will, the other is told, and goes
on sending. A side that does not read holds up its sender and nobody else. An error on one side
resets the other, so that neither takes a broken transfer for a whole one.

What comes from one transport is written to the other in the same turn of the event loop, and a
transport that has enough to write stops the other's reading: no task, no buffer and no copy between
them. So the streams, which were there for the negotiation, give their transports away here.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any, Final

from tunnel.proxy.dialer import Streams

CHUNK: Final = 64 * 1024
"""Bytes that are read of a kernel's socket at once; few enough to be copied while in the cache."""


async def splice(one: Streams, other: Streams) -> None:
    """Carry bytes both ways until both have ended; close both. An end with an error resets."""
    ends = [_end_of(writer) for _, writer in (one, other)]
    try:
        for _, writer in (one, other):
            await writer.drain()  # who was told to wait would not be told again
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for end, peer in (ends, ends[::-1]):
            end.begin(peer, over)
        for end, (reader, _) in zip(ends, (one, other), strict=True):
            end.give_what_came(reader)
        await over
    except (OSError, asyncio.CancelledError) as error:
        # What a side has not read yet is lost: it may never read it, and nobody waits for that.
        for end in ends:
            end.transport.abort()
        if not isinstance(error, OSError):
            raise


class _End:
    """One of two connections, as the protocol of its transport."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self._streams = transport.get_protocol()  # whose users wait for the connection's end
        self.ended = False  # sends no more
        self._lost = False

    def begin(self, peer: _End, over: asyncio.Future[None]) -> None:
        """Take the transport over. `over` hears when both are closed."""
        self._peer = peer
        self._over = over
        transport = self.transport
        if transport.is_closing():  # and might have told so already
            raise ConnectionAbortedError
        transport.pause_reading()  # a transport looks at its protocol's kind when it begins to read
        transport.set_protocol(self)
        transport.resume_reading()

    def give_what_came(self, reader: asyncio.StreamReader) -> None:
        """Hand on what the stream had read ahead."""
        while data := _read_now(reader):
            self._peer.transport.write(data)
        if data is not None:
            self.eof_received()

    def eof_received(self) -> bool:
        """Tell the peer; the connection stays, since the peer may go on."""
        if not self.ended:
            self.ended = True
            peer = self._peer
            if peer.transport.can_write_eof() and not peer.transport.is_closing():
                peer.transport.write_eof()
            if peer.ended:
                self.transport.close()
                peer.transport.close()
        return True

    def pause_writing(self) -> None:
        """Enough waits to be written here."""
        self._peer.transport.pause_reading()

    def resume_writing(self) -> None:
        """Let more come."""
        peer = self._peer
        if not peer.ended and not peer.transport.is_closing():
            peer.transport.resume_reading()

    def connection_made(self, transport: Any) -> None:
        """It was made before."""

    def connection_lost(self, error: Exception | None) -> None:
        """Reset the peer where this is not the end of both directions."""
        self._lost = True
        self._streams.connection_lost(error)
        if error is not None or not (self.ended and self._peer.ended):
            self._peer.transport.abort()
        if self._peer._lost and not self._over.done():
            self._over.set_result(None)


class _StackEnd(_End, asyncio.Protocol):
    """Of a transport that has bytes to give away, as the userspace stack's."""

    def data_received(self, data: bytes) -> None:
        """Hand it on."""
        self._peer.transport.write(data)


class _KernelEnd(_End, asyncio.BufferedProtocol):
    """Of a kernel's socket: its bytes are copied out of it in any case, so to where they may stay.

    A buffer is filled and handed on at one go, so all connections of a thread share one. Where it
    is well filled it is given away, and another taken; else its bytes are copied.
    """

    def begin(self, peer: _End, over: asyncio.Future[None]) -> None:
        """Take the transport over; what the peer sends at once is a buffer's size."""
        self._size = peer.transport.get_extra_info("unit") or CHUNK
        super().begin(peer, over)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to receive."""
        if len(_shared.buffer) != self._size:
            _shared.buffer = memoryview(bytearray(self._size))
        return _shared.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand it on."""
        filled = _shared.buffer[:nbytes]
        if 2 * nbytes < self._size:
            self._peer.transport.write(bytes(filled))
        else:
            _shared.buffer = _NONE
            self._peer.transport.write(filled.toreadonly())


_NONE: Final = memoryview(b"")


class _Shared(threading.local):
    buffer = _NONE


_shared: Final = _Shared()


def _end_of(writer: asyncio.StreamWriter) -> _End:
    kernel = writer.get_extra_info("socket") is not None
    return (_KernelEnd if kernel else _StackEnd)(writer.transport)


def _read_now(reader: asyncio.StreamReader) -> bytes | None:
    """Return what a stream has, b"" at its end, None where it would have to wait.

    Raises OSError where the connection failed.
    """
    reading = reader.read(CHUNK)
    try:
        reading.send(None)
    except StopIteration as done:
        data: bytes = done.value
        return data
    reading.close()
    return None


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a connection; what its end says does not matter any more."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
