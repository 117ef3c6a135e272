"""What the proxies' tests share: an echo on loopback, and a network on which names mean something.

The network that is dialled is this machine's own, in place of a tunnel: to a proxy both are a
Dialer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from typing import Any

from tunnel.proxy.dialer import Machine
from tunnel.settings import Address

LOG = logging.getLogger("test")
HOST = "127.0.0.1"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Network(Machine):
    """The machine, but for names: `echo.test` is loopback, `dead.test` never answers."""

    async def create_connection(
        self, protocol_factory: Callable[[], Any], host: str, port: int
    ) -> tuple[Any, Any]:
        return await super().create_connection(protocol_factory, await self._address(host), port)

    async def lookup(self, host: str, family: int = socket.AF_UNSPEC) -> list[Address]:
        return [ip_address(await self._address(host))]

    async def _address(self, host: str) -> str:
        if host == "dead.test":
            await asyncio.Event().wait()
        if host == "echo.test":
            return HOST
        if not host[-1].isdigit():
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return host


def port_of(listener: Any) -> int:
    """Return the port of what `Clients.listen` or `start_server` opened."""
    server = getattr(listener, "_server", listener)
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send everything back once the client has sent all; so half-close must be carried."""
    writer.write(await reader.read())
    writer.close()


@contextlib.asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """Run an echo that answers at the end of what it was sent; yields its port."""
    server = await asyncio.start_server(_echo, HOST, 0)
    try:
        yield port_of(server)
    finally:
        server.close()


def free_port() -> int:
    """Return a TCP port on which nobody listens."""
    with socket.socket() as one:
        one.bind((HOST, 0))
        port: int = one.getsockname()[1]
        return port


async def exchange(streams: Streams, data: bytes) -> bytes:
    """Send data and the end of it; return what comes back until the other end's."""
    reader, writer = streams
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer
