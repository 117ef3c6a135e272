"""Dialer: one network to connect and listen on. The tunnel is one, the machine's own another.

Proxies and forwards join two of them, so that what goes in and what comes out of the tunnel is the
same code with the ends exchanged, and tests need no tunnel.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final, NamedTuple, Protocol

from tunnel.proxy.bound import TCP, bound
from tunnel.proxy.listening import Listening
from tunnel.settings import Address

_BURST: Final = 1 << 20
"""Bytes of datagrams that may wait in the kernel, which allows a fifth of it as a rule."""


class Patience(NamedTuple):
    """Seconds: how long connecting may take, and how long the first acknowledgments may wait for
    data to go with.
    """

    connect: float
    acknowledge: float = 0.0


class Opening(Protocol):
    """A connection that is being made."""

    def abort(self) -> None:
        """Give it up."""


#: Takes the transport, which is to be given its protocol by `begin` then, and an error or None.
Opened = Callable[[Any, BaseException | None], None]


class Server(Protocol):
    """What listens."""

    def close(self) -> None:
        """Listen no more."""


class Dialer(Protocol):
    """The calls of asyncio that are needed. All raise OSError (socket.gaierror for names)."""

    async def create_connection(
        self, protocol_factory: Callable[[], Any], host: str, port: int, /
    ) -> tuple[Any, Any]:
        """Connect to an address or a name, with a protocol."""
        ...

    def begin_connection(
        self, opened: Opened, host: str, port: int, patience: Patience, /
    ) -> Opening | None:
        """Begin to connect to an address, without a task; `opened` hears of the outcome.

        None where that cannot be, as for a name: `create_connection` can. Raises OSError.
        """
        ...

    async def create_server(
        self, protocol_factory: Callable[[], Any], host: str | None, port: int, /
    ) -> Server:
        """Listen, with a protocol for each client."""
        ...

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], Any],
        local_addr: tuple[str, int] | None = None,
        remote_addr: tuple[str, int] | None = None,
        /,
    ) -> tuple[asyncio.DatagramTransport, Any]:
        """Open a UDP socket."""
        ...

    async def lookup(self, host: str, /) -> list[Address]:
        """Resolve a name."""
        ...


def _keep_urgent(kernel: Any) -> None:
    """Leave an urgent byte in its place in the stream: the kernel takes it out else, and as event
    loops never ask for it, it would be lost.
    """
    kernel.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


class Machine:
    """The machine's own network, by the running event loop."""

    async def create_connection(
        self, protocol_factory: Callable[[], Any], host: str, port: int
    ) -> tuple[Any, Any]:
        """Connect to an address or a name, with a protocol."""
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(protocol_factory, host, port)
        _keep_urgent(transport.get_extra_info("socket"))
        return transport, protocol

    def begin_connection(
        self, opened: Opened, host: str, port: int, patience: Patience
    ) -> Opening | None:
        """Leave it to `create_connection`."""
        return None

    async def create_server(
        self, protocol_factory: Callable[[], Any], host: str | None, port: int
    ) -> Server:
        """Listen, with a protocol for each client."""
        return Listening(protocol_factory, await bound(TCP, host, port))

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], Any],
        local_addr: tuple[str, int] | None = None,
        remote_addr: tuple[str, int] | None = None,
    ) -> tuple[asyncio.DatagramTransport, Any]:
        """Open a UDP socket."""
        loop = asyncio.get_running_loop()
        made = await loop.create_datagram_endpoint(protocol_factory, local_addr, remote_addr)
        widen(made[0])
        return made

    async def lookup(self, host: str, family: int = socket.AF_UNSPEC) -> list[Address]:
        """Resolve a name."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, None, family=family, type=socket.SOCK_DGRAM)
        return [ip_address(str(entry[4][0])) for entry in found]


def widen(transport: Any) -> None:
    """Let as many datagrams wait in a kernel's socket as may: a flow of QUIC comes in bursts."""
    kernel = transport.get_extra_info("socket")
    if kernel is not None:  # the stack's has none
        kernel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BURST)
