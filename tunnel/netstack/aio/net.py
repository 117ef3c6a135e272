"""NetStack: the calls that asyncio programs know, on the userspace stack.

net = NetStack(fd, flags, addresses=["10.0.0.2"], mtu=1420, dns=["10.0.0.1"])
reader, writer = await net.open_connection("example.org", 443, ssl=True)
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, TypeVar

from tunnel.netstack.aio import connect
from tunnel.netstack.aio.datagram import UdpTransport
from tunnel.netstack.aio.loop import StackLoop
from tunnel.netstack.aio.names import failure, literal
from tunnel.netstack.aio.resolver import Resolver
from tunnel.netstack.aio.server import StackServer
from tunnel.netstack.aio.streams import StackWriter
from tunnel.netstack.aio.transport import Opened, TcpTransport
from tunnel.netstack.ip import TCP, UDP
from tunnel.netstack.settings import Settings
from tunnel.netstack.tcpsocket import Place

LIMIT: Final = 256 * 1024  # of a StreamReader
_SECOND: Final = 1_000_000_000

P = TypeVar("P", bound=asyncio.BaseProtocol)
D = TypeVar("D", bound=asyncio.DatagramProtocol)
StreamCallback = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


class NetStack(StackLoop):
    """A host on a link. To be made on the event loop that it will use; close it with `aclose`."""

    _resolver: Resolver | None = None
    _patient: dict[tuple[float, float], Settings] | None = None

    @property
    def resolver(self) -> Resolver:
        """Asks the stack's DNS servers."""
        if self._resolver is None:
            self._resolver = Resolver(self)
        return self._resolver

    def end(self, error: BaseException) -> None:
        """Give up questions, connections and the link."""
        if self._resolver is not None:
            self._resolver.close()
        super().end(error)

    # ---- connections ----

    async def open_connection(
        self, host: str, port: int, *, limit: int = LIMIT, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, as asyncio.open_connection does; `options` are those of create_connection."""
        reader = asyncio.StreamReader(limit=limit, loop=self.loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self.loop)
        transport, _ = await self.create_connection(lambda: protocol, host, port, **options)
        return reader, StackWriter(self, transport, reader)

    async def create_connection(
        self, protocol_factory: Callable[[], P], host: str, port: int, **options: Any
    ) -> tuple[asyncio.Transport, P]:
        """Connect, as loop.create_connection does, to an address or a name.

        `options`: `ssl` (True or a context), `server_hostname`, `ssl_handshake_timeout`,
        `local_addr`, `family`, `happy_eyeballs_delay`. Raises OSError, socket.gaierror,
        ssl.SSLError; cancelling leaves nothing behind.
        """
        self.check_open()
        return await connect.connect(self, protocol_factory, host, port, **options)

    def begin_connection(
        self, opened: Opened, host: str, port: int, patience: tuple[float, float] = (180.0, 0.0)
    ) -> TcpTransport | None:
        """Begin to connect to an address, for who has many short connections and no task for each.

        `opened` hears of the outcome, and calls `begin` of the transport. `patience` are seconds:
        for connecting, and for which the first acknowledgments may wait for data to go with. None
        where `host` is no address. Raises OSError, TunnelError.
        """
        address = literal(host)
        if address is None:
            return None
        if not 0 < port < 65536:
            raise failure(errno.EADDRNOTAVAIL, Place(address, port), "connection to")
        return self.dial(Place(address, port), opened, settings=self._patient_for(patience))

    def _patient_for(self, patience: tuple[float, float]) -> Settings:
        """Return what `begin_connection` was asked for, as settings."""
        if self._patient is None:
            self._patient = {}
        settings = self._patient.get(patience)
        if settings is None:
            connect_timeout, wait = patience
            settings = self._patient[patience] = replace(
                self.stack.tcp.settings, connect_timeout=int(connect_timeout * _SECOND),
                patience=int(wait * _SECOND),
            )  # fmt: skip
        return settings

    async def start_tls(
        self,
        transport: asyncio.WriteTransport,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
    ) -> asyncio.Transport:
        """Go over to TLS on an open connection, as loop.start_tls does."""
        return await connect.secure(
            self,
            transport,
            protocol,
            sslcontext,
            server_side=server_side,
            server_hostname=server_hostname,
            handshake_timeout=ssl_handshake_timeout,
            tell_made=False,
        )

    # ---- datagrams, names, echo ----

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], D],
        local_addr: tuple[Any, ...] | None = None,
        remote_addr: tuple[Any, ...] | None = None,
    ) -> tuple[UdpTransport, D]:
        """Open a UDP socket, as loop.create_datagram_endpoint does. Raises OSError."""
        self.check_open()
        host, port = local_addr or ("", 0)
        ours = connect.own_address("local_addr", host)
        remote = None
        if remote_addr is not None:
            family = 0 if ours is None else connect.FAMILIES[len(ours)]
            found = await connect.resolve(self, remote_addr[0], family)
            remote = Place(found[0], remote_addr[1])
            ours = self.stack.route(ours, remote.address).source
        if self.ports is not None:
            port = self.ports.take(UDP, port)
        protocol = protocol_factory()
        transport = UdpTransport(self, self.stack.bind(ours, port, remote), protocol)
        self.transports.add(transport)
        protocol.connection_made(transport)
        return transport, protocol

    async def resolve(self, host: str, family: int = 0) -> list[IPv4Address | IPv6Address]:
        """Return a host's addresses, in the order to try them. Raises socket.gaierror."""
        self.check_open()
        return [ip_address(packed) for packed in await connect.resolve(self, host, family)]

    async def getaddrinfo(
        self, host: str, port: int, *, family: int = 0, type: int = 0
    ) -> list[tuple[Any, ...]]:
        """Resolve through the tunnel, with the answer of loop.getaddrinfo."""
        self.check_open()
        found = await connect.resolve(self, host, family)
        return [connect.info(address, port, type) for address in found]

    async def ping(self, host: str, *, data: bytes = b"", seconds: float = 5.0) -> float:
        """Send an echo request; return the round trip in seconds, waiting at most `seconds`.

        Raises TimeoutError, OSError for what the network says, socket.gaierror.
        """
        self.check_open()
        address = (await connect.resolve(self, host))[0]
        self._sequence = (self._sequence + 1) & 0xFFFF
        sequence, before = self._sequence, self.now()
        answer: asyncio.Future[int] = self.loop.create_future()
        self._pings[sequence] = answer
        try:
            self.stack.ping(address, self.identifier, sequence, data)
            self.wake()
            async with asyncio.timeout(seconds):
                error = await answer
        finally:
            del self._pings[sequence]
        if error:
            raise failure(error, Place(address, 0), "echo request to")
        return (self.now() - before) / _SECOND

    # ---- servers ----

    async def start_server(
        self,
        client_connected_cb: StreamCallback,
        host: str | None = None,
        port: int = 0,
        *,
        limit: int = LIMIT,
        **options: Any,
    ) -> StackServer:
        """Listen, as asyncio.start_server does, on one address of the stack or on all (None).

        `options` are those of create_server.
        """

        def accepted(reader: asyncio.StreamReader, made: asyncio.StreamWriter) -> Any:
            transport: Any = made.transport
            return client_connected_cb(reader, StackWriter(self, transport, reader, made))

        def factory() -> asyncio.StreamReaderProtocol:
            reader = asyncio.StreamReader(limit=limit, loop=self.loop)
            return asyncio.StreamReaderProtocol(reader, accepted, loop=self.loop)

        return await self.create_server(factory, host, port, **options)

    async def create_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int = 0,
        *,
        backlog: int = 128,
        ssl: ssl.SSLContext | None = None,
        ssl_handshake_timeout: float | None = None,
    ) -> StackServer:
        """Listen, as loop.create_server does. Raises OSError."""
        self.check_open()
        address = connect.own_address("host", host or "")
        if self.ports is not None:
            port = self.ports.take(TCP, port)
        listener = self.stack.listen(address, port, backlog=backlog)
        server = StackServer(self, listener, protocol_factory, ssl, ssl_handshake_timeout)
        listener.owner = server
        self._servers.add(server)
        return server
