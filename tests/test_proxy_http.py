"""The HTTP proxy: CONNECT, plain requests, credentials, and what cannot be served."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.loops import Runner, until
from tests.proxy_world import HOST, LOG, Network, echo, exchange, free_port, port_of
from tunnel.netstack.aio.names import failure
from tunnel.netstack.tcpsocket import Place
from tunnel.proxy import clients
from tunnel.proxy.credentials import Credentials
from tunnel.proxy.http import LINGER_BYTES, HttpProxy
from tunnel.proxy.relay import reset


@contextlib.asynccontextmanager
async def proxy(credentials: Credentials | None = None) -> AsyncIterator[Any]:
    made = HttpProxy(Network(), LOG, credentials)
    await made.clients.listen(Network(), HOST, 0)
    try:
        yield made
    finally:
        await made.clients.aclose()


async def ask(made: HttpProxy, head: str, body: bytes = b"") -> bytes:
    """Send a request and the end of it; return the whole answer."""
    streams = await asyncio.open_connection(HOST, port_of(made.clients))
    return await exchange(streams, head.encode() + b"\r\n\r\n" + body)


def test_connect(run: Runner) -> None:
    async def work() -> None:
        async with echo() as port, proxy() as made:
            answer = await ask(made, f"CONNECT echo.test:{port} HTTP/1.1\r\nHost: x", b"body")
            assert answer == b"HTTP/1.1 200 Connection established\r\n\r\nbody"

    run(work())


class Origin:
    """A server that answers every connection with the same, and keeps what it was sent."""

    def __init__(self, answer: bytes, *, ends: bool = True) -> None:
        self.answer = answer
        self.ends = ends
        self.received: list[bytes] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(self.answer)
        if self.ends:
            writer.write_eof()
        with contextlib.suppress(ConnectionResetError):
            head += await reader.read()
        self.received.append(head)
        writer.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, HOST, 0)
        yield port_of(server)
        server.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLOSED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        ("Content-Length: 4", b"body"),
        ("Transfer-Encoding: chunked", b"4\r\nbody\r\n0\r\n\r\n"),
        ("Transfer-Encoding: Chunked", b"4;x=y\r\nbody\r\n00\r\nTrailer: z\r\n\r\n"),
    ],
)
def test_one_request_goes_on_in_origin_form_and_nothing_behind_it(
    run: Runner, framing: str, body: bytes
) -> None:
    async def work() -> None:
        origin = Origin(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
        async with origin.running() as port, proxy() as made:
            head = (
                f"POST http://echo.test:{port}/a?b=c HTTP/1.1\r\nHost: other.test\r\n"
                "Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\n"
                f"{framing}"
            )
            behind = b"GET http://other.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n"
            answer = await ask(made, head, body + behind)
            assert answer == b"HTTP/1.1 100 Continue\r\n\r\n" + CLOSED
            await until(lambda: bool(origin.received))
            plain = body if body.startswith(b"b") else b"4\r\nbody\r\n0\r\n\r\n"
            host = f"POST /a?b=c HTTP/1.1\r\nHost: echo.test:{port}\r\n{framing}\r\n"
            assert origin.received == [host.encode() + b"Connection: close\r\n\r\n" + plain]

    run(work())


@pytest.mark.parametrize("body", [b"x\r\n", b"4\r\nbody..", b"4\nbody", b"-1\r\n", b"9" * 17])
def test_chunks_that_are_none_are_refused(run: Runner, body: bytes) -> None:
    async def work() -> None:
        origin = Origin(b"", ends=False)
        async with origin.running() as port, proxy() as made:
            head = f"PUT http://echo.test:{port}/ HTTP/1.1\r\nTransfer-Encoding: chunked"
            assert (await ask(made, head, body + b"\r\n")).split()[1] == b"400"
            await until(lambda: bool(origin.received))
            assert not origin.received[0].endswith(b"0\r\n\r\n")

    run(work())


@pytest.mark.parametrize(
    "answer",
    [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nfolded:\r\n x\r\n\r\n", b"HTTP/1.1 200\n\n"],
)
def test_a_server_that_does_not_answer_properly(run: Runner, answer: bytes) -> None:
    async def work() -> None:
        async with Origin(answer).running() as port, proxy() as made:
            said = await ask(made, f"GET http://echo.test:{port}/ HTTP/1.1")
            assert said.split()[1] == b"502"

    run(work())


def test_an_answer_that_is_reset_is_not_taken_for_a_whole_one(run: Runner) -> None:
    async def work() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")  # its end is that of the connection
            await come.wait()
            reset(writer.transport)

        come = asyncio.Event()
        server = await asyncio.start_server(serve, HOST, 0)
        async with proxy() as made:
            reader, writer = await asyncio.open_connection(HOST, port_of(made.clients))
            writer.write(b"GET http://echo.test:%d/ HTTP/1.1\r\n\r\n" % port_of(server))
            await reader.readuntil(b"half")
            come.set()
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()
        server.close()

    run(work())


def test_a_refusal_is_read_by_a_client_that_is_still_sending(run: Runner) -> None:
    async def work() -> None:
        async with proxy(Credentials(((b"ann", b"secret"),))) as made:
            head = "POST http://echo.test/ HTTP/1.1\r\nContent-Length: 8000000"
            assert (await ask(made, head, bytes(8_000_000))).split()[1] == b"407"

    run(work())


def test_a_refusal_has_an_end_though_the_client_sends_none(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnel.proxy.http.LINGER_SECONDS", 3600.0)

    async def work() -> None:
        async with proxy() as made:
            reader, writer = await asyncio.open_connection(HOST, port_of(made.clients))
            writer.write(b"nonsense\r\n\r\n")
            assert (await reader.read()).split()[1] == b"400"
            writer.close()

    run(work())


def test_a_refused_client_that_sends_on_and_on_is_dropped(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnel.proxy.http.LINGER_SECONDS", 3600.0)

    async def work() -> None:
        loop, sent, some = asyncio.get_running_loop(), 0, bytes(1 << 20)
        async with proxy() as made:
            with socket.create_connection((HOST, port_of(made.clients))) as client:
                client.setblocking(False)
                client.send(b"nonsense\r\n\r\n")
                with contextlib.suppress(ConnectionError):
                    while sent < 4 * LINGER_BYTES:
                        await loop.sock_sendall(client, some)
                        sent += len(some)
        assert LINGER_BYTES - len(some) <= sent < 4 * LINGER_BYTES

    run(work())


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("CONNECT echo.test:{free} HTTP/1.1", b"502"),
        ("CONNECT no.name:80 HTTP/1.1", b"502"),
        ("CONNECT dead.test:80 HTTP/1.1", b"504"),
        ("CONNECT echo.test HTTP/1.1", b"400"),
        ("CONNECT echo.test:99999 HTTP/1.1", b"400"),
        ("GET / HTTP/1.1", b"400"),
        ("GET https://echo.test/ HTTP/1.1", b"400"),
        ("GET http://echo.test/ HTTP/2.0", b"505"),
        ("GET http://echo.test/ HTTP/1.1\r\nfolded\r\n line: x", b"400"),
        ("nonsense", b"400"),
        ("GET http://echo.test/ HTTP/1.1\nHost: echo.test", b"400"),
        ("\nGET http://echo.test/ HTTP/1.1", b"400"),
    ],
)
def test_what_cannot_be_served(
    run: Runner, head: str, status: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "CONNECT_SECONDS", 0.2)

    async def work() -> None:
        async with proxy() as made:
            answer = await ask(made, head.format(free=free_port()))
            assert answer.split()[1] == status
            assert b"Connection: close" in answer
            assert (b"dead.test:80: no answer within 0.2 s\n" in answer) == (status == b"504")

    run(work())


class Failing(Network):
    """A network on which every connection fails in the same way."""

    def __init__(self, error: OSError) -> None:
        self.error = error

    async def create_connection(self, factory: Any, host: str, port: int) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (failure(111, Place(bytes([10, 0, 0, 9]), 81), "cannot connect to"),
         b"cannot connect to 10.0.0.9 port 81: Connection refused\n"),
        (failure(101), b"no connection to 10.0.0.9:81: Network is unreachable\n"),
        (socket.gaierror(-2, "a.test: no such name"), b"a.test: no such name\n"),
    ],
)  # fmt: skip
def test_a_place_that_cannot_be_reached_is_named_once(
    run: Runner, error: OSError, said: bytes
) -> None:
    async def work() -> None:
        made = HttpProxy(Failing(error), LOG)
        await made.clients.listen(Network(), HOST, 0)
        answer = await ask(made, "GET http://10.0.0.9:81/ HTTP/1.1")
        assert answer.partition(b"\r\n\r\n")[2] == said
        await made.clients.aclose()

    run(work())


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\0\x01\0", b"\x05\x01\0", b"\x04\x01"])
def test_what_is_not_http_is_told_so_without_waiting_for_a_line(run: Runner, sent: bytes) -> None:
    async def work() -> None:
        async with proxy() as made:
            reader, writer = await asyncio.open_connection(HOST, port_of(made.clients))
            writer.write(sent)
            assert (await reader.readline()).split()[1] == b"400"
            writer.close()

    run(work())


@pytest.mark.parametrize("target", ["/", "ftp://echo.test/", "*"])
def test_what_is_wrong_with_a_request_is_said(run: Runner, target: str) -> None:
    async def work() -> None:
        async with proxy() as made:
            answer = await ask(made, f"GET {target} HTTP/1.1\r\nHost: a")
            assert answer.split()[1] == b"400"
            assert b"\r\n\r\nthis is a proxy: ask for http://HOST/ as a whole" in answer

    run(work())


def test_an_endless_head_is_refused(run: Runner) -> None:
    async def work() -> None:
        async with proxy() as made:
            reader, writer = await asyncio.open_connection(HOST, port_of(made.clients))
            writer.write(b"GET http://echo.test/ HTTP/1.1\r\nX: " + b"y" * (1 << 17))
            assert (await reader.readline()).split()[1] == b"431"
            writer.close()

    run(work())


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"ann:secret", b"200"),
        (b"ann:wrong", b"407"),
        (b"secret", b"407"),
        (None, b"407"),
    ],
)
def test_credentials(run: Runner, said: bytes | None, status: bytes) -> None:
    async def work() -> None:
        async with echo() as port, proxy(Credentials(((b"ann", b"secret"),))) as made:
            head = f"CONNECT echo.test:{port} HTTP/1.1"
            if said is not None:
                head += f"\r\nProxy-Authorization: Basic {base64.b64encode(said).decode()}"
            answer = await ask(made, head)
            assert answer.split()[1] == status
            assert (b"Proxy-Authenticate: Basic" in answer) == (status == b"407")

    run(work())
