"""What a short connection costs in Python, from its SYN to its end, layer by layer.

    stack      two stacks that hand each other packets in memory, in virtual time
    protocols  two event-loop shells on a link, protocols of asyncio
    streams    the same with asyncio's streams
    socks5     a client's socket, the SOCKS5 proxy, the shell: all that a proxied connection costs

Each connects, sends a byte, gets it back and closes. Both ends run here, so a figure is of both,
but for the proxy, whose client is this machine's. Nothing is encrypted.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from typing import Any

import pytest
import uvloop

from bench.test_micro_stack import Pair
from tunnel.netstack.aio import NetStack
from tunnel.proxy.dialer import Machine
from tunnel.proxy.socks5 import Socks5
from tunnel.stacklink import link_pair

CONNECTIONS = 200
NEAR, FAR = "10.7.0.1", "10.7.0.2"
HELLO = b"\x05\x01\x00"
REQUEST = b"\x05\x01\x00\x01" + socket.inet_aton(FAR) + struct.pack("!H", 80)


class Echo(asyncio.Protocol):
    """The far end: sends back what comes, and closes when its peer does."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Client(asyncio.Protocol):
    """The near end: sends a byte, closes at its return."""

    def __init__(self, over: asyncio.Future[None]) -> None:
        self.over = over

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(b"x")

    def data_received(self, data: bytes) -> None:
        self.transport.close()

    def connection_lost(self, error: BaseException | None) -> None:
        self.over.set_result(None)


class Tunnel:
    """Two hosts on a link, on one event loop."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.open = ExitStack()
        one, other, flags = link_pair()
        self.open.enter_context(one)
        self.open.enter_context(other)
        self.run(self._start(one.fileno(), other.fileno(), flags))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    async def _start(self, one: int, other: int, flags: int) -> None:
        self.near = NetStack(one, flags, addresses=[NEAR])
        self.far = NetStack(other, flags, addresses=[FAR])
        await self.far.create_server(Echo, None, 80)

    def close(self) -> None:
        self.run(self.near.aclose())
        self.run(self.far.aclose())
        self.loop.close()
        self.open.close()


@pytest.fixture
def tunnel() -> Any:
    made = Tunnel()
    yield made
    made.close()


def repeated(
    tunnel: Tunnel, measured: Callable[..., Any], width: int, once: Callable[[], Awaitable[None]]
) -> None:
    """Measure CONNECTIONS calls of `once`, `width` at a time."""

    async def some() -> None:
        for _ in range(CONNECTIONS // width):
            await once()

    async def many() -> None:
        await asyncio.gather(*(some() for _ in range(width)))

    measured(CONNECTIONS // width * width, lambda: tunnel.run(many()))


@pytest.mark.benchmark(group="connection")
def test_stack(measured: Callable[..., Any]) -> None:
    pair = Pair()

    def run() -> int:
        for _ in range(CONNECTIONS):
            client, server = pair.connect()
            client.write(b"x")
            pair.exchange()
            server.write(server.read(10))
            pair.exchange()
            client.read(10)
            client.close(pair.now)
            pair.exchange()
            server.close(pair.now)
            pair.exchange()
        pair.a.take_events()
        pair.b.take_events()
        return len(pair.a.tcp.sockets) + len(pair.b.tcp.sockets)

    assert measured(CONNECTIONS, run) == 0


WIDTHS = pytest.mark.parametrize("width", [1, 16])


@WIDTHS
@pytest.mark.benchmark(group="connection")
def test_protocols(measured: Callable[..., Any], tunnel: Tunnel, width: int) -> None:
    async def once() -> None:
        over = tunnel.loop.create_future()
        await tunnel.near.create_connection(lambda: Client(over), FAR, 80)
        await over

    repeated(tunnel, measured, width, once)


@WIDTHS
@pytest.mark.benchmark(group="connection")
def test_streams(measured: Callable[..., Any], tunnel: Tunnel, width: int) -> None:
    async def once() -> None:
        reader, writer = await tunnel.near.open_connection(FAR, 80)
        writer.write(b"x")
        await reader.readexactly(1)
        writer.close()
        await writer.wait_closed()

    repeated(tunnel, measured, width, once)


@WIDTHS
@pytest.mark.benchmark(group="connection")
def test_socks5(measured: Callable[..., Any], tunnel: Tunnel, width: int) -> None:
    network: Any = tunnel.near
    made = Socks5(network, logging.getLogger("bench"))
    tunnel.run(made.clients.listen(Machine(), "127.0.0.1", 0))
    server: Any = made.clients._server
    place = server.sockets[0].getsockname()
    loop = tunnel.loop

    async def once() -> None:
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, place)
            for said, size in ((HELLO, 2), (REQUEST, 10), (b"x", 1)):
                await loop.sock_sendall(client, said)
                assert len(await loop.sock_recv(client, 64)) == size

    repeated(tunnel, measured, width, once)
    tunnel.run(made.clients.aclose())
