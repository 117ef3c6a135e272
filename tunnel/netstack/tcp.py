"""All TCP connections of a stack: who a segment is for, whose turn it is, what becomes of the dead.

A connection that something happened to is *busy* until it has said what follows from it. So the
cost of a round is that of the busy ones, however many there are; deadlines wait in one heap.

An owner that closes its socket leaves an *orphan*, which finishes in the background as in any
kernel: unread or late data resets the peer (RFC 9293, section 3.6.1), FIN-WAIT-2 has an end.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tunnel.netstack.budget import Pool, RateLimit
from tunnel.netstack.connection import Connection, reset_for
from tunnel.netstack.cookies import VALID, Cookies, Offer
from tunnel.netstack.endpoint import Event, EventKind, Reason
from tunnel.netstack.ip import ECT0, TCP, Outgoing, Route
from tunnel.netstack.ports import Numbers
from tunnel.netstack.rtt import SECOND
from tunnel.netstack.segment import Flag, Segment, render_header
from tunnel.netstack.sequence import unwrap
from tunnel.netstack.settings import Settings
from tunnel.netstack.states import State
from tunnel.netstack.tcpsocket import Listener, TcpSocket
from tunnel.netstack.timers import Timers
from tunnel.netstack.timewait import TimeWait, remnant_of

_SYN, _ACK, _RST = int(Flag.SYN), int(Flag.ACK), int(Flag.RST)
_CHECKSUM: Final = 16  # the field's offset in the header
_FIN_WAIT: Final = 60 * SECOND
MOST_ORPHANS: Final = 8192


class TcpLayer:
    """Connections and listeners. `send` takes what leaves at once."""

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
        self._orphans: dict[TcpSocket, None] = {}
        self._pool = Pool(memory)
        self._limit = RateLimit(1000, SECOND)
        self._sized: dict[tuple[int, int, Settings], Settings] = {}

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
            key = _key(route, port, remote_port)
            remnant = self.time_wait.get(key)
            if remnant is not None and not remnant.may_be_reopened(now):
                return False
            return key not in self.sockets and not self._listens(route.source, port)

        if local_port:
            port: int | None = local_port if free(local_port) else None
            code = errno.EADDRINUSE
        else:
            port = self._numbers.port(ends + there, free)
            code = errno.EADDRNOTAVAIL
        if port is None:
            raise OSError(code, os.strerror(code))
        socket = self._make(route, port, remote_port, settings or self.settings, now)
        socket.connection.connect(now)
        self.touch(socket)
        return socket

    def _make(
        self, route: Route, port: int, remote_port: int, settings: Settings, now: int,
        iss: int | None = None,
    ) -> TcpSocket:  # fmt: skip
        key = _key(route, port, remote_port)
        flow = route.source + port.to_bytes(2, "big") + route.destination
        flow += remote_port.to_bytes(2, "big")
        if iss is None:
            iss = self._numbers.sequence(flow, now)
            old = self.time_wait.take(key)
            if old is not None and (iss - old.sent) & 0x80000000:
                iss = (old.sent + 0x20000) & 0xFFFFFFFF  # RFC 9293, section 3.4.1
        connection = Connection(
            port,
            remote_port,
            iss=iss,
            settings=self._sized_for(settings, route),
            clock_offset=self._numbers.clock_offset(flow),
            pool=self._pool,
            limit=self._limit,
        )
        socket = TcpSocket(self, connection, key, route, port, remote_port)
        self.sockets[key] = socket
        return socket

    def _sized_for(self, settings: Settings, route: Route) -> Settings:
        """Return the settings with the segment size that fits the route."""
        known = (route.version, route.mtu, settings)
        found = self._sized.get(known)
        if found is None:
            if len(self._sized) > 256:
                self._sized.clear()
            overhead, least = (40, 536) if route.version == 4 else (60, 1220)
            found = replace(settings, segment=max(route.mtu - overhead, 88), peer_segment=least)
            self._sized[known] = found
        return found

    def listen(
        self, address: bytes | None, port: int, *, backlog: int = 128,
        settings: Settings | None = None,
    ) -> Listener:  # fmt: skip
        """Accept connections to a port of one address, or of all. OSError: EADDRINUSE."""
        if port == 0:
            ours = {s.local_port for s in self.sockets.values()}
            ours |= {there for _, there in self._listeners}
            port = self._numbers.port(b"listen", lambda p: p not in ours) or 0
        taken = not port or any(
            there == port and (address is None or where is None or where == address)
            for where, there in self._listeners
        )
        if taken or any(s.local_port == port and s.listener is None for s in self.sockets.values()):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        listener = Listener(self, address, port, backlog, settings or self.settings)
        self._listeners[address, port] = listener
        return listener

    def forget_listener(self, listener: Listener) -> None:
        """Accept no more; half-open connections are dropped."""
        self._listeners.pop((listener.address, listener.port), None)
        for socket in list(listener.half_open):
            self._drop(socket)

    def _listens(self, address: bytes, port: int) -> Listener | None:
        return self._listeners.get((address, port)) or self._listeners.get((None, port))

    # ---- what arrives ----

    def receive(self, key: bytes, segment: Segment, route: Callable[[], Route], now: int) -> None:
        """Take a segment. `key` is its flow's; `route` makes the way back, when it is needed."""
        socket = self.sockets.get(key)
        if socket is not None:
            socket.connection.receive(segment, now)
            self._busy[socket] = None
            return
        remnant = self.time_wait.get(key)
        if remnant is not None:
            if segment.flags & (_SYN | _ACK | _RST) != _SYN or not remnant.gives_way_to(segment):
                answer = self.time_wait.answer(key, segment, now)
                if answer is not None:
                    self._say(remnant.route, answer)
                return
            if self._listens(remnant.route.source, segment.destination_port) is None:
                return
        back = route()
        listener = self._listens(back.source, segment.destination_port)
        if listener is None or not self._open(listener, back, segment, now):
            self._count("tcp_no_socket")
            answer = reset_for(segment)
            if answer is not None:
                self._say(back, answer)

    def _open(self, listener: Listener, route: Route, segment: Segment, now: int) -> bool:
        """A segment for a listener; False where it deserves a reset."""
        flags = segment.flags & (_SYN | _ACK | _RST)
        ports = segment.destination_port, segment.source_port
        if flags == _RST or flags == _RST | _ACK:
            return True
        flow = route.destination + route.source + ports[0].to_bytes(2, "big")
        flow += ports[1].to_bytes(2, "big")
        if flags == _SYN:
            if len(listener.half_open) >= listener.backlog:
                self._count("tcp_syn_cookies")
                listener.cookies_until = now + VALID
                self._say(route, self._cookies.answer(flow, segment, self._offer(listener, route,
                          *ports), now))  # fmt: skip
                return True
            socket = self._make(route, *ports, listener.settings, now)
            socket.listener = listener
            listener.half_open[socket] = None
            socket.connection.listen()
            socket.connection.receive(segment, now)
            self.touch(socket)
            return True
        if flags != _ACK or not listener.cookies_until or now > listener.cookies_until:
            return False
        opened = self._cookies.open_(flow, segment, now)
        if opened is None:
            return False
        iss, syn = opened
        socket = self._make(route, *ports, listener.settings, now, iss)
        socket.listener = listener
        socket.connection.listen()
        socket.connection.receive(syn, now)
        socket.connection.segments_to_send(now)  # the SYN,ACK left as a cookie
        socket.connection.receive(segment, now)
        self.touch(socket)
        return True

    def _offer(self, listener: Listener, route: Route, port: int, remote_port: int) -> Offer:
        settings = self._sized_for(listener.settings, route)
        flow = route.source + port.to_bytes(2, "big") + route.destination
        flow += remote_port.to_bytes(2, "big")
        return Offer(
            settings.segment,
            settings.window_shift if settings.scaling else None,
            settings.selective,
            settings.receive_buffer,
            self._numbers.clock_offset(flow),
        )

    # ---- what leaves ----

    def touch(self, socket: TcpSocket) -> None:
        """Something happened to a connection: it gets its turn."""
        self._busy[socket] = None

    def _say(self, route: Route, segment: Segment) -> None:
        self.outbox.append(_render(route, segment))

    def take_events(self) -> list[tuple[TcpSocket, Event]]:
        """Return what has happened since the last call, for the owners."""
        found, self._events = self._events, []
        for socket in self._busy:
            for event in socket.connection.take_events():
                if event.kind is EventKind.ESTABLISHED and socket.listener is not None:
                    if socket.listener.closed:
                        continue
                    socket.listener.half_open.pop(socket, None)
                found.append((socket, event))
        return found

    def _keep_events(self, socket: TcpSocket) -> None:
        self._events += [(socket, event) for event in socket.connection.take_events()]

    def packets_to_send(self, now: int, out: list[Outgoing], most: int) -> None:
        """Let busy connections speak until `most` payload bytes are there."""
        if self.outbox:
            out += self.outbox
            self.outbox = []
        size = 0
        busy = self._busy
        while busy and size < most:
            socket = next(iter(busy))
            del busy[socket]
            connection, route = socket.connection, socket.route
            for segment in connection.segments_to_send(now):
                size += len(segment.payload)
                out.append(_render(route, segment))
            self._settle(socket, now)

    def _settle(self, socket: TcpSocket, now: int) -> None:
        """After a connection's turn: set its timer, or see it off."""
        connection = socket.connection
        state = connection.state
        if socket.orphan and state is not State.CLOSED and connection.readable:
            connection.abort(now)  # nobody will read what came: say so
            self.touch(socket)
            return
        if state is State.CLOSED:
            self._drop(socket)
        elif state is State.TIME_WAIT:
            self._condense(socket, now)
        else:
            due = connection.next_deadline()
            if socket.orphan and state is State.FIN_WAIT_2:
                socket.fin_wait_until = socket.fin_wait_until or now + _FIN_WAIT
                due = min(due or socket.fin_wait_until, socket.fin_wait_until)
            self.timers.set(socket, due)

    def _condense(self, socket: TcpSocket, now: int) -> None:
        """Replace a connection in TIME-WAIT by what is left of it."""
        self.time_wait.add(socket.key, remnant_of(socket.connection, socket.route, now))
        self._drop(socket)
        receiver = socket.connection.receiver
        if receiver is not None:
            receiver.release()
        self._events.append((socket, Event(EventKind.CLOSED, Reason.FINISHED)))

    def _drop(self, socket: TcpSocket) -> None:
        """Forget a connection; its owner may still read what came."""
        if self.sockets.get(socket.key) is socket:
            del self.sockets[socket.key]
        self._orphans.pop(socket, None)
        if socket.listener is not None:
            socket.listener.half_open.pop(socket, None)
        self.timers.set(socket, None)
        self._keep_events(socket)

    def orphan(self, socket: TcpSocket, now: int) -> None:
        """The owner has closed. Beyond MOST_ORPHANS the oldest is reset."""
        socket.orphan = True
        if self.sockets.get(socket.key) is not socket:
            return
        self._orphans[socket] = None
        if len(self._orphans) > MOST_ORPHANS:
            oldest = next(iter(self._orphans))
            del self._orphans[oldest]
            oldest.abort(now)
        self.touch(socket)

    # ---- time ----

    def next_deadline(self) -> int | None:
        """When `handle_timeout` has something to do."""
        due = self.timers.next_deadline()
        waiting = self.time_wait.next_deadline()
        if due is None or waiting is None:
            return waiting if due is None else due
        return min(due, waiting)

    def handle_timeout(self, now: int) -> None:
        """Do what is due; those concerned are busy then."""
        self.time_wait.expire(now)
        for socket in self.timers.expired(now):
            if socket.fin_wait_until and now >= socket.fin_wait_until:
                socket.connection.abort(now)
            else:
                socket.connection.handle_timeout(now)
            self.touch(socket)

    # ---- what the network says ----

    def path_error(self, key: bytes, sequence: int, error: int, now: int) -> None:
        """An ICMP error about a segment of ours (RFC 1122, section 4.2.3.9; RFC 5927, section 4).

        One that opens is told; an established connection goes on, and remembers why it suffers.
        """
        socket = self._concerned(key, sequence)
        if socket is None:
            return
        socket.trouble = error
        if socket.connection.state in (State.SYN_SENT, State.SYN_RECEIVED):
            if socket.connection.state is State.SYN_SENT:
                socket.connection.abort(now)
            self.touch(socket)

    def path_size(self, key: bytes, sequence: int, mtu: int) -> bool:
        """An ICMP message that a segment was too big; whether it can be true (RFC 5927, 7.2)."""
        socket = self._concerned(key, sequence)
        if socket is None:
            return False
        socket.connection.path_segment(mtu - (40 if socket.route.version == 4 else 60))
        self.touch(socket)
        return True

    def _concerned(self, key: bytes, sequence: int) -> TcpSocket | None:
        socket = self.sockets.get(key)
        if socket is None:
            return None
        sender = socket.connection.sender
        inside = sender.una <= unwrap(sequence, sender.una) < max(sender.nxt, sender.una + 1)
        return socket if inside else None


def _key(route: Route, port: int, remote_port: int) -> bytes:
    """Return the name of a connection as it lies in the packets that arrive for it."""
    ports = remote_port.to_bytes(2, "big") + port.to_bytes(2, "big")
    return route.destination + route.source + ports


def _render(route: Route, segment: Segment) -> Outgoing:
    return route.transport(
        TCP,
        render_header(segment),
        segment.payload,
        _CHECKSUM,
        ds=ECT0 if segment.capable else 0,
        segment=segment.cut,
    )
