"""The clients of one listener, how many there may be, and the dialling for one of them."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

from tunnel.errors import TunnelError
from tunnel.proxy.capacity import Capacity
from tunnel.proxy.dialer import Dialer, Opened, Opening, Patience, Server
from tunnel.proxy.listening import Listening
from tunnel.proxy.relay import End
from tunnel.proxy.waits import Waits

CONNECT_SECONDS = 30.0
#: Clients mostly speak first, and a moment after they are told that they may.
_PATIENCE: Final = Patience(CONNECT_SECONDS, 0.0005)
#: A server that speaks first waits for the acknowledgment that would wait for its client.
_IMPATIENCE: Final = Patience(CONNECT_SECONDS)
_GREETERS_MOST: Final = 1024


class Client(Protocol):
    """It enters a `Clients` when it comes, and leaves it at its end."""

    def end(self) -> None:
        """Go now."""


class Clients:
    """One listener and the protocols that serve its clients; `make` makes one.

    `network` is where their connections go; `greeters` are the places there, of those that were
    dialled before, whose servers spoke first.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        network: Dialer,
        log: logging.Logger,
        capacity: Capacity | None = None,
        *,
        speak_first: bool = False,
    ) -> None:
        """`speak_first` of clients that wait for nothing before they say what they want."""
        self._make = make
        self._speak_first = speak_first
        self._there: dict[Client, None] = {}
        self._server: Server | None = None
        self._empty: asyncio.Future[None] | None = None
        self._waits: dict[float, Waits] = {}  # by how long they are
        self.network = network
        self.greeters: set[tuple[str, int]] = set()
        self.log = log
        self.capacity = capacity or Capacity()

    async def listen(self, network: Dialer, host: str | None, port: int) -> None:
        """Begin to listen. Raises OSError."""
        self._server = await network.create_server(self._make, host, port)
        if self._speak_first and isinstance(self._server, Listening):
            self._server.defer()

    async def aclose(self) -> None:
        """Listen no more, and end all clients."""
        if self._server is not None:
            self._server.close()
        if self._there:
            self._empty = asyncio.get_running_loop().create_future()
            for client in list(self._there):
                client.end()
            await self._empty

    def enter(self, client: Client) -> bool:
        """Count a client in; False where there is no place, not even to refuse it in words."""
        if not self.capacity.enter():
            return False
        self._there[client] = None
        return True

    def waits(self, seconds: float) -> Waits:
        """Return the clients that have so long to say what they want."""
        found = self._waits.get(seconds)
        if found is None:
            found = self._waits[seconds] = Waits(seconds)
        return found

    def greeted(self, host: str, port: int) -> None:
        """A server spoke before its client did."""
        if len(self.greeters) < _GREETERS_MOST:
            self.greeters.add((host, port))

    def leave(self, client: Client) -> None:
        """Count a client out."""
        if self._there.pop(client, self) is not self:
            self.capacity.leave()
            if self._empty is not None and not self._there and not self._empty.done():
                self._empty.set_result(None)


def dial_at_once(clients: Clients, opened: Opened, host: str, port: int) -> Opening | None:
    """Begin to connect, within a bounded time, where that needs no task; None where it does.

    Raises OSError, as `dial` does.
    """
    patience = _IMPATIENCE if (host, port) in clients.greeters else _PATIENCE
    try:
        return clients.network.begin_connection(opened, host, port, patience)
    except TunnelError as error:
        raise OSError(errno.ENETDOWN, str(error)) from error


async def dial(network: Dialer, far: End, host: str, port: int) -> None:
    """Give an end a connection, within a bounded time. Raises OSError, of which TimeoutError is
    one.
    """
    try:
        async with asyncio.timeout(CONNECT_SECONDS) as bound:
            await network.create_connection(lambda: far, host, port)
    except TimeoutError as error:
        if bound.expired():
            raise TimeoutError(f"no answer within {CONNECT_SECONDS:g} s") from error
        raise
    except TunnelError as error:
        raise OSError(errno.ENETDOWN, str(error)) from error
    except ValueError as error:  # port 0, or a name that IDNA does not know
        raise OSError(errno.EADDRNOTAVAIL, str(error)) from error
