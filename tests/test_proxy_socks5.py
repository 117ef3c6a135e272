"""SOCKS5 as RFC 1928 and RFC 1929 have it, spoken by hand."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.loops import Runner, until
from tests.proxy_world import HOST, LOG, Network, Streams, echo, exchange, free_port, port_of
from tunnel.proxy import clients, socks5wire as socks5
from tunnel.proxy.capacity import REFUSED_AT_ONCE, Capacity
from tunnel.proxy.credentials import Credentials
from tunnel.proxy.relay import reset
from tunnel.proxy.socks5 import Socks5, code_for

OPEN = b"\x05\x01\x00"
DATA = os.urandom(3 << 20)


@contextlib.asynccontextmanager
async def proxy(
    credentials: Credentials | None = None, capacity: Capacity | None = None
) -> AsyncIterator[Any]:
    made = Socks5(Network(), LOG, credentials, capacity)
    await made.clients.listen(Network(), HOST, 0)
    try:
        yield made
    finally:
        await made.clients.aclose()


async def say(made: Socks5, *parts: bytes) -> tuple[Streams, list[bytes]]:
    """Connect and send parts; return the streams and what came back after each (2 bytes first)."""
    streams = await asyncio.open_connection(HOST, port_of(made.clients))
    answers = []
    for part in parts:
        streams[1].write(part)
        answers.append(await streams[0].read(64))
    return streams, answers


def request(host: str | bytes, port: int, command: int = 1) -> bytes:
    if isinstance(host, bytes):
        return bytes([5, command, 0, 3, len(host)]) + host + struct.pack("!H", port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = 4 if family == socket.AF_INET6 else 1
    return bytes([5, command, 0, kind]) + socket.inet_pton(family, host) + struct.pack("!H", port)


@pytest.mark.parametrize("host", ["127.0.0.1", b"echo.test", b"127.0.0.1"])
def test_connect_carries_bytes_and_both_ends(run: Runner, host: str | bytes) -> None:
    async def work() -> None:
        async with echo() as port, proxy() as made:
            streams, (method, reply) = await say(made, OPEN, request(host, port))
            assert method == b"\x05\x00"
            assert reply[:4] == b"\x05\x00\x00\x01"
            assert await exchange(streams, DATA) == DATA
            await until(lambda: not made.clients.capacity.taken)

    run(work())


def test_who_has_negotiated_has_no_deadline(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnel.proxy.socks5.NEGOTIATION", 1.0)

    async def work() -> None:
        async with echo() as port, proxy() as made:
            silent, _ = await say(made)
            streams, _ = await say(made, OPEN, request(HOST, port))
            assert await silent[0].read() == b"", "its second is over, and the other's nearly"
            late = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(1.0, late.set_result, None)
            await late
            assert await exchange(streams, b"still there") == b"still there"
            silent[1].close()

    run(work())


@pytest.mark.parametrize(
    ("host", "code"), [("127.0.0.1", socks5.REFUSED), (b"no.name", socks5.UNREACHABLE_HOST)]
)
def test_why_a_connection_cannot_be_made_is_said(run: Runner, host: str | bytes, code: int) -> None:
    async def work() -> None:
        async with proxy() as made:
            streams, (_, reply) = await say(made, OPEN, request(host, free_port()))
            assert reply[1] == code
            assert await streams[0].read() == b""

    run(work())


def test_what_the_network_takes_for_no_address_is_said_too(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> Any:
        raise ValueError("port 0 is out of range")

    monkeypatch.setattr(Network, "create_connection", refuse)

    async def work() -> None:
        async with proxy() as made:
            streams, (_, reply) = await say(made, OPEN, request("10.0.0.1", 0))
            assert reply[1] == socks5.FAILURE
            assert await streams[0].read() == b""

    run(work())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(101, "net"), socks5.UNREACHABLE_NET),
        (OSError(113, "host"), socks5.UNREACHABLE_HOST),
        (ConnectionRefusedError(111, "no"), socks5.REFUSED),
        (TimeoutError(), socks5.EXPIRED),
        (socket.gaierror(-2, "name"), socks5.UNREACHABLE_HOST),
        (OSError(5, "io"), socks5.FAILURE),
    ],
)
def test_codes(error: OSError, code: int) -> None:
    assert code_for(error) == code


def test_a_dead_destination_holds_up_nobody_else(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "CONNECT_SECONDS", 0.2)

    async def work() -> None:
        async with echo() as port, proxy() as made:
            dead = await asyncio.open_connection(HOST, port_of(made.clients))
            dead[1].write(OPEN + request(b"dead.test", 80))
            streams, _ = await say(made, OPEN, request("127.0.0.1", port))
            assert await exchange(streams, b"alive") == b"alive"
            answer = await dead[0].read()
            assert answer[3] == socks5.EXPIRED

    run(work())


@pytest.mark.parametrize(
    ("parts", "last"),
    [
        ((b"\x05\x01\x02",), b"\x05\xff"),
        ((OPEN, request("127.0.0.1", 80, command=2)), b"\x05\x07"),
        ((OPEN, b"\x05\x01\x00\x09\x00\x00"), b"\x05\x08"),
        ((OPEN, b"\x05\x01\x00\x03\x02\xff\xfe\x00\x50"), b"\x05\x08"),
        ((b"\x04\x01\x00\x50",), b""),
        ((b"GET / HTTP/1.0\r\n\r\n",), b""),
    ],
)
def test_what_is_not_understood_ends_the_connection(
    run: Runner, parts: tuple[bytes, ...], last: bytes
) -> None:
    async def work() -> None:
        async with proxy() as made:
            streams, answers = await say(made, *parts)
            assert answers[-1][:2] == last
            with contextlib.suppress(ConnectionResetError):
                assert await streams[0].read() == b""

    run(work())


@pytest.mark.parametrize(
    ("name", "password", "status"),
    [(b"ann", b"secret", 0), (b"ann", b"wrong", 1), (b"bob", b"secret", 1), (b"", b"", 1)],
)
def test_credentials(run: Runner, name: bytes, password: bytes, status: int) -> None:
    async def work() -> None:
        async with proxy(Credentials(((b"ann", b"secret"), (b"eve", b"other")))) as made:
            word = bytes([1, len(name)]) + name + bytes([len(password)]) + password
            _, (method, answer) = await say(made, b"\x05\x02\x00\x02", word)
            assert method == b"\x05\x02"
            assert answer == bytes([1, status])
            _, (refused,) = await say(made, OPEN)
            assert refused == b"\x05\xff"

    run(work())


def test_too_many_clients_are_told_so(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with echo() as port, proxy(capacity=Capacity(1, LOG)) as made:
            first, (method,) = await say(made, OPEN)
            assert method == b"\x05\x00"
            wish = request(HOST, port)
            more, (_, reply) = await say(made, OPEN, wish)
            assert reply[:2] == bytes([5, socks5.FAILURE])
            assert await more[0].read() == b""
            assert made.clients.capacity.refused == 1
            first[1].close()
            await until(lambda: not made.clients.capacity.taken)
            streams, (_, reply) = await say(made, OPEN, wish)
            assert reply[:2] == b"\x05\x00"
            assert await exchange(streams, b"there is room again") == b"there is room again"
        assert caplog.messages == ["1 clients at once are the most; others are refused"]

    run(work())


def test_a_flood_of_clients_is_reset(run: Runner) -> None:
    async def work() -> None:
        async with proxy(capacity=Capacity(-REFUSED_AT_ONCE)) as made:
            with pytest.raises(ConnectionResetError):
                await say(made, OPEN)
            await until(lambda: made.clients.capacity.refused == 1)
            assert not made.clients.capacity.taken

    run(work())


@pytest.mark.parametrize("cut", [1, 3])
def test_requests_come_in_pieces_and_with_what_follows(run: Runner, cut: int) -> None:
    async def work() -> None:
        async with echo() as port, proxy() as made:
            reader, writer = await asyncio.open_connection(HOST, port_of(made.clients))
            said = OPEN + request(b"echo.test", port) + DATA
            for start in range(0, 40, cut):
                writer.write(said[start : start + cut])
                await asyncio.sleep(0)
            writer.write(said[start + cut :])
            writer.write_eof()
            answer = await reader.read()
            assert answer[:4] == b"\x05\x00\x05\x00"
            assert answer[12:] == DATA
            writer.close()

    run(work())


def test_a_reset_of_one_side_is_a_reset_of_the_other(run: Runner) -> None:
    """A transfer that broke must not look like one that ended."""

    async def work() -> None:
        far: list[Any] = []
        server = await asyncio.get_running_loop().create_server(lambda: Kept(far), HOST, 0)
        async with proxy() as made:
            wish = request(HOST, port_of(server))
            streams, _ = await say(made, OPEN, wish)
            await until(lambda: bool(far))
            reset(far[0])
            with pytest.raises(ConnectionResetError):
                await streams[0].read()
            assert await until(lambda: not made.clients.capacity.taken) is None
        server.close()

    run(work())


class Kept(asyncio.Protocol):
    """Puts its transport into a list."""

    def __init__(self, kept: list[Any]) -> None:
        self.kept = kept

    def connection_made(self, transport: Any) -> None:
        self.kept.append(transport)


class Datagrams(asyncio.DatagramProtocol):
    """A UDP socket whose datagrams wait in a queue; with `back`, an echo."""

    def __init__(self, *, back: bool = False) -> None:
        self.back = back
        self.received: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        if self.back:
            self.transport.sendto(data, address)
        self.received.put_nowait((data, address))


async def datagrams(*, back: bool = False) -> tuple[Datagrams, int]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: Datagrams(back=back), (HOST, 0)
    )
    return protocol, transport.get_extra_info("sockname")[1]


def test_datagrams_go_out_and_come_back(run: Runner) -> None:
    async def work() -> None:
        far, port = await datagrams(back=True)
        near, _ = await datagrams()
        stranger, _ = await datagrams()
        async with proxy() as made:
            streams, (_, reply) = await say(made, OPEN, request("0.0.0.0", 0, command=3))
            assert reply[:4] == b"\x05\x00\x00\x01"
            place = (socket.inet_ntoa(reply[4:8]), struct.unpack("!H", reply[8:10])[0])
            for host in ("127.0.0.1", b"echo.test"):
                head = b"\0\0" + request(host, port)[2:]
                near.transport.sendto(head + b"hello", place)
                data, _ = await near.received.get()
                assert data == b"\0\0" + request("127.0.0.1", port)[2:] + b"hello"
                await far.received.get()
            head = b"\0\0" + request("127.0.0.1", port)[2:]
            for bad in (
                b"",
                b"\0\0\0\x01",
                b"\0\0\x01" + head[3:] + b"fragment",
                b"\0\0\0\x09rest",
            ):
                near.transport.sendto(bad, place)
            stranger.transport.sendto(head + b"not mine", place)
            near.transport.sendto(head + b"last", place)
            assert (await far.received.get())[0] == b"last"
            assert far.received.empty()
            streams[1].close()

    run(work())
