"""Serving many clients at once: a bound on how many, and an end for all of them.

Each client is a task of its own, so that one whose destination is dead waits alone.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from tunnel.errors import TunnelError
from tunnel.proxy.dialer import Dialer, Server, Streams
from tunnel.proxy.splice import hang_up, splice

MOST: Final = 4096
"""Clients of one listener; further ones are closed at once."""
CONNECT_SECONDS: Final = 30.0

OnClient = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Clients:
    """One listener and those whom it serves. `serve` is run for each client, until it is over."""

    def __init__(self, serve: OnClient, log: logging.Logger, *, most: int = MOST) -> None:
        self._serve = serve
        self._log = log
        self._most = most
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: Server | None = None
        self.refused = 0

    async def listen(self, network: Dialer, host: str | None, port: int) -> None:
        """Begin to listen. Raises OSError."""
        self._server = await network.start_server(self._accept, host, port)

    async def aclose(self) -> None:
        """Listen no more, and end all clients."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= self._most:
            self.refused += 1
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
            await hang_up(writer)
        except (OSError, EOFError) as error:
            self._log.debug("a client: %s", error)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()  # a client that does not read cannot hold up the end


async def connect(network: Dialer, host: str, port: int) -> Streams:
    """Connect within a bounded time. Raises OSError, of which TimeoutError is one."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await network.open_connection(host, port)
    except TunnelError as error:
        raise OSError(errno.ENETDOWN, str(error)) from error


def forwarder(network: Dialer, host: str, port: int) -> OnClient:
    """Return what serves a client by joining it to one destination on a network."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far = await connect(network, host, port)
        except OSError:
            writer.transport.abort()  # as the destination itself would refuse
            raise
        await splice((reader, writer), far)

    return serve
