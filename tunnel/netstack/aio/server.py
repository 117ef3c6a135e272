"""A listening port of the stack, with the calls of an asyncio server."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tunnel.netstack.aio.names import text
from tunnel.netstack.aio.tls import TlsProtocol
from tunnel.netstack.aio.transport import TcpTransport
from tunnel.netstack.tcpsocket import Listener, TcpSocket

if TYPE_CHECKING:
    from tunnel.netstack.aio.loop import StackLoop


class ListeningSocket(NamedTuple):
    """One address of a server, for programs that ask its sockets for their port."""

    host: str
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        """AF_INET or AF_INET6."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def getsockname(self) -> tuple[Any, ...]:
        """Return the address as a kernel socket has it."""
        ends = (self.host, self.port)
        return ends if self.family == socket.AF_INET else (*ends, 0, 0)


class StackServer:
    """What `start_server` and `create_server` give; it serves from the start."""

    def __init__(
        self,
        net: StackLoop,
        listener: Listener,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        context: ssl.SSLContext | None = None,
        handshake_timeout: float | None = None,
    ) -> None:
        self._net = net
        self._listener = listener
        self._factory = protocol_factory
        self._context = context
        self._handshake_timeout = handshake_timeout
        self._closed = asyncio.Event()

    def accept(self, accepted: TcpSocket) -> None:
        """Take a connection that is established."""
        protocol = self._factory()
        if self._context is not None:
            protocol = TlsProtocol(
                self._net.loop,
                protocol,
                self._context,
                server_side=True,
                handshake_timeout=self._handshake_timeout,
            )
        transport = TcpTransport(self._net, accepted)
        self._net.transports.add(transport)
        transport.begin(protocol)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens: (host, port) for each address."""
        address = self._listener.address
        ours = self._net.stack.addresses if address is None else (address,)
        return [(text(one), self._listener.port) for one in ours]

    @property
    def sockets(self) -> tuple[ListeningSocket, ...]:
        """What can be asked where it listens; there are no kernel sockets. () once closed."""
        if self._closed.is_set():
            return ()
        return tuple(ListeningSocket(host, port) for host, port in self.addresses)

    def is_serving(self) -> bool:
        """Whether it accepts."""
        return not self._closed.is_set()

    async def start_serving(self) -> None:
        """It serves already."""

    async def serve_forever(self) -> None:
        """Serve until closed or cancelled; closed in either case."""
        try:
            await self._closed.wait()
        finally:
            self.close()

    def close(self) -> None:
        """Accept no more. Connections that were accepted go on."""
        if not self._closed.is_set():
            self._closed.set()
            self._net.forget_server(self, self._listener)

    async def wait_closed(self) -> None:
        """Wait until it is closed."""
        await self._closed.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
