"""The table of TCP connections: names, ports, and how a connection is made."""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tunnel.netstack.budget import Pool, RateLimit
from tunnel.netstack.connection import Connection
from tunnel.netstack.cookies import Cookies
from tunnel.netstack.endpoint import Event, EventKind
from tunnel.netstack.ip import Outgoing, Route
from tunnel.netstack.packet import render
from tunnel.netstack.ports import Numbers
from tunnel.netstack.rtt import SECOND
from tunnel.netstack.segment import Segment
from tunnel.netstack.settings import Settings
from tunnel.netstack.tcpsocket import Listener, TcpSocket
from tunnel.netstack.timers import Timers
from tunnel.netstack.timewait import TimeWait

MOST_ORPHANS: Final = 8192
FIRST_SEND_BUFFER: Final = 128 * 1024


class TcpTable:
    """Connections by name, listeners by address and port; `outbox` leaves at once."""

    def __init__(
        self,
        numbers: Numbers,
        secret: bytes,
        settings: Settings,
        count: Callable[[str], None],
        *,
        memory: int = 64 << 20,
    ) -> None:
        self.sockets: dict[bytes, TcpSocket] = {}
        self.time_wait = TimeWait()
        self.timers: Timers[TcpSocket] = Timers()
        self.settings = settings
        self.outbox: list[Outgoing] = []
        self._numbers = numbers
        self._cookies = Cookies(secret)
        self._count = count
        self._listeners: dict[tuple[bytes | None, int], Listener] = {}
        self._events: list[tuple[TcpSocket, Event]] = []
        self._busy: dict[TcpSocket, None] = {}
        self._orphans: OrderedDict[TcpSocket, None] = OrderedDict()  # the oldest first
        self._pool = Pool(memory)
        self._sends = Pool(memory)
        self._limit = RateLimit(1000, SECOND)
        self._sized: dict[tuple[int, int, int], tuple[Settings, Settings]] = {}

    # ---- opening ----

    def connect(
        self,
        route: Route,
        remote_port: int,
        now: int,
        *,
        local_port: int = 0,
        settings: Settings | None = None,
    ) -> TcpSocket:
        """Open a connection. OSError: EADDRINUSE, or EADDRNOTAVAIL where no port is left."""
        ends = route.source + route.destination
        there = remote_port.to_bytes(2, "big")

        def free(port: int) -> bool:
            return self.is_free(route, port, remote_port, now)

        if local_port:
            port: int | None = local_port if free(local_port) else None
            code = errno.EADDRINUSE
        else:
            port = self._numbers.port(ends + there, free)
            code = errno.EADDRNOTAVAIL
        if port is None:
            named = f"TCP port {local_port} of the tunnel: " if local_port else ""
            raise OSError(code, named + os.strerror(code))
        socket = self._make(route, port, remote_port, settings or self.settings, now)
        socket.connection.connect(now)
        self.touch(socket)
        return socket

    def is_free(self, route: Route, port: int, remote_port: int, now: int) -> bool:
        """Whether a connection of this name could be opened."""
        key = key_of(route, port, remote_port)
        remnant = self.time_wait.get(key)
        if remnant is not None and not remnant.may_be_reopened(now):
            return False
        return key not in self.sockets and not self._listens(route.source, port)

    def _make(
        self, route: Route, port: int, remote_port: int, settings: Settings, now: int,
        iss: int | None = None,
    ) -> TcpSocket:  # fmt: skip
        key = key_of(route, port, remote_port)
        flow = flow_of(route, port, remote_port)
        first, clock_offset = self._numbers.start(flow, now)
        if iss is None:
            iss = first
            old = self.time_wait.take(key)
            if old is not None and (iss - old.sent) & 0x80000000:
                iss = (old.sent + 0x20000) & 0xFFFFFFFF  # RFC 9293, section 3.4.1
        connection = Connection(
            port,
            remote_port,
            iss=iss,
            settings=self._sized_for(settings, route),
            clock_offset=clock_offset,
            pool=self._pool,
            limit=self._limit,
        )
        buffer = connection.sender.buffer
        buffer.limit = min(buffer.limit, FIRST_SEND_BUFFER)
        socket = TcpSocket(self, connection, key, route, port, remote_port, self._sends.budget())
        self.sockets[key] = socket
        return socket

    def _sized_for(self, settings: Settings, route: Route) -> Settings:
        """Return the settings with the segment size that fits the route."""
        known = (route.version, route.mtu, id(settings))  # hashing all fields took a microsecond
        found = self._sized.get(known)
        if found is not None:
            return found[1]
        if len(self._sized) > 256:
            self._sized.clear()
        overhead, least = (40, 536) if route.version == 4 else (60, 1220)
        sized = replace(settings, segment=max(route.mtu - overhead, 88), peer_segment=least)
        self._sized[known] = settings, sized  # the first so that its name stays its own
        return sized

    def _listens(self, address: bytes, port: int) -> Listener | None:
        return self._listeners.get((address, port)) or self._listeners.get((None, port))

    # ---- turns ----

    def touch(self, socket: TcpSocket) -> None:
        """Something happened to a connection: it gets its turn."""
        self._busy[socket] = None

    def _say(self, route: Route, segment: Segment) -> None:
        self.outbox.append(render(route, segment))

    def _collect(self, socket: TcpSocket) -> None:
        """Keep what happened to a connection for who asks next."""
        if not socket.connection.events:
            return
        for event in socket.connection.take_events():
            if event.kind is EventKind.ESTABLISHED and socket.listener is not None:
                socket.listener.half_open.pop(socket, None)
            self._events.append((socket, event))

    def _drop(self, socket: TcpSocket) -> None:
        """Forget a connection; its owner may still read what came."""
        if self.sockets.get(socket.key) is socket:
            del self.sockets[socket.key]
        self._orphans.pop(socket, None)
        if socket.listener is not None:
            socket.listener.half_open.pop(socket, None)
        self.timers.set(socket, None)
        socket.memory.give_back()
        self._collect(socket)

    def orphan(self, socket: TcpSocket, now: int) -> None:
        """The owner has closed. Beyond MOST_ORPHANS the oldest is reset."""
        socket.orphan = True
        if self.sockets.get(socket.key) is not socket:
            return
        self._orphans[socket] = None
        if len(self._orphans) > MOST_ORPHANS:
            oldest, _ = self._orphans.popitem(last=False)
            oldest.abort(now)
        self.touch(socket)

    def forget_listener(self, listener: Listener, now: int) -> None:
        """Accept no more; half-open connections are reset."""
        self._listeners.pop((listener.address, listener.port), None)
        for socket in list(listener.half_open):
            socket.abort(now)

    def local_ports(self) -> set[int]:
        """Return the ports of connections, of what is left of some, and of listeners."""
        ports = {port for _, port in self._listeners} | self.time_wait.local_ports()
        ports.update(socket.local_port for socket in self.sockets.values())
        return ports


def key_of(route: Route, port: int, remote_port: int) -> bytes:
    """Return the name of a connection as it lies in the packets that arrive for it."""
    ports = remote_port.to_bytes(2, "big") + port.to_bytes(2, "big")
    return route.destination + route.source + ports


def flow_of(route: Route, port: int, remote_port: int) -> bytes:
    """Return a connection's name as secrets are drawn for it: our end first."""
    ours, theirs = port.to_bytes(2, "big"), remote_port.to_bytes(2, "big")
    return route.source + ours + route.destination + theirs
