"""HTTP through the tunnel: a network backend for httpcore, and a transport for httpx.

    async with httpx.AsyncClient(transport=TunnelTransport(session)) as client:
        answer = await client.get("https://example.org")

Needs httpx (the extra `http`). Everything of httpx works as outside; only the connections, and the
names, go through the tunnel.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

if TYPE_CHECKING:
    from tunnel.daemon.inside import InTunnel
    from tunnel.netstack.aio.net import NetStack


@contextlib.contextmanager
def _as_httpcore(late: type[Exception], failed: type[Exception]) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise late(str(error)) from error
    except (OSError, ssl.SSLError) as error:
        raise failed(str(error)) from error


class TunnelNetworkStream(httpcore.AsyncNetworkStream):
    """One connection of a pool."""

    def __init__(
        self, tunnel: NetStack | InTunnel, reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:  # fmt: skip
        self._tunnel = tunnel
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """Return some bytes, b"" at the end."""
        with _as_httpcore(httpcore.ReadTimeout, httpcore.ReadError):
            async with asyncio.timeout(timeout):
                return await self._reader.read(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Send bytes."""
        with _as_httpcore(httpcore.WriteTimeout, httpcore.WriteError):
            async with asyncio.timeout(timeout):
                self._writer.write(buffer)
                await self._writer.drain()

    async def aclose(self) -> None:
        """Close; what was sent still leaves."""
        self._writer.close()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> TunnelNetworkStream:
        """Go over to TLS."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        with _as_httpcore(httpcore.ConnectTimeout, httpcore.ConnectError):
            async with asyncio.timeout(timeout):
                transport = await self._tunnel.start_tls(
                    self._writer.transport, protocol, ssl_context, server_hostname=server_hostname
                )
        protocol.connection_made(transport)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        return TunnelNetworkStream(self._tunnel, reader, writer)

    def get_extra_info(self, info: str) -> Any:
        """Return `ssl_object`, `client_addr`, `server_addr`, `is_readable`; None for others."""
        if info == "is_readable":  # a connection in the pool that the server has closed, say
            return self._reader.at_eof() or self._writer.is_closing()
        names = {"client_addr": "sockname", "server_addr": "peername"}
        return self._writer.get_extra_info(names.get(info, info))


class TunnelBackend(httpcore.AsyncNetworkBackend):
    """Opens the connections of a pool inside a tunnel."""

    def __init__(self, tunnel: NetStack | InTunnel) -> None:
        self._tunnel = tunnel

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> TunnelNetworkStream:
        """Connect. `socket_options` are for kernel sockets, which there are none of."""
        local = None if local_address is None else (local_address, 0)
        with _as_httpcore(httpcore.ConnectTimeout, httpcore.ConnectError):
            async with asyncio.timeout(timeout):
                opened = await self._tunnel.open_connection(host, port, local_addr=local)
        return TunnelNetworkStream(self._tunnel, *opened)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109
        socket_options: Iterable[Any] | None = None,
    ) -> TunnelNetworkStream:
        """There are none inside a tunnel."""
        raise httpcore.UnsupportedProtocol("a tunnel has no unix sockets")

    async def sleep(self, seconds: float) -> None:
        """Wait between retries."""
        await asyncio.sleep(seconds)


class TunnelTransport(httpx.AsyncHTTPTransport):
    """For `httpx.AsyncClient(transport=...)`; the arguments are httpx.AsyncHTTPTransport's."""

    def __init__(
        self,
        tunnel: NetStack | InTunnel,
        *,
        verify: ssl.SSLContext | bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx.Limits | None = None,
        retries: int = 0,
        local_address: str | None = None,
    ) -> None:
        context = httpx.create_ssl_context() if verify is True else verify
        super().__init__(verify=context, http1=http1, http2=http2)
        chosen = limits or httpx.Limits(max_connections=100, max_keepalive_connections=20)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context if isinstance(context, ssl.SSLContext) else _unverified(),
            max_connections=chosen.max_connections,
            max_keepalive_connections=chosen.max_keepalive_connections,
            keepalive_expiry=chosen.keepalive_expiry,
            http1=http1,
            http2=http2,
            retries=retries,
            local_address=local_address,
            network_backend=TunnelBackend(tunnel),
        )


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
