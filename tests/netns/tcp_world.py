"""The userspace TCP against the kernel's, in one namespace, through a path that can be bad.

    NetStack 10.77.0.2 == link == Shim (drops, doubles, delays, spoils) == TUN == kernel 10.77.0.1

Both links carry plain packets, so that the shim sees single segments with their checksums.
`direct` leaves the shim out and gives the stack the TUN itself, with virtio_net_hdr and units.
Everything runs on one event loop in real time.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path as Place
from random import Random
from typing import Any

from tools.netlab import Namespace
from tunnel.netstack.aio import NetStack
from tunnel.netstack.settings import Settings
from tunnel.stacklink import link_pair
from tunnel.tun import Tun

KERNEL, OURS = "10.77.0.1", "10.77.0.2"
KERNEL6, OURS6 = "fd77::1", "fd77::2"
MTU = 1420


@dataclass
class Path:
    """What happens to packets in one direction; probabilities from 0 to 1, times in seconds."""

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0  # held back by up to 20 ms
    corruption: float = 0.0
    delay: float = 0.0
    most: int = 1 << 16  # bytes of a packet; larger ones vanish
    dropped: int = 0
    spoilt: int = 0


@dataclass
class Shim:
    """Between two descriptors of plain packets."""

    stack_fd: int
    tun_fd: int
    random: Random
    outward: Path = field(default_factory=Path)  # from the stack to the kernel
    inward: Path = field(default_factory=Path)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Carry packets both ways from now on."""
        self.loop = loop
        loop.add_reader(self.stack_fd, self._carry, self.stack_fd, self.tun_fd, self.outward)
        loop.add_reader(self.tun_fd, self._carry, self.tun_fd, self.stack_fd, self.inward)

    def stop(self) -> None:
        """Carry no more."""
        self.loop.remove_reader(self.stack_fd)
        self.loop.remove_reader(self.tun_fd)

    def _carry(self, source: int, target: int, path: Path) -> None:
        chance = self.random.random
        for _ in range(64):
            try:
                packet = os.read(source, 65536)
            except BlockingIOError:
                return
            if chance() < path.loss or len(packet) > path.most:
                path.dropped += 1
                continue
            if chance() < path.corruption:
                path.spoilt += 1
                spoilt = bytearray(packet)
                spoilt[self.random.randrange(20, len(packet))] ^= 1 << self.random.randrange(8)
                packet = bytes(spoilt)
            for _ in range(1 + (chance() < path.duplication)):
                wait = path.delay
                if chance() < path.reordering:
                    wait += chance() * 0.02
                if wait:
                    self.loop.call_later(wait, self._put, target, packet)
                else:
                    self._put(target, packet)

    @staticmethod
    def _put(target: int, packet: bytes) -> None:
        with suppress(OSError):  # a full queue drops, as any
            os.write(target, packet)


@dataclass
class World:
    """A stack and the kernel, on one loop."""

    net: NetStack
    shim: Shim | None
    tun: str


@asynccontextmanager
async def world(
    name: str, *, seed: int = 1, direct: bool = False, settings: Settings | None = None,
    **path: float,
) -> AsyncIterator[World]:  # fmt: skip
    """Yield a world in the namespace that the calling thread is in; `path` is for both ways."""
    ends = link_pair()
    with ends[0], ends[1], Tun.create(name, offload=direct) as tun:
        for command in (
            f"addr add {KERNEL}/24 dev {name}",
            f"-6 addr add {KERNEL6}/64 dev {name} nodad",
            f"link set {name} up mtu {MTU}",
        ):
            await ip(command)
        fd, flags = (tun.fds[0], tun.link_flags) if direct else (ends[0].fileno(), 0)
        shim = None
        if not direct:
            shim = Shim(ends[1].fileno(), tun.fds[0], Random(seed))
            for way in (shim.outward, shim.inward):
                for key, value in path.items():
                    setattr(way, key, value)
            shim.start(asyncio.get_running_loop())
        try:
            async with NetStack(
                fd, flags, addresses=[OURS, OURS6], mtu=MTU, settings=settings
            ) as net:
                yield World(net, shim, name)
        finally:
            if shim is not None:
                shim.stop()


#: The kernel's TCP gives up, or doubles its timer to minutes, where as much as a third is lost both
#: ways: two kernels on such a path end 10 of 12 exchanges of a megabyte in two minutes, the others
#: not. So its limits are wide there (tcp_rto_max_ms: 6.15; without it the exchanges take long).
PATIENCE = {
    "tcp_rto_max_ms": 1000,
    "tcp_retries2": 255,
    "tcp_orphan_retries": 255,
    "tcp_syn_retries": 60,
    "tcp_synack_retries": 60,
}


def be_patient() -> None:
    """Widen the kernel's own limits in the namespace that the calling thread is in."""
    for name, value in PATIENCE.items():
        with suppress(FileNotFoundError):
            Place("/proc/sys/net/ipv4", name).write_text(str(value))


async def ip(arguments: str) -> None:
    """Run one ip(8) command where we are."""
    process = await asyncio.create_subprocess_exec("ip", *arguments.split())
    assert await process.wait() == 0, arguments


def run(space: Namespace, main: Any, *arguments: Any, seconds: float = 200, **options: Any) -> None:
    """Run a coroutine function to its end in a namespace."""

    async def limited() -> None:
        async with asyncio.timeout(seconds):
            await main(*arguments, **options)

    with space.entered():
        asyncio.run(limited())


# ---- exchanges ----


@dataclass
class Side:
    """What one side of an exchange does: the bytes it sends, and how it reads."""

    data: bytes
    bite: int = 65536
    pause: float = 0.0  # before each read
    first: float = 0.0  # before the first
    waits: bool = False  # sends only when the other side has finished (half-close)


async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, side: Side) -> str:
    """Send, finish, read to the end; return the SHA-256 of what came."""
    heard = asyncio.Event()

    async def send() -> None:
        if side.waits:
            await heard.wait()
        for at in range(0, len(side.data), 50_000):
            writer.write(side.data[at : at + 50_000])
            await writer.drain()
        writer.write_eof()

    async def read() -> str:
        sum_ = sha256()
        await asyncio.sleep(side.first)
        while data := await reader.read(side.bite):
            sum_.update(data)
            if side.pause:
                await asyncio.sleep(side.pause)
        heard.set()
        return sum_.hexdigest()

    try:
        async with asyncio.TaskGroup() as group:
            sending, reading = group.create_task(send()), group.create_task(read())
        assert sending.done()
        return reading.result()
    finally:
        writer.close()


async def exchange(
    net: NetStack, ours: Side, theirs: Side, *, calls: bool, six: bool = False, buffer: int = 0
) -> None:
    """One connection, both sides' bytes compared; `calls`: we open it; `buffer`: SO_RCVBUF."""
    answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answered.set_result(await play(reader, writer, theirs if calls else ours))
        except BaseException as error:
            if not answered.done():
                answered.set_exception(error)
            raise

    kernel, own = (KERNEL6, OURS6) if six else (KERNEL, OURS)
    family = socket.AF_INET6 if six else socket.AF_INET
    with socket.socket(family) as end:
        end.setblocking(False)
        if buffer:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        if calls:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            end.bind((kernel, 0))
            server: Any = await asyncio.start_server(serve, sock=end, limit=65536)
            streams = await net.open_connection(kernel, end.getsockname()[1])
        else:
            server = await net.start_server(serve, own, 0)
            port = server.addresses[0][1]
            await asyncio.get_running_loop().sock_connect(end, (own, port))
            streams = await asyncio.open_connection(sock=end, limit=65536)
        async with server:
            mine, other = (ours, theirs) if calls else (theirs, ours)
            got = await play(*streams, mine)
            assert got == sha256(other.data).hexdigest()
            assert await answered == sha256(mine.data).hexdigest()
