"""Streams of the stack: asyncio's, but that they go over to TLS by the stack's own means.

asyncio's writer asks the event loop for that, which refuses transports that are not its own.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunnel.netstack.aio.net import NetStack


class StackWriter(asyncio.StreamWriter):
    """Of a connection that left, or of one that a server accepted, whose writer was `made`."""

    def __init__(
        self,
        net: NetStack,
        transport: asyncio.Transport,
        reader: asyncio.StreamReader,
        made: asyncio.StreamWriter | None = None,
    ) -> None:
        protocol: Any = transport.get_protocol()
        super().__init__(transport, protocol, reader, net.loop)
        self._net = net
        self._made = made  # kept: from Python 3.13 on a writer that is let go of closes all
        self._over: asyncio.Transport = transport

    async def start_tls(
        self,
        sslcontext: ssl.SSLContext,
        *,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
    ) -> None:
        """Go over to TLS, as the side that accepted or the one that connected. Raises ssl.SSLError,
        OSError; then the connection is over.
        """
        await self.drain()
        self._over = self._transport = await self._net.start_tls(
            self._over,
            self._over.get_protocol(),
            sslcontext,
            server_side=self._made is not None,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
        )
