"""NetStack: the stack on an event loop, with the calls that asyncio programs know.

    net = NetStack(fd, flags, addresses=["10.0.0.2"], mtu=1420, dns=["10.0.0.1"])
    reader, writer = await net.open_connection("example.org", 443, ssl=True)

One reader on the link, one timer, one turn: take what came, tell the owners, send what follows from
it. A link that is full stops the sending, not the stack; connections then wait in their own
buffers. The clock is the loop's kind (it stands still while the machine sleeps), so that a suspend
does not count as silence of the peer.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from tunnel.errors import TunnelError
from tunnel.flow import FlowClosed
from tunnel.netstack.aio import connect
from tunnel.netstack.aio.datagram import UdpTransport
from tunnel.netstack.aio.names import failure
from tunnel.netstack.aio.resolver import Resolver
from tunnel.netstack.aio.server import StackServer
from tunnel.netstack.aio.transport import TcpTransport
from tunnel.netstack.ip import Outgoing
from tunnel.netstack.settings import Settings
from tunnel.netstack.stack import Stack
from tunnel.netstack.tcpsocket import Listener, Place
from tunnel.primitives import EngineError
from tunnel.unitlink import UnitLink

LIMIT: Final = 256 * 1024  # of a StreamReader
_SECOND: Final = 1_000_000_000

P = TypeVar("P", bound=asyncio.BaseProtocol)
D = TypeVar("D", bound=asyncio.DatagramProtocol)
StreamCallback = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


class NetStack:
    """A host on a link. To be made on the event loop that it will use; close it with `aclose`."""

    def __init__(
        self,
        fd: int,
        link_flags: int,
        *,
        addresses: Iterable[str | IPv4Address | IPv6Address],
        mtu: int = 1420,
        dns: Sequence[str | IPv4Address | IPv6Address] = (),
        settings: Settings | None = None,
        memory: int = 64 << 20,
    ) -> None:
        """`fd` stays the caller's, and open until after `aclose`. `memory` bounds what all receive
        windows may hold, in bytes.
        """
        self.loop = asyncio.get_running_loop()
        packed = [ip_interface(str(address)).ip.packed for address in addresses]
        chosen = settings or Settings(nodelay=True)
        self.stack = Stack(packed, mtu, secret=os.urandom(64), settings=chosen, memory=memory)
        self.dns = [ip_interface(str(server)).ip for server in dns]
        self.resolver = Resolver(self)
        self.closed = False
        self._link = UnitLink(fd, link_flags)
        self._left: list[Outgoing] = []  # what the full link did not take
        self._scheduled = False
        self.identifier = int.from_bytes(os.urandom(2), "big")  # of echo requests
        self._sequence = 0
        self._pings: dict[int, asyncio.Future[int]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0
        self.transports: set[Any] = set()
        self._servers: set[StackServer] = set()
        self.loop.add_reader(fd, self._on_readable)

    @staticmethod
    def now() -> int:
        """The stack's time (ns)."""
        return time.monotonic_ns()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Reset every connection and let go of the link. Who waits hears of it at once."""
        if not self.closed:
            self._end(failure(errno.ECONNABORTED))
        await asyncio.sleep(0)

    def _end(self, error: BaseException) -> None:
        self.resolver.close()
        for server in list(self._servers):
            server.close()
        for answer in self._pings.values():
            if not answer.done():
                answer.set_exception(error)
        for transport in list(self.transports):
            transport.fail(error)
        self._turn()
        self.closed = True
        self.loop.remove_reader(self._link.fd)
        if self._left:
            self.loop.remove_writer(self._link.fd)
            self._left = []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def check_open(self) -> None:
        """Raise TunnelError once the stack is closed."""
        if self.closed:
            raise TunnelError("the tunnel's network stack is closed; open the tunnel again")

    # ---- connections ----

    async def open_connection(
        self, host: str, port: int, *, limit: int = LIMIT, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, as asyncio.open_connection does; `options` are those of create_connection."""
        reader = asyncio.StreamReader(limit=limit, loop=self.loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self.loop)
        transport, _ = await self.create_connection(lambda: protocol, host, port, **options)
        return reader, asyncio.StreamWriter(transport, protocol, reader, self.loop)

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

    async def connect(self, remote: Place, local: Place | None = None) -> TcpTransport:
        """Return a connection that stands and has no protocol yet (`TcpTransport.begin`)."""
        self.check_open()
        socket = self.stack.connect(remote, self.now(), local=local)
        waiter: asyncio.Future[None] = self.loop.create_future()
        transport = TcpTransport(self, socket, waiter)
        self.transports.add(transport)
        self.wake()
        try:
            await waiter
        except BaseException:
            transport.abort()
            raise
        return transport

    async def start_tls(
        self,
        transport: asyncio.Transport,
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

    def forget(self, transport: Any) -> None:
        """A transport is done."""
        self.transports.discard(transport)

    # ---- datagrams, names, echo ----

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], D],
        local_addr: tuple[str, int] | None = None,
        remote_addr: tuple[str, int] | None = None,
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

        def factory() -> asyncio.StreamReaderProtocol:
            reader = asyncio.StreamReader(limit=limit, loop=self.loop)
            return asyncio.StreamReaderProtocol(reader, client_connected_cb, loop=self.loop)

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
        listener = self.stack.listen(address, port, backlog=backlog)
        server = StackServer(self, listener, protocol_factory, ssl, ssl_handshake_timeout)
        listener.owner = server
        self._servers.add(server)
        return server

    def any_address(self, size: int | None = None) -> bytes:
        """Return the address that stands for all of ours, of 4 or 16 bytes."""
        sizes = {len(address) for address in self.stack.addresses}
        return bytes(size or (4 if 4 in sizes else 16))

    def forget_server(self, server: StackServer, listener: Listener) -> None:
        """A server has closed."""
        self._servers.discard(server)
        listener.close()

    # ---- the loop ----

    def wake(self) -> None:
        """Something was written, read or closed: there may be something to send, soon."""
        if not self._scheduled and not self.closed:
            self._scheduled = True
            self.loop.call_soon(self._soon)

    def _soon(self) -> None:
        self._scheduled = False
        if not self.closed:
            self._turn()

    def _on_readable(self) -> None:
        try:
            units = self._link.read()
        except (FlowClosed, EngineError) as error:
            self._end(ConnectionAbortedError(errno.ECONNABORTED, str(error)))
            return
        receive, now = self.stack.receive, self.now()
        for view, segment in units:
            receive(view, now, segment)
        self._turn()

    def _on_writable(self) -> None:
        left, self._left = self._left, []
        self.loop.remove_writer(self._link.fd)
        self._write(left)
        if not self._left:
            self._turn()

    def _on_timer(self) -> None:
        self._timer = None
        self.stack.handle_timeout(self.now())
        self._turn()

    def _turn(self) -> None:
        """Tell owners what happened, send what follows, set the timer."""
        stack = self.stack
        self._tell()
        now = self.now()
        while not self._left:
            packets = stack.packets_to_send(now)
            if not packets:
                break
            self._write(packets)
        self._tell()
        self._arm(now)

    def _tell(self) -> None:
        stack = self.stack
        for socket, event in stack.take_events():
            owner = socket.owner
            if owner is not None:
                owner.tcp_event(event)
            elif socket.listener is not None and event.kind.name == "ESTABLISHED":
                socket.listener.owner.accept(socket)
        for received in stack.take_datagrams():
            if received.socket.owner is not None:
                received.socket.owner.arrived(received.data, received.source, received.error)
        for reply in stack.take_replies():
            answer = (
                self._pings.get(reply.sequence) if reply.identifier == self.identifier else None
            )
            if answer is not None and not answer.done():
                answer.set_result(reply.error)

    def _write(self, packets: list[Outgoing]) -> None:
        try:
            taken = self._link.write(packets)
        except (FlowClosed, EngineError) as error:
            self._left = []
            self.loop.call_soon(self._fail, str(error))
            return
        if taken < len(packets):
            self._left = packets[taken:]
            self.loop.add_writer(self._link.fd, self._on_writable)

    def _fail(self, words: str) -> None:
        if not self.closed:
            self._end(ConnectionAbortedError(errno.ECONNABORTED, words))

    def _arm(self, now: int) -> None:
        due = self.stack.next_deadline()
        if due is None:
            return
        if self._timer is not None:
            if self._timer_due <= due:
                return  # it comes early, and is set again then
            self._timer.cancel()
        self._timer_due = due
        self._timer = self.loop.call_later(max(due - now, 0) / _SECOND, self._on_timer)
