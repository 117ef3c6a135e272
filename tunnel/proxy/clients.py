"""Serving many clients at once: a bound on how many, and an end for all of them.

A client is either a task that talks through streams, or a protocol that does without both, where
clients are many and short. One whose destination is dead waits alone in either case.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from tunnel.errors import TunnelError
from tunnel.proxy.capacity import Capacity
from tunnel.proxy.dialer import Dialer, Opened, Opening, Patience, Server, Streams
from tunnel.proxy.relay import End, reset
from tunnel.proxy.splice import hang_up, splice

CONNECT_SECONDS: Final = 30.0
#: Clients mostly speak first, and a moment after they are told that they may.
_PATIENCE: Final = Patience(CONNECT_SECONDS, 0.002)

OnClient = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Clients:
    """One listener and those whom it serves; `serve` is run for each client, until it is over.

    `refuse` is run for those beyond the capacity; without it they are reset.
    """

    def __init__(
        self,
        serve: OnClient,
        log: logging.Logger,
        capacity: Capacity | None = None,
        refuse: OnClient | None = None,
    ) -> None:
        self._serve = serve
        self._refuse = refuse
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: Server | None = None
        self.capacity = capacity or Capacity()

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
        if not self.capacity.enter():
            reset(writer.transport)
            return
        serve = self._refuse if self.capacity.is_over else self._serve
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if serve is None:
                reset(writer.transport)
            else:
                await serve(reader, writer)
                await hang_up(writer)
        except (OSError, EOFError) as error:
            self._log.debug("a client: %s", error)
        finally:
            self.capacity.leave()
            self._tasks.discard(task)
            writer.transport.abort()  # a client that does not read cannot hold up the end


class Guest(Protocol):
    """A client that is a protocol: it enters a `Guests` when it comes, and leaves it at its end."""

    def end(self) -> None:
        """Go now."""


class Guests:
    """One listener and the protocols that serve its clients; `make` makes one."""

    def __init__(
        self, make: Callable[[], asyncio.BaseProtocol], capacity: Capacity | None = None
    ) -> None:
        self._make = make
        self._there: dict[Guest, None] = {}
        self._server: Server | None = None
        self._empty: asyncio.Future[None] | None = None
        self.capacity = capacity or Capacity()

    async def listen(self, network: Dialer, host: str | None, port: int) -> None:
        """Begin to listen. Raises OSError."""
        self._server = await network.create_server(self._make, host, port)

    async def aclose(self) -> None:
        """Listen no more, and end all clients."""
        if self._server is not None:
            self._server.close()
        if self._there:
            self._empty = asyncio.get_running_loop().create_future()
            for guest in list(self._there):
                guest.end()
            await self._empty

    def enter(self, guest: Guest) -> bool:
        """Count a client in; False where there is no place, not even to refuse it in words."""
        if not self.capacity.enter():
            return False
        self._there[guest] = None
        return True

    def leave(self, guest: Guest) -> None:
        """Count a client out."""
        if self._there.pop(guest, self) is not self:
            self.capacity.leave()
            if self._empty is not None and not self._there and not self._empty.done():
                self._empty.set_result(None)


async def connect(network: Dialer, host: str, port: int) -> Streams:
    """Connect within a bounded time. Raises OSError, of which TimeoutError is one."""
    streams: Streams = await _within(network.open_connection(host, port))
    return streams


async def dial(network: Dialer, far: End, host: str, port: int) -> None:
    """Give an end a connection, within a bounded time. Raises OSError, as `connect` does."""
    await _within(network.create_connection(lambda: far, host, port))


def dial_at_once(network: Dialer, opened: Opened, host: str, port: int) -> Opening | None:
    """Begin to connect, within a bounded time, where that needs no task; None where it does.

    Raises OSError, as `connect` does.
    """
    try:
        return network.begin_connection(opened, host, port, _PATIENCE)
    except TunnelError as error:
        raise OSError(errno.ENETDOWN, str(error)) from error


async def _within(connecting: Awaitable[Any]) -> Any:
    try:
        async with asyncio.timeout(CONNECT_SECONDS) as bound:
            return await connecting
    except TimeoutError as error:
        if bound.expired():
            raise TimeoutError(f"no answer within {CONNECT_SECONDS:g} s") from error
        raise
    except TunnelError as error:
        raise OSError(errno.ENETDOWN, str(error)) from error
    except ValueError as error:  # port 0, or a name that IDNA does not know
        raise OSError(errno.EADDRNOTAVAIL, str(error)) from error


def forwarder(network: Dialer, host: str, port: int) -> OnClient:
    """Return what serves a client by joining it to one destination on a network."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far = await connect(network, host, port)
        except OSError:
            reset(writer.transport)  # as the destination itself would refuse
            raise
        await splice((reader, writer), far)

    return serve
