"""Ports of this machine at which proxies and forwards listen, taken before there is a tunnel.

One that cannot be had ends tunneld before it has made anything, and nobody else gets one that is
taken. Who comes before the tunnel is up waits in the kernel's queue.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from tunnel.proxy.bound import TCP, UDP, bound
from tunnel.proxy.dialer import Machine, Server, widen
from tunnel.proxy.listening import Listening


class OwnPorts(Machine):
    """The machine's own network, with ports that were taken before they are listened on."""

    def __init__(self) -> None:
        self._taken: dict[tuple[socket.SocketKind, str | None, int], list[socket.socket]] = {}

    async def take(self, kind: socket.SocketKind, host: str | None, port: int) -> None:
        """Take a port, as `bound` does. Raises OSError."""
        self._taken[kind, host, port] = await bound(kind, host, port)

    def let_go(self) -> None:
        """Give back what is not listened on."""
        while self._taken:
            for one in self._taken.popitem()[1]:
                one.close()

    async def _of(
        self, kind: socket.SocketKind, host: str | None, port: int
    ) -> list[socket.socket]:
        if (kind, host, port) not in self._taken:
            await self.take(kind, host, port)
        return self._taken.pop((kind, host, port))

    async def create_server(
        self, protocol_factory: Callable[[], Any], host: str | None, port: int
    ) -> Server:
        """Listen, with a protocol for each client."""
        return Listening(protocol_factory, await self._of(TCP, host, port))

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], Any],
        local_addr: tuple[str, int] | None = None,
        remote_addr: tuple[str, int] | None = None,
    ) -> tuple[asyncio.DatagramTransport, Any]:
        """Open a UDP socket."""
        if local_addr is None or remote_addr is not None:
            return await super().create_datagram_endpoint(protocol_factory, local_addr, remote_addr)
        loop = asyncio.get_running_loop()
        (one,) = await self._of(UDP, *local_addr)
        made = await loop.create_datagram_endpoint(protocol_factory, sock=one)
        widen(made[0])
        return made
