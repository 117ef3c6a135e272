"""A client's socket as a transport: tunnel/proxy/kernelstream.py."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from tests.loops import Runner, until
from tests.proxy_door import MB, Client, door, read
from tunnel.proxy.relay import reset


@pytest.mark.parametrize("size", [1, 7, 4096, 100_000])
def test_bytes_go_both_ways_and_so_do_ends(run: Runner, size: int) -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        async with door(lambda: Client(size)) as at:
            client = await at.connect()
            (one,) = at.clients
            sent = bytes(range(256)) * 40
            await loop.sock_sendall(client, sent)
            client.shutdown(socket.SHUT_WR)
            await until(lambda: "end" in one.told)
            assert one.heard == sent
            assert not one.lost, "it may still want to hear"
            one.transport.write(b"and ")
            one.transport.write(memoryview(b"back"))
            one.transport.close()
            assert one.transport.is_closing()
            assert await read(client, 100) == b"and back"
            await until(lambda: one.lost == [None])
            client.close()

    run(work())


def test_where_an_end_is_taken_for_the_end_it_is_closed(run: Runner) -> None:
    async def work() -> None:
        async with door() as at:
            client = await at.connect()
            (one,) = at.clients
            one.stays = False
            client.close()
            await until(lambda: one.lost == [None])

    run(work())


def test_what_comes_with_its_end_is_told_in_order(run: Runner) -> None:
    async def work() -> None:
        async with door() as at:
            client = await at.connect()
            (one,) = at.clients
            one.transport.pause_reading()
            client.send(b"last words")
            client.close()
            one.transport.resume_reading()
            await until(lambda: "end" in one.told)
            assert one.told == ["made", "data", "end"]

    run(work())


def test_urgent_bytes_stay_where_they_were(run: Runner) -> None:
    async def work() -> None:
        async with door() as at:
            client = await at.connect()
            (one,) = at.clients
            one.transport.pause_reading()
            for flags in (0, socket.MSG_OOB, 0, socket.MSG_OOB):
                client.send(b"some", flags)
            one.transport.resume_reading()
            await until(lambda: one.heard == b"some" * 4)
            client.send(b" more")
            await until(lambda: one.heard.endswith(b" more"))
            client.close()

    run(work())


def test_a_reset_is_an_error(run: Runner) -> None:
    async def work() -> None:
        async with door() as at:
            client = await at.connect()
            (one,) = at.clients
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            await until(lambda: bool(one.lost))
            assert isinstance(one.lost[0], ConnectionResetError)
            one.transport.write(b"for nobody")  # is no error
            one.transport.write_eof()

    run(work())


def test_resetting_shows_at_the_client(run: Runner) -> None:
    async def work() -> None:
        async with door() as at:
            client = await at.connect()
            reset(at.clients[0].transport)
            await until(lambda: at.clients[0].lost == [None])
            with pytest.raises(ConnectionResetError):
                await asyncio.get_running_loop().sock_recv(client, 1)
            client.close()

    run(work())


def test_a_client_that_does_not_read_holds_up_its_writer(run: Runner) -> None:
    async def work() -> None:
        async with door() as at:
            client = await at.connect()
            (one,) = at.clients
            sent = 0
            while "pause" not in one.told:
                one.transport.write(bytes([sent % 251]) * 65_536)
                sent += 1
            assert one.transport.get_write_buffer_size() > 0
            one.transport.write_eof()
            with pytest.raises(RuntimeError):
                one.transport.write(b"more")
            found = await read(client, 1 << 40)
            assert found == b"".join(bytes([n % 251]) * 65_536 for n in range(sent))
            assert one.told == ["made", "pause", "resume"]
            assert one.transport.get_write_buffer_size() == 0
            client.close()

    run(work())


def test_what_was_written_before_closing_still_leaves(run: Runner) -> None:
    async def work() -> None:
        async with door() as at:
            client = await at.connect()
            (one,) = at.clients
            data = bytearray(8 * MB)
            one.transport.write(data)
            data[:] = b"x" * len(data)  # what waits was a copy
            one.transport.close()
            assert not one.lost
            found = await read(client, 1 << 40)
            assert len(found) == 8 * MB
            assert found.endswith(bytes(MB))
            await until(lambda: one.lost == [None])
            client.close()

    run(work())


def test_who_is_not_read_from_keeps_it_in_the_kernel(run: Runner) -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        async with door() as at:
            client = await at.connect()
            (one,) = at.clients
            one.transport.pause_reading()
            await loop.sock_sendall(client, b"waits")
            other = await at.connect()  # by then the first would have been read
            await loop.sock_sendall(other, b"is read")
            await until(lambda: at.clients[1].heard == b"is read")
            assert not one.heard
            one.transport.resume_reading()
            await until(lambda: one.heard == b"waits")
            client.close()
            other.close()

    run(work())


def test_a_sender_that_never_pauses_leaves_others_their_turn(run: Runner) -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        async with door(lambda: Client(1)) as at:  # a byte at a time
            client = await at.connect()
            await loop.sock_sendall(client, bytes(4096))
            turns = 0
            while len(at.clients[0].heard) < 4096:
                turns += 1
                await asyncio.sleep(0)
            assert turns > 4096 // 64
            client.close()

    run(work())


@pytest.mark.parametrize("when", ["made", "data", "end"])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_protocol_that_raises_ends_its_connection_only(
    run: Runner, when: str, resumed: bool
) -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        failures: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: failures.append(context))
        async with door() as at:
            other = await at.connect()
            client = socket.create_connection(at.listening.sockets[0].getsockname())
            at._make = lambda: broken
            broken = Client()
            broken.raises = when
            await until(lambda: len(at.clients) == 2)
            if resumed:
                broken.transport.pause_reading()
                broken.transport.resume_reading()
            client.send(b"x")
            client.shutdown(socket.SHUT_WR)
            await until(lambda: bool(broken.lost))
            assert isinstance(broken.lost[0], ArithmeticError)
            assert [context["exception"] for context in failures] == broken.lost
            await loop.sock_sendall(other, b"goes on")
            await until(lambda: at.clients[0].heard == b"goes on")
            client.close()
            other.close()

    run(work())
