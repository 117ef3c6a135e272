"""What a short connection costs in Python, from its SYN to its end, layer by layer.

    stack      two stacks that hand each other packets in memory, in virtual time
    protocols  two event-loop shells on a link, protocols of asyncio
    streams    the same with asyncio's streams
    way        a client's socket, a proxy or forward, the shell: all that a proxied connection costs

Each connects, sends a byte, gets it back and closes. Both ends run here, so a figure is of both,
but for the proxy, whose client is this machine's. Nothing is encrypted.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
import uvloop

from bench.test_micro_stack import Pair
from tunnel.netstack.aio import NetStack
from tunnel.places import Place
from tunnel.proxy.dialer import Machine
from tunnel.proxy.http import HttpProxy
from tunnel.proxy.socks5 import Socks5
from tunnel.proxy.tcpforward import TcpForward
from tunnel.stacklink import link_pair

CONNECTIONS = 200
NEAR, FAR = "10.7.0.1", "10.7.0.2"
HELLO = b"\x05\x01\x00"
REQUEST = b"\x05\x01\x00\x01" + socket.inet_aton(FAR) + struct.pack("!H", 80)
CONNECT = f"CONNECT {FAR}:80 HTTP/1.1\r\nHost: {FAR}:80\r\n\r\n".encode()
GET = f"GET http://{FAR}:81/ HTTP/1.1\r\nHost: {FAR}:81\r\nAccept: */*\r\n\r\n".encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
LOG = logging.getLogger("bench")


class Echo(asyncio.Protocol):
    """The far end: sends back what comes, and closes when its peer does."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Site(asyncio.Protocol):
    """A server of plain HTTP, for one short request."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(ANSWER)
        self.transport.close()


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
        await self.far.create_server(Site, None, 81)

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


def socks5(network: Any) -> Any:
    return Socks5(network, LOG).clients


def http(network: Any) -> Any:
    return HttpProxy(network, LOG).clients


def forward(network: Any) -> Any:
    return TcpForward(network, Place(FAR, 80), LOG).clients


Way = tuple[Callable[[Any], Any], Sequence[tuple[bytes, int]]]
WAYS: dict[str, Way] = {
    "socks5": (socks5, ((HELLO, 2), (REQUEST, 10), (b"x", 1))),
    "connect": (http, ((CONNECT, 39), (b"x", 1))),
    "plain": (http, ((GET, 0),)),
    "forward": (forward, ((b"x", 1),)),
}


@pytest.mark.parametrize("way", WAYS)
@WIDTHS
@pytest.mark.benchmark(group="connection")
def test_way(measured: Callable[..., Any], tunnel: Tunnel, way: str, width: int) -> None:
    make, dialogue = WAYS[way]
    clients = make(tunnel.near)
    tunnel.run(clients.listen(Machine(), "127.0.0.1", 0))
    place = clients._server.sockets[0].getsockname()
    loop = tunnel.loop

    async def once() -> None:
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, place)
            for said, size in dialogue:
                await loop.sock_sendall(client, said)
                if size:
                    assert len(await loop.sock_recv(client, 64)) == size
                    continue
                while await loop.sock_recv(client, 256):  # to the end of a plain answer
                    pass

    repeated(tunnel, measured, width, once)
    tunnel.run(clients.aclose())
