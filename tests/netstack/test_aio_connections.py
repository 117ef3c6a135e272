"""Connections between two stacks over a link, through asyncio's own streams."""

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import Any

import pytest

from tests.loops import Runner, until
from tests.netstack.pairs import ALICE, BOB, settled, two_stacks

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


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.7.0.1", "::", "::1", "ff02::1"],
)
def test_where_nobody_could_answer_is_unreachable_at_once(run: Runner, host: str) -> None:
    async def work() -> None:
        async with two_stacks() as (alice, _):
            with pytest.raises(OSError, match=f"connection to {host} port 80: Network is unreach"):
                await alice.open_connection(host, 80)
            assert not alice.stack.tcp.sockets

    run(work())


def test_a_cancelled_connect_leaves_nothing(run: Runner) -> None:
    async def work() -> None:
        async with two_stacks() as (alice, _):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(alice.open_connection("10.7.0.99", 80), 0.01)
            assert not alice.stack.tcp.sockets
            assert not alice.transports

    run(work())


def test_a_protocol_that_fails_harms_nobody_else(run: Runner) -> None:
    class Failing(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            raise RuntimeError("my fault")

    async def work() -> None:
        said: list[str] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: said.append(str(context.get("exception")))
        )
        async with two_stacks() as (alice, bob):
            await bob.create_server(Failing, None, 80)
            await bob.start_server(digest, None, 81)
            reader, writer = await alice.open_connection(BOB[0], 80)
            other, honest = await alice.open_connection(BOB[0], 81)
            writer.write(b"x")
            honest.write(b"y")
            honest.write_eof()
            with pytest.raises(ConnectionResetError):
                await reader.read()
            assert await other.read() == hashlib.sha256(b"y").digest()
            assert said == ["my fault"]

    run(work())


@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_protocol_that_ends_at_once_hears_of_it_once(run: Runner, end: str) -> None:
    heard: list[BaseException | None] = []

    class Brief(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            getattr(transport, end)()

        def connection_lost(self, exc: Exception | None) -> None:
            heard.append(exc)

    async def work() -> None:
        async with two_stacks() as (alice, bob):
            await bob.start_server(digest, BOB[0], 80)
            await alice.create_connection(Brief, BOB[0], 80)
            await settled(alice, bob)
            assert heard == [None]

    run(work())


def test_closing_with_unread_data_resets_the_peer(run: Runner) -> None:
    """RFC 9293, section 3.6.1, as every kernel does it: the peer learns that it was not read."""

    async def work() -> None:
        async with two_stacks() as (alice, bob):
            accepted: list[asyncio.StreamWriter] = []
            await bob.start_server(lambda r, w: accepted.append(w), None, 80)
            reader, writer = await alice.open_connection(BOB[0], 80)
            writer.write(bytes(1_000_000))
            await until(lambda: bool(accepted) and accepted[0].transport.is_reading() is False)
            transport: Any = accepted[0].transport
            await until(lambda: transport._socket.connection.readable > 0)
            accepted[0].close()
            with pytest.raises(ConnectionResetError):
                await reader.read()
            await settled(alice, bob)

    run(work())


def test_half_close_both_ways(run: Runner) -> None:
    async def work() -> None:
        async with two_stacks() as (alice, bob):

            async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(b"first")
                writer.write_eof()
                got = await reader.read()
                assert got == b"second"
                writer.close()

            await bob.start_server(talk, None, 80)
            reader, writer = await alice.open_connection(BOB[0], 80)
            assert await reader.read() == b"first"
            writer.write(b"second")
            writer.close()
            await settled(alice, bob)

    run(work())


def test_timeouts_are_of_one_connection(run: Runner) -> None:
    """A keepalive is answered; data that nobody acknowledges is given up."""

    async def work() -> None:
        async with two_stacks() as (alice, bob):
            await bob.start_server(digest, None, 80)
            reader, writer = await alice.open_connection(BOB[0], 80)
            _, other = await alice.open_connection(BOB[0], 80)
            transport: Any = writer.transport
            another: Any = other.transport
            one, another = transport._socket.connection, another._socket.connection
            with pytest.raises(ValueError, match="negative"):
                transport.set_timeouts(keepalive=-1)
            heard, silent = one._heard_at, another._heard_at
            transport.set_timeouts(keepalive=0.02)
            await until(lambda: one._heard_at > heard)
            transport.set_timeouts(keepalive=0, user=0.02)
            assert one.next_deadline() is None
            assert another._heard_at == silent
            asyncio.get_running_loop().remove_reader(bob.link.readable_fd)
            writer.write(b"anybody?")
            with pytest.raises(TimeoutError):
                await reader.read()

    run(work())


class Hurried(asyncio.Protocol):
    """Notes bytes, and where in the stream urgent data is said to end."""

    def __init__(self, *, reads: bool = True) -> None:
        self.reads = reads
        self.data = b""
        self.ends: list[int] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if not self.reads:
            transport.pause_reading()

    def urgent_received(self, left: int) -> None:
        self.ends.append(len(self.data) + left)

    def data_received(self, data: bytes) -> None:
        self.data += data
        left = self.transport.get_extra_info("urgent")
        assert left == max(self.ends[-1] - len(self.data), 0)


def test_urgent_data_is_announced_before_it_comes(run: Runner) -> None:
    """Also what waits for room to be sent: more is urgent as more of it leaves."""

    async def work() -> None:
        async with two_stacks() as (alice, bob):
            eager, slow = Hurried(), Hurried(reads=False)
            for port, heard in ((80, eager), (81, slow)):
                await bob.create_server(lambda heard=heard: heard, BOB[0], port)
                transport, _ = await alice.create_connection(asyncio.Protocol, BOB[0], port)
                transport.set_write_buffer_limits(high=len(DATA))
                transport.write_urgent(b"now")
                transport.write(b", and then")
                await until(lambda heard=heard: bool(heard.ends))
                transport.write_urgent(DATA)
                transport.write(b"the end")
                if heard is slow:
                    assert not slow.data
                    await until(lambda: slow.ends[-1] > 60_000)
                    slow.transport.resume_reading()
                await until(lambda heard=heard: heard.data.endswith(b"the end"))
                assert heard.data == b"now, and then" + DATA + b"the end"
                assert heard.ends[0] == 3
                assert heard.ends == sorted(heard.ends)
                assert heard.ends[-1] == len(DATA) + 13
                transport.close()
            await settled(alice, bob)

    run(work())


def test_local_ports_and_addresses(run: Runner) -> None:
    async def work() -> None:
        async with two_stacks() as (alice, bob):
            await bob.start_server(lambda r, w: None, None, 80)
            _, writer = await alice.open_connection(BOB[1], 80, local_addr=(ALICE[1], 4000))
            assert writer.get_extra_info("sockname")[:2] == (ALICE[1], 4000)
            with pytest.raises(OSError, match=r"TCP port \d+ of the tunnel: .* in use"):
                await alice.open_connection(BOB[1], 80, local_addr=(ALICE[1], 4000))
            with pytest.raises(OSError, match="assign"):
                await alice.open_connection(BOB[0], 80, local_addr=("10.7.0.50", 0))
            with pytest.raises(ValueError, match="not an address"):
                await alice.open_connection(BOB[0], 80, local_addr=("me", 0))
            with pytest.raises(OSError, match=r"TCP port \d+ of the tunnel: .* in use"):
                await bob.start_server(lambda r, w: None, BOB[0], 80)
            with pytest.raises(ValueError, match="out of range"):
                await alice.open_connection(BOB[0], 0)

    run(work())


def test_a_server_is_asyncios(run: Runner) -> None:
    async def work() -> None:
        async with two_stacks() as (alice, bob):
            async with await bob.start_server(lambda r, w: w.close()) as server:
                four, six = server.sockets
                assert four.getsockname()[0] == BOB[0]
                assert six.getsockname() == (BOB[1], four.getsockname()[1], 0, 0)
                assert server.is_serving()
                serving = asyncio.create_task(server.serve_forever())
                await alice.open_connection(*four.getsockname())
                server.close()
                await serving
            assert server.sockets == ()
            with pytest.raises(ConnectionRefusedError):
                await alice.open_connection(*four.getsockname())

    run(work())
