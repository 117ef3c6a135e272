"""The HTTP proxy: CONNECT, plain requests, credentials, and what cannot be served."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.loops import Runner
from tests.proxy_world import HOST, LOG, Network, echo, exchange, free_port, port_of
from tunnel.proxy import clients
from tunnel.proxy.credentials import Credentials
from tunnel.proxy.http import BadHead, HttpProxy, read_head


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


def test_a_plain_request_goes_on_in_origin_form(run: Runner) -> None:
    async def work() -> None:
        async with echo() as port, proxy() as made:
            head = (
                f"POST http://echo.test:{port}/a?b=c HTTP/1.1\r\nHost: echo.test\r\n"
                "Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\n"
                "Content-Length: 4"
            )
            sent = b"POST /a?b=c HTTP/1.1\r\nHost: echo.test\r\nContent-Length: 4\r\n"
            assert await ask(made, head, b"body") == sent + b"Connection: close\r\n\r\nbody"

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
        ("GET http://echo.test/ HTTP/2", b"505"),
        ("GET http://echo.test/ HTTP/1.1\r\nfolded\r\n line: x", b"400"),
        ("nonsense", b"400"),
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


@pytest.mark.parametrize(
    ("target", "host", "port"),
    [("http://a", "a", 80), ("http://a:81/", "a", 81), ("HTTP://[fd00::1]/x", "fd00::1", 80)],
)
def test_where_a_plain_request_goes(target: str, host: str, port: int) -> None:
    request = read_head(f"GET {target} HTTP/1.1\r\n\r\n".encode())
    assert (request.to.host, request.to.port) == (host, port)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://a", "/"),
        ("http://a?x=/y", "/?x=/y"),
        ("http://a/b#c", "/b"),
        ("http://a/b?", "/b?"),
    ],
)
def test_the_origin_form(target: str, path: str) -> None:
    request = read_head(f"GET {target} HTTP/1.1\r\n\r\n".encode())
    assert request.head.startswith(f"GET {path} HTTP/1.1\r\n".encode())
    assert request.to.host == "a"


@pytest.mark.parametrize("head", [b"\xff\xfe x y\r\n\r\n", b"GET  http://a/ HTTP/1.1\r\n\r\n"])
def test_garbage(head: bytes) -> None:
    with pytest.raises(BadHead, match="400"):
        read_head(head)
