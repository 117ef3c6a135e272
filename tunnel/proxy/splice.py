"""Joining two connections that were talked to through streams, until both directions have ended.

The streams were there for the negotiation. Here they give their transports away, and what they have
read ahead; from then on it is relay.py's business.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from tunnel.proxy.dialer import Streams
from tunnel.proxy.relay import CHUNK, AnEnd, End, SocketEnd, join, reset


async def splice(one: Streams, other: Streams) -> None:
    """Carry bytes both ways until both have ended; close both. An end with an error resets."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    try:
        for _, writer in (one, other):
            await writer.drain()  # who was told to wait would not be told again
        both: set[Any] = set()
        ends = [_taken_over(writer, both, over) for _, writer in (one, other)]
        join(*ends)
        for end, (reader, _) in zip(ends, (one, other), strict=True):
            _give_what_came(end, reader)
        await over
    except (OSError, asyncio.CancelledError) as error:
        # What a side has not read yet is lost: it may never read it, and nobody waits for that.
        for _, writer in (one, other):
            reset(writer.transport)
        if not isinstance(error, OSError):
            raise


class _Taken:
    """An end that was a stream's, whose users wait for the connection's end.

    `both` are those of the pair that are open; `over` hears when none is.
    """

    streams: Any
    both: set[Any]
    over: asyncio.Future[None]

    def connection_lost(self, error: BaseException | None) -> None:
        """Tell them too."""
        self.streams.connection_lost(error)
        super().connection_lost(error)  # type: ignore[misc]
        self.both.discard(self)
        if not self.both and not self.over.done():
            self.over.set_result(None)


class _TakenEnd(_Taken, End):
    pass


class _TakenSocket(_Taken, SocketEnd):
    pass


def _taken_over(
    writer: asyncio.StreamWriter, both: set[Any], over: asyncio.Future[None]
) -> _TakenEnd | _TakenSocket:
    transport: Any = writer.transport
    if transport.is_closing():  # and might have told so already
        raise ConnectionAbortedError
    kernel = transport.get_extra_info("socket") is not None
    end = _TakenSocket() if kernel else _TakenEnd()
    end.transport, end.streams = transport, transport.get_protocol()
    end.both, end.over = both, over
    both.add(end)
    transport.pause_reading()  # a transport looks at its protocol's kind when it begins to read
    transport.set_protocol(end)
    transport.resume_reading()
    return end


def _give_what_came(end: AnEnd, reader: asyncio.StreamReader) -> None:
    """Hand on what the stream had read ahead."""
    while data := _read_now(reader):
        end.data_received(data)
    if data is not None:
        end.eof_received()


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
