"""Joining two connections, byte for byte, until both directions have ended.

Each direction ends by itself: where one side has sent all that it will, the other is told, and goes
on sending. A side that does not read holds up its sender and nobody else. An error on one side
resets the other, so that neither takes a broken transfer for a whole one.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from tunnel.proxy.dialer import Streams

CHUNK: Final = 256 * 1024
"""Bytes that are read at most before they are written."""


async def splice(one: Streams, other: Streams) -> None:
    """Carry bytes both ways until both have ended; close both. An end with an error resets."""
    ways = [
        asyncio.create_task(_carry(one[0], other[1])),
        asyncio.create_task(_carry(other[0], one[1])),
    ]
    try:
        await asyncio.gather(*ways)
    except (OSError, asyncio.CancelledError) as error:
        # What a side has not read yet is lost: it may never read it, and nobody waits for that.
        for _, writer in (one, other):
            writer.transport.abort()
        if not isinstance(error, OSError):
            raise
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
    for _, writer in (one, other):
        await hang_up(writer)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a connection; what its end says does not matter any more."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
