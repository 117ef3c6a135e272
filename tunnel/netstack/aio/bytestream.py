"""anyio byte streams through the tunnel, for programs and libraries that speak anyio.

    stream = await connect_tcp(session, "example.org", 80)

Needs anyio (the extra `http`); on asyncio, as the stack is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import ByteStream, SocketAttribute

if TYPE_CHECKING:
    from tunnel.daemon.inside import InTunnel
    from tunnel.netstack.aio.net import NetStack


class TunnelStream(ByteStream):
    """A connection inside the tunnel. Put anyio's TLSStream on it for TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._closed = False  # by us; where the peer broke it, that is still to be told
        self._sending = False

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """Return some bytes. Raises EndOfStream, BrokenResourceError, ClosedResourceError."""
        self._check_open()
        try:
            data = await self._reader.read(max_bytes)
        except OSError as error:
            self._check_open()
            raise anyio.BrokenResourceError from error
        self._check_open()
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        """Send bytes; returns once there is room for more."""
        self._check_open()
        self._sending = True
        try:
            await self._writer.drain()  # what a cancelled call left, beyond which nothing is taken
            self._writer.write(item)
            await self._writer.drain()
        except OSError as error:
            self._check_open()
            raise anyio.BrokenResourceError from error
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        """Send no more; receiving goes on."""
        self._check_open()
        self._writer.write_eof()

    async def aclose(self) -> None:
        """Close; what was sent still leaves. Who waits in another task hears of it at once."""
        self._closed = True
        if self._sending:
            self._writer.transport.abort()
        self._writer.close()
        self._reader.feed_eof()
        await anyio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """Addresses and ports, as of anyio's own streams."""
        local = self._writer.get_extra_info("sockname")
        remote = self._writer.get_extra_info("peername")
        return {
            SocketAttribute.local_address: lambda: local[:2],
            SocketAttribute.local_port: lambda: local[1],
            SocketAttribute.remote_address: lambda: remote[:2],
            SocketAttribute.remote_port: lambda: remote[1],
        }


async def connect_tcp(
    tunnel: NetStack | InTunnel, host: str, port: int, **options: Any
) -> TunnelStream:
    """Connect inside the tunnel; `options` are those of create_connection. Raises OSError."""
    return TunnelStream(*await tunnel.open_connection(host, port, **options))
