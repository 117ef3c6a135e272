"""The userspace stack against the kernel's, over a TUN in a namespace of its own.

kernel 10.8.0.1, fd08::1  <- TUN ->  stack 10.8.0.2, fd08::2
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.loops import PATIENCE, until
from tests.netstack.certificates import NAME, contexts
from tools.netlab import Lab
from tunnel.netstack.aio import NetStack
from tunnel.tun import Tun

pytestmark = pytest.mark.root

KERNEL, STACK = ("10.8.0.1", "fd08::1"), ("10.8.0.2", "fd08::2")
DATA = random.Random(2).randbytes(5_000_000)
Work = Callable[[NetStack], Coroutine[Any, Any, None]]


async def digest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    found = hashlib.sha256()
    while data := await reader.read(1 << 16):
        found.update(data)
    writer.write(found.digest())
    await writer.drain()
    writer.close()


async def ask(opened: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    """Send DATA, expect its digest."""
    reader, writer = opened
    for start in range(0, len(DATA), 100_000):
        writer.write(DATA[start : start + 100_000])
        await writer.drain()
    writer.write_eof()
    assert await reader.read() == hashlib.sha256(DATA).digest()
    writer.close()
    await writer.wait_closed()


OPTIONS = {"offloads": {}, "no USO": {"uso": False}, "no vnet_hdr": {"offload": False}}


@pytest.fixture(params=OPTIONS)
def meet(request: pytest.FixtureRequest, lab: Lab) -> Callable[[Work], None]:
    """Run a coroutine in a namespace with a stack on its TUN."""
    space = lab.namespace("a")
    name = f"st{os.getpid()}"

    @contextlib.asynccontextmanager
    async def stack() -> AsyncIterator[NetStack]:
        with Tun.create(name, **OPTIONS[request.param]) as tun:
            space.ip("link set lo up")
            space.run("sysctl -q net.ipv4.ip_forward=1")  # so that it says what it cannot reach
            space.ip(f"addr add {KERNEL[0]}/24 dev {name}")
            space.ip(f"-6 addr add {KERNEL[1]}/64 dev {name} nodad")
            space.ip(f"link set {name} up")
            async with NetStack(tun.fds[0], tun.link_flags, addresses=STACK) as net:
                yield net

    async def run(work: Work) -> None:
        async with stack() as net:
            await asyncio.wait_for(work(net), PATIENCE)

    def enter(work: Work) -> None:
        with space.entered():
            asyncio.run(run(work))

    return enter


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_bytes_both_ways(meet: Callable[[Work], None], family: int) -> None:
    async def work(net: NetStack) -> None:
        kernel = await asyncio.start_server(digest, KERNEL[family], 80)
        await net.start_server(digest, STACK[family], 80)
        async with kernel:
            await asyncio.gather(
                ask(await net.open_connection(KERNEL[family], 80)),
                ask(await asyncio.open_connection(STACK[family], 80)),
            )
        assert not net.link.broken

    meet(work)


def test_refusals_both_ways(meet: Callable[[Work], None]) -> None:
    async def work(net: NetStack) -> None:
        for host in KERNEL:
            with pytest.raises(ConnectionRefusedError):
                await net.open_connection(host, 81)
        for host in STACK:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(host, 81)
        with pytest.raises(OSError, match="unreachable"):
            await net.open_connection("10.99.0.1", 80)

    meet(work)


class Box(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.came: list[bytes] = []
        self.errors: list[Exception] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self.came.append(data)
        if self.transport.get_extra_info("peername") is None:
            self.transport.sendto(data, addr)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_datagrams_both_ways(meet: Callable[[Work], None], family: int) -> None:
    async def work(net: NetStack) -> None:
        loop = asyncio.get_running_loop()
        server, _ = await loop.create_datagram_endpoint(Box, (KERNEL[family], 53))
        await net.create_datagram_endpoint(Box, (STACK[family], 53))
        _, inside = await net.create_datagram_endpoint(Box, remote_addr=(KERNEL[family], 53))
        outside_transport, outside = await loop.create_datagram_endpoint(
            Box, remote_addr=(STACK[family], 53)
        )
        for size in (1, 1300, 5000, 60_000):  # the last two in fragments
            for box in (inside, outside):
                box.transport.sendto(DATA[:size])
                await until(lambda box=box, size=size: box.came[-1:] == [DATA[:size]])
        _, refused = await net.create_datagram_endpoint(Box, remote_addr=(KERNEL[family], 54))
        refused.transport.sendto(b"x")
        await until(lambda: bool(refused.errors))
        assert isinstance(refused.errors[0], ConnectionRefusedError)
        server.close()
        outside_transport.close()

    meet(work)


def test_echoes_both_ways(meet: Callable[[Work], None]) -> None:
    async def work(net: NetStack) -> None:
        for ours, theirs in zip(STACK, KERNEL, strict=True):
            assert await net.ping(theirs, data=bytes(1000)) < PATIENCE
            ping = await asyncio.create_subprocess_exec(
                "ping", "-c2", "-i0.01", "-s3000", ours, stdout=asyncio.subprocess.PIPE
            )
            said, _ = await ping.communicate()
            assert b" 0% packet loss" in said

    meet(work)


def test_the_kernels_tls_is_ours(meet: Callable[[Work], None], tmp_path: Path) -> None:
    server, client = contexts(tmp_path)

    async def work(net: NetStack) -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(100_000))
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(echo, KERNEL[0], 443, ssl=server):
            await net.start_server(echo, STACK[0], 443, ssl=server)
            for opening in (
                net.open_connection(KERNEL[0], 443, ssl=client, server_hostname=NAME),
                asyncio.open_connection(STACK[0], 443, ssl=client, server_hostname=NAME),
            ):
                reader, writer = await opening
                writer.write(DATA[:100_000])
                assert await reader.read() == DATA[:100_000]
                writer.close()
                with contextlib.suppress(ssl.SSLError, OSError):
                    await writer.wait_closed()

    meet(work)
