"""Both directions hold bounded memory, whatever the other side does not do."""

from __future__ import annotations

import asyncio

import pytest

from tests.loops import Runner, until
from tests.netstack.pairs import BOB, settled, two_stacks
from tunnel.netstack.aio import NetStack
from tunnel.netstack.tcptable import FIRST_SEND_BUFFER

CHUNK = bytes(16_384)


def held(net: NetStack) -> int:
    """Return what a stack's connections hold to be sent."""
    return sum(
        socket.connection.sender.buffer.end - socket.connection.sender.buffer.start
        for socket in net.stack.tcp.sockets.values()
    )


async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that never reads: asyncio's reader takes some, then pauses."""
    await asyncio.Event().wait()


@pytest.mark.parametrize("high", [None, 100_000, 0])
def test_a_writer_that_is_never_drained_holds_its_high_water_mark(
    run: Runner, high: int | None
) -> None:
    async def work() -> None:
        async with two_stacks() as (alice, bob):
            await bob.start_server(ignore, None, 80)
            _, writer = await alice.open_connection(BOB[0], 80)
            if high is not None:
                writer.transport.set_write_buffer_limits(high=high)
            mark = max(writer.transport.get_write_buffer_limits()[1], 65_536)

            def write_on() -> None:
                for _ in range(4000):
                    writer.write(CHUNK)

            with pytest.raises(BufferError, match="await drain"):
                write_on()
            assert writer.transport.get_write_buffer_size() <= mark + len(CHUNK)
            assert held(alice) <= FIRST_SEND_BUFFER
            writer.transport.abort()

    run(work())


def test_draining_waits_for_the_reader(run: Runner) -> None:
    async def work() -> None:
        async with two_stacks() as (alice, bob):
            read = asyncio.Event()
            total = 0

            async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                nonlocal total
                await read.wait()
                while data := await reader.read(1 << 16):
                    total += len(data)
                writer.close()

            await bob.start_server(late, None, 80)
            _, writer = await alice.open_connection(BOB[0], 80)
            sent = 0

            async def send() -> None:
                nonlocal sent
                while sent < 30_000_000:
                    writer.write(CHUNK)
                    sent += len(CHUNK)
                    await writer.drain()
                writer.close()

            sending = asyncio.create_task(send())
            before = -1
            while before != sent:  # until it stands still
                before = sent
                for _ in range(20):
                    await asyncio.sleep(0.002)
            assert sent < 12_000_000  # both buffers at their largest
            (far,) = bob.stack.tcp.sockets.values()
            assert far.connection.readable <= far.connection.settings.receive_most
            read.set()
            await sending
            await until(lambda: total == sent)
            await settled(alice, bob)

    run(work())


def test_a_paused_reader_closes_the_window(run: Runner) -> None:
    async def work() -> None:
        async with two_stacks() as (alice, bob):
            arrived = asyncio.Event()

            class Paused(asyncio.Protocol):
                def connection_made(self, transport: asyncio.BaseTransport) -> None:
                    assert isinstance(transport, asyncio.Transport)
                    self.transport = transport
                    transport.pause_reading()
                    arrived.set()

                def data_received(self, data: bytes) -> None:
                    self.got = getattr(self, "got", 0) + len(data)

            protocol = Paused()
            await bob.create_server(lambda: protocol, None, 80)
            _, writer = await alice.open_connection(BOB[0], 80)
            await arrived.wait()
            writer.write(bytes(200_000))
            (far,) = bob.stack.tcp.sockets.values()
            await until(lambda: far.connection.readable >= 60_000)
            assert not hasattr(protocol, "got")
            (near,) = alice.stack.tcp.sockets.values()
            assert near.connection.sender.buffer.limit <= FIRST_SEND_BUFFER  # more is no use
            protocol.transport.resume_reading()
            await until(lambda: getattr(protocol, "got", 0) == 200_000)

    run(work())
