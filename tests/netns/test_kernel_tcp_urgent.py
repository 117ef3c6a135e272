"""Urgent data to and from the kernel's TCP (RFC 9293, 3.8.5), and what its closed window hears.

The kernel takes the last urgent byte for the urgent one, and marks its place in the stream.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import termios
from typing import Any

import pytest

from tests.loops import until
from tests.netns.tcp_world import KERNEL, run, world
from tools.netlab import Lab

pytestmark = pytest.mark.root

SIOCATMARK = 0x8905


class Log(asyncio.Protocol):
    """What a protocol hears: bytes, and where in the stream urgent data was said to end."""

    transport: Any

    def __init__(self) -> None:
        self.data = b""
        self.ends: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def urgent_received(self, left: int) -> None:
        self.ends.append(len(self.data) + left)

    def data_received(self, data: bytes) -> None:
        self.data += data
        assert self.transport.get_extra_info("urgent") == max(
            max(self.ends, default=0) - len(self.data), 0
        )


async def linked(net: Any, *, buffer: int = 0) -> tuple[Log, socket.socket]:
    """Our protocol and the kernel's socket of one connection."""
    with socket.socket() as server:
        if buffer:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        server.bind((KERNEL, 0))
        server.listen()
        server.setblocking(False)
        (_, log), (end, _) = await asyncio.gather(
            net.create_connection(Log, KERNEL, server.getsockname()[1]),
            asyncio.get_running_loop().sock_accept(server),
        )
    return log, end


def asked(end: socket.socket, request: int) -> int:
    """Return what an ioctl says of a socket."""
    number: int = struct.unpack("i", fcntl.ioctl(end, request, bytes(4)))[0]
    return number


def test_what_the_kernel_sends_as_urgent(lab: Lab) -> None:
    async def main() -> None:
        async with world("ktcp0") as made:
            log, end = await linked(made.net)
            with end:
                end.send(b"plain")
                end.send(b"in a hurry", socket.MSG_OOB)
                await until(lambda: len(log.data) == 15)
                end.send(b"and on")
                end.send(b"!", socket.MSG_OOB)
                await until(lambda: len(log.data) == 22)
            assert log.data == b"plainin a hurryand on!"
            assert sorted(set(log.ends)) == [15, 22]

    run(lab.namespace("a"), main, seconds=30)


@pytest.mark.parametrize("direct", [False, True], ids=["single segments", "units"])
def test_what_we_send_as_urgent(lab: Lab, direct: bool) -> None:
    """The kernel's mark is at its last byte, whatever was cut into how many segments."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with world("ktcp0", direct=direct) as made:
            log, end = await linked(made.net)
            with end:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
                log.transport.write(b"a" * 3_000)
                log.transport.write_urgent(b"b" * 20_000)
                log.transport.write(b"c" * 7_000)
                await until(lambda: asked(end, termios.FIONREAD) == 30_000)
                assert select.select([], [], [end], 0)[2]
                came = b""
                while not asked(end, SIOCATMARK):
                    came += await loop.sock_recv(end, 65_536)  # never past the mark
                assert came == b"a" * 3_000 + b"b" * 19_999
                assert await loop.sock_recv(end, 65_536) == b"b" + b"c" * 7_000

                end.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 0)
                log.transport.write_urgent(b"!")
                await until(lambda: bool(select.select([], [], [end], 0)[2]))
                assert end.recv(9, socket.MSG_OOB) == b"!"

    run(lab.namespace("a"), main, seconds=30)


def error_of(end: socket.socket) -> int:
    """Return a socket's pending error."""
    return end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


async def close_window(log: Log) -> Any:
    """Write until the kernel takes no more, not even the byte of a probe."""
    sender = log.transport._socket.connection.sender
    log.transport.write(bytes(100_000))
    await until(lambda: sender.window == 0 and sender.nxt > sender.una)
    return sender


def test_a_closed_window_hears_of_urgent_data(lab: Lab) -> None:
    async def main() -> None:
        heard = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGURG, heard.set)
        async with world("ktcp0") as made:
            log, end = await linked(made.net, buffer=4096)
            with end:
                fcntl.fcntl(end, fcntl.F_SETOWN, os.getpid())
                sender = await close_window(log)
                assert not heard.is_set()
                log.transport.write_urgent(b"!")
                await heard.wait()
                assert sender.window == 0
                log.transport.abort()

    run(lab.namespace("a"), main, seconds=30)


def test_a_closed_window_hears_our_acknowledgments(lab: Lab) -> None:
    """They must not stand behind the byte that it refused: the kernel drops what is beyond it."""

    async def main() -> None:
        async with world("ktcp0") as made:
            log, end = await linked(made.net, buffer=4096)
            with end:
                await close_window(log)
                end.send(b"hello")
                await until(lambda: log.data == b"hello")
                await until(lambda: asked(end, termios.TIOCOUTQ) == 0)
                log.transport.abort()
                await until(lambda: error_of(end) == errno.ECONNRESET)

    run(lab.namespace("a"), main, seconds=30)
