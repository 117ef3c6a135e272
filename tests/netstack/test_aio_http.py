"""anyio streams and httpx through the stack, unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSStream

from tests.loops import Runner
from tests.netstack.certificates import NAME, contexts
from tests.netstack.pairs import BOB, settled, two_stacks
from tunnel.netstack.aio.bytestream import connect_tcp
from tunnel.netstack.aio.http import TunnelTransport

BODY = bytes(range(256)) * 4000


async def website(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """HTTP/1.1: /big is large, /echo gives the body back, /slow never answers."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        lines = head.decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        path = lines[0].split()[1]
        if path == "/slow":
            await reader.readexactly(1)
        answer = {"/big": BODY, "/echo": body}.get(path, b"hello")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer))
        writer.write(answer)
        await writer.drain()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await website(reader, writer)
    except (asyncio.IncompleteReadError, OSError):
        writer.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_httpx_works_unchanged(run: Runner, tmp_path: Path, scheme: str) -> None:
    server, client = contexts(tmp_path)
    client.check_hostname = False

    async def work() -> None:
        async with two_stacks() as (alice, bob):
            await bob.start_server(serve, None, 80)
            await bob.start_server(serve, None, 443, ssl=server)
            transport = TunnelTransport(alice, verify=client)
            async with httpx.AsyncClient(transport=transport) as web:
                base = f"{scheme}://{BOB[0]}"
                assert (await web.get(f"{base}/")).text == "hello"
                answers = await asyncio.gather(*(web.get(f"{base}/big") for _ in range(5)))
                assert all(one.content == BODY for one in answers)
                assert (await web.post(f"{base}/echo", content=BODY)).content == BODY
                async with web.stream("GET", f"http://[{BOB[1]}]/big") as answer:
                    assert sum([len(part) async for part in answer.aiter_bytes()]) == len(BODY)
                with pytest.raises(httpx.ReadTimeout):
                    await web.get(f"{base}/slow", timeout=0.05)
                with pytest.raises(httpx.ConnectError):
                    await web.get(f"http://{BOB[0]}:81/")
                with pytest.raises(httpx.ConnectTimeout):
                    await web.get("http://10.7.0.99/", timeout=0.05)
            await settled(alice, bob)

    run(work())


def test_a_wrong_certificate_is_refused(run: Runner, tmp_path: Path) -> None:
    server, client = contexts(tmp_path)

    async def work() -> None:
        async with two_stacks() as (alice, bob):
            await bob.start_server(serve, None, 443, ssl=server)
            async with httpx.AsyncClient(transport=TunnelTransport(alice, verify=client)) as web:
                with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                    await web.get(f"https://{BOB[0]}/")

    run(work())


def test_anyio_streams(run: Runner) -> None:
    async def work() -> None:
        async with two_stacks() as (alice, bob):
            await bob.start_server(echo, None, 7)
            async with await connect_tcp(alice, BOB[0], 7) as stream:
                assert stream.extra(SocketAttribute.remote_address) == (BOB[0], 7)
                await stream.send(b"hello")
                assert await stream.receive() == b"hello"
                with anyio.move_on_after(0.02) as scope:
                    await stream.receive()
                assert scope.cancelled_caught
                await stream.send_eof()
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
            with pytest.raises(anyio.ClosedResourceError):
                await stream.send(b"late")
            await settled(alice, bob)

    run(work())


def test_closing_an_anyio_stream_ends_who_waits_on_it(run: Runner) -> None:
    async def work() -> None:
        there: list[asyncio.StreamWriter] = []

        def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            there.append(writer)

        async def ends(doing: Awaitable[Any]) -> None:
            with pytest.raises(anyio.ClosedResourceError):
                await doing

        async with two_stacks() as (alice, bob):
            await bob.start_server(take, None, 7)
            for both in (False, True):
                stream = await connect_tcp(alice, BOB[0], 7)
                with anyio.move_on_after(0.2) as scope:
                    while True:  # until the peer's window and our buffer are full
                        await stream.send(BODY)
                assert scope.cancelled_caught
                async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                    group.create_task(ends(stream.receive()))
                    if both:
                        group.create_task(ends(stream.send(b"more")))
                    await asyncio.sleep(0)
                    await stream.aclose()
                await ends(stream.receive())
            for writer in there:
                writer.transport.abort()

    run(work())


def test_anyio_speaks_tls_on_top(run: Runner, tmp_path: Path) -> None:
    server, client = contexts(tmp_path)

    async def work() -> None:
        async with two_stacks() as (alice, bob):
            await bob.start_server(echo, None, 443, ssl=server)
            stream = await connect_tcp(alice, BOB[1], 443)
            secure = await TLSStream.wrap(stream, hostname=NAME, ssl_context=client)
            await secure.send(BODY[:1000])
            assert await secure.receive() == BODY[:1000]
            await secure.aclose()
            await settled(alice, bob)

    run(work())


def test_a_reset_breaks_the_stream(run: Runner) -> None:
    async def work() -> None:
        async with two_stacks() as (alice, bob):
            await bob.start_server(lambda r, w: w.transport.abort(), None, 7)
            stream = await connect_tcp(alice, BOB[0], 7)
            with pytest.raises(anyio.BrokenResourceError):
                await stream.receive()

    run(work())
