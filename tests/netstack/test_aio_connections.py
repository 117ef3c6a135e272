"""Connections between two stacks over a link, through asyncio's own streams."""

from __future__ import annotations

import asyncio
import hashlib
import random

import pytest

from tests.loops import Runner
from tests.netstack.pairs import BOB, settled, two_stacks

DATA = random.Random(1).randbytes(3_000_000)


async def digest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that answers with the hash of all that came."""
    found = hashlib.sha256()
    while data := await reader.read(1 << 16):
        found.update(data)
    writer.write(found.digest())
    writer.close()


@pytest.mark.parametrize("host", BOB)
@pytest.mark.parametrize("flags", [None, 0], ids=["units", "plain link"])
def test_bytes_arrive_as_they_were_sent(run: Runner, host: str, flags: int | None) -> None:
    async def work() -> None:
        async with two_stacks(flags=flags) as (alice, bob):
            await bob.start_server(digest, host, 80)
            reader, writer = await alice.open_connection(host, 80)
            assert writer.get_extra_info("peername")[:2] == (host, 80)
            for start in range(0, len(DATA), 100_000):
                writer.write(DATA[start : start + 100_000])
                await writer.drain()
            writer.write_eof()
            assert await reader.read() == hashlib.sha256(DATA).digest()
            writer.close()
            await writer.wait_closed()
            await settled(alice, bob)

    run(work())


def test_a_port_without_a_listener_refuses(run: Runner) -> None:
    async def work() -> None:
        async with two_stacks() as (alice, bob):
            with pytest.raises(ConnectionRefusedError, match=r"10\.7\.0\.2 port 81"):
                await alice.open_connection(BOB[0], 81)
            await settled(alice, bob)

    run(work())


def test_a_cancelled_connect_leaves_nothing(run: Runner) -> None:
    async def work() -> None:
        async with two_stacks() as (alice, _):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(alice.open_connection("10.7.0.99", 80), 0.01)
            assert not alice.stack.tcp.sockets
            assert not alice.transports

    run(work())
