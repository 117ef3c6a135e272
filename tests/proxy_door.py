"""A listening port of the kernel for tests, and protocols that note what they are told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

from tests.loops import until
from tests.proxy_world import HOST
from tunnel.proxy.dialer import Machine
from tunnel.proxy.listening import Listening

MB = 1 << 20


class Client:
    """A protocol that notes what it is told."""

    def __init__(self, size: int = 4096) -> None:
        self.size = size
        self.transport: Any = None
        self.heard = bytearray()
        self.told: list[str] = []
        self.lost: list[BaseException | None] = []
        self.raises = ""
        self.stays = True

    def note(self, what: str) -> None:
        self.told.append(what)
        if self.raises == what:
            raise ArithmeticError(what)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.note("made")

    def read_size(self) -> int:
        return self.size

    def data_received(self, data: bytes) -> None:
        assert 0 < len(data) <= self.size
        self.heard += data
        self.note("data")

    def eof_received(self) -> bool:
        self.note("end")
        return self.stays

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost.append(error)


class Noted:
    """A transport that notes what it is told; `unit` is the one of the userspace stack's."""

    def __init__(self, unit: int | None = None) -> None:
        self.told: list[Any] = []
        self._extra = {"unit": unit}
        self._closing = False

    def begin(self, protocol: Any) -> None:
        protocol.connection_made(self)

    def get_extra_info(self, name: str) -> Any:
        return self._extra.get(name)

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: bytes | memoryview) -> None:
        self.told.append(data)

    def write_eof(self) -> None:
        self.told.append("write_eof")

    def pause_reading(self) -> None:
        self.told.append("pause_reading")

    def resume_reading(self) -> None:
        self.told.append("resume_reading")

    def close(self) -> None:
        self._closing = True
        self.told.append("close")

    def abort(self) -> None:
        self._closing = True
        self.told.append("abort")


class Door:
    """A listening port, and who came through it."""

    def __init__(self, make: Callable[[], Client]) -> None:
        self.clients: list[Client] = []
        self._make = make
        self.listening: Listening

    def made(self) -> Client:
        self.clients.append(self._make())
        return self.clients[-1]

    async def connect(self) -> socket.socket:
        """Return a client's socket once it has been accepted, as the last of `clients`."""
        client = socket.socket()
        client.setblocking(False)
        before = len(self.clients)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, self.listening.sockets[0].getsockname())
        await until(lambda: len(self.clients) > before)
        return client


@contextlib.asynccontextmanager
async def door(make: Callable[[], Client] = Client, host: str = HOST) -> AsyncIterator[Door]:
    made = Door(make)
    made.listening = await Machine().create_server(made.made, host, 0)
    yield made
    made.listening.close()
    for client in made.clients:
        client.transport.abort()
    await until(lambda: all(client.lost for client in made.clients))


async def read(client: socket.socket, size: int) -> bytes:
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < size and (more := await loop.sock_recv(client, MB)):
        data += more
    return data
