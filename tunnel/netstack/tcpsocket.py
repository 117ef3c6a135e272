"""One TCP connection as its owner holds it, and the listener that brings such connections."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from tunnel.netstack.budget import Budget
from tunnel.netstack.connection import Connection
from tunnel.netstack.endpoint import Reason
from tunnel.netstack.ip import Route
from tunnel.netstack.settings import Settings
from tunnel.netstack.states import State


class Layer(Protocol):
    """What sockets ask of the layer that has them."""

    def touch(self, socket: TcpSocket) -> None:
        """Give a socket its turn."""

    def orphan(self, socket: TcpSocket, now: int) -> None:
        """The owner has closed."""

    def forget_listener(self, listener: Listener, now: int) -> None:
        """Accept no more."""


class Place(NamedTuple):
    """An address, packed, and a port."""

    address: bytes
    port: int


_ERRNO = {
    Reason.RESET: errno.ECONNRESET,
    Reason.REFUSED: errno.ECONNREFUSED,
    Reason.TIMED_OUT: errno.ETIMEDOUT,
    Reason.ABORTED: errno.ECONNABORTED,
}


class TcpSocket:
    """A connection with a name, a route and an owner, who hears of events."""

    __slots__ = (
        "_layer", "connection", "due", "fin_wait_until", "key", "listener", "local_port", "memory",
        "orphan", "owner", "queued", "remote_port", "route", "trouble",
    )  # fmt: skip

    def __init__(
        self, layer: Layer, connection: Connection, key: bytes, route: Route, local_port: int,
        remote_port: int, memory: Budget,
    ) -> None:  # fmt: skip
        self._layer = layer
        self.connection = connection
        self.key = key
        self.route = route
        self.local_port = local_port
        self.memory = memory  # what the send buffer has beyond its first size
        self.remote_port = remote_port
        self.listener: Listener | None = None
        self.owner: Any = None
        self.orphan = False
        self.trouble = 0  # errno of the last ICMP error about it
        self.fin_wait_until = 0
        self.due: int | None = None
        self.queued: int | None = None

    @property
    def local(self) -> Place:
        """Our end."""
        return Place(self.route.source, self.local_port)

    @property
    def remote(self) -> Place:
        """The peer's end."""
        return Place(self.route.destination, self.remote_port)

    def write(self, data: bytes | bytearray | memoryview, *, urgent: bool = False) -> int:
        """Take bytes to send, as many as there is room for (`Connection.write`)."""
        taken = self.connection.write(data, urgent=urgent)
        self._layer.touch(self)
        return taken

    def read(self, most: int) -> bytes:
        """Return up to `most` bytes that came in order."""
        data = self.connection.read(most)
        if data:
            self._layer.touch(self)
        return data

    def set_timeouts(self, *, keepalive: int | None = None, user: int | None = None) -> None:
        """After what silence the peer is asked for a sign (ns; 0: never), and how long data may be
        unacknowledged (ns). Of this connection alone (RFC 9293, MUST-24 and MUST-21).
        """
        connection = self.connection
        if keepalive is not None:
            connection.settings = replace(connection.settings, keepalive=keepalive)
        if user is not None:
            connection.user_timeout = user
        self._layer.touch(self)

    def shut(self) -> None:
        """Send no more after what has been written; the peer may go on."""
        self.connection.close()
        self._layer.touch(self)

    def close(self, now: int) -> None:
        """Let go: what was written still leaves, what comes is refused."""
        self.owner = None
        if self.connection.readable:
            self.connection.abort(now)
        else:
            self.connection.close()
        self._layer.orphan(self, now)
        self._layer.touch(self)

    def abort(self, now: int) -> None:
        """Drop everything and reset the peer."""
        self.connection.abort(now)
        self._layer.touch(self)

    def errno_for(self, reason: Reason) -> int:
        """Return the errno of a connection's end; what the network said of it comes first."""
        if self.trouble and reason in (Reason.TIMED_OUT, Reason.ABORTED):
            return self.trouble
        return _ERRNO.get(reason, 0)

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent or received any more."""
        return self.connection.state in (State.CLOSED, State.TIME_WAIT)


class Listener:
    """A port that accepts. `accepted` of its owner is called by who drives the stack."""

    def __init__(
        self, layer: Layer, address: bytes | None, port: int, backlog: int, settings: Settings
    ) -> None:
        self._layer = layer
        self.address = address
        self.port = port
        self.backlog = backlog
        self.settings = settings
        self.half_open: dict[TcpSocket, None] = {}
        self.cookies_until = 0
        self.closed = False
        self.owner: Any = None

    def close(self, now: int) -> None:
        """Accept no more."""
        self.closed = True
        self._layer.forget_listener(self, now)
