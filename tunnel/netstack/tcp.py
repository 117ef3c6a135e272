"""All TCP connections of a stack: who a segment is for, whose turn it is, what becomes of the dead.

A connection that something happened to is *busy* until it has said what follows from it. So the
cost of a round is that of the busy ones, however many there are; deadlines wait in one heap.

An owner that closes its socket leaves an *orphan*, which finishes in the background as in any
kernel: unread or late data resets the peer (RFC 9293, section 3.6.1), FIN-WAIT-2 has an end.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection
from typing import Final

from tunnel.netstack.connection import reset_for
from tunnel.netstack.endpoint import Event, EventKind, Reason
from tunnel.netstack.ip import Outgoing, Route
from tunnel.netstack.packet import render
from tunnel.netstack.rtt import SECOND
from tunnel.netstack.segment import ACK, RST, SYN, Segment
from tunnel.netstack.sequence import unwrap
from tunnel.netstack.states import State
from tunnel.netstack.tcplisten import TcpListening
from tunnel.netstack.tcpsocket import TcpSocket
from tunnel.netstack.timewait import remnant_of

_FIN_WAIT: Final = 60 * SECOND


class TcpLayer(TcpListening):
    """TCP of a stack."""

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
            if segment.flags & (SYN | ACK | RST) != SYN or not remnant.gives_way_to(segment):
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

    # ---- what leaves ----

    def take_events(self) -> list[tuple[TcpSocket, Event]]:
        """Return what has happened since the last call, for the owners."""
        for socket in self._busy:
            if socket.connection.events:
                self._collect(socket)
        found, self._events = self._events, []
        return found

    @property
    def eager(self) -> bool:
        """Whether there may be something to send."""
        return bool(self._busy or self.outbox)

    @property
    def ended(self) -> bool:
        """Whether sending has brought about something that owners have not heard of."""
        return bool(self._events)

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
            self._collect(socket)
            connection, route = socket.connection, socket.route
            for segment in connection.segments_to_send(now):
                size += len(segment.payload)
                out.append(render(route, segment))
            self._settle(socket, now)

    def _settle(self, socket: TcpSocket, now: int) -> None:
        """After a connection's turn: set its timer, or see it off."""
        connection = socket.connection
        state = connection.state
        if socket.orphan and state is not State.CLOSED and connection.readable:
            connection.abort(now)  # nobody will read what came: say so
            self.touch(socket)
            return
        if state is State.CLOSED or state is State.LISTEN:  # reset, the latter while half open
            self._drop(socket)
        elif state is State.TIME_WAIT:
            self._condense(socket, now)
        else:
            self._make_room(socket)
            due = connection.next_deadline()
            if socket.orphan and state is State.FIN_WAIT_2:
                socket.fin_wait_until = socket.fin_wait_until or now + _FIN_WAIT
                due = min(due or socket.fin_wait_until, socket.fin_wait_until)
            self.timers.set(socket, due)

    def _make_room(self, socket: TcpSocket) -> None:
        """Let the send buffer hold what the path carries in two round trips, and no more: a writer
        whose peer does not read holds little.
        """
        sender = socket.connection.sender
        buffer = sender.buffer
        recovery = sender.recovery  # what was selected is held only until the holes are filled
        wanted = 2 * min(recovery.control.window, sender.largest_window) + recovery.flight.sacked
        wanted = min(wanted, socket.connection.settings.send_buffer)
        if wanted > buffer.limit:
            buffer.limit += socket.memory.take(wanted - buffer.limit)

    def _condense(self, socket: TcpSocket, now: int) -> None:
        """Replace a connection in TIME-WAIT by what is left of it."""
        self.time_wait.add(socket.key, remnant_of(socket.connection, socket.route, now))
        self._drop(socket)
        receiver = socket.connection.receiver
        if receiver is not None:
            receiver.release()
        self._events.append((socket, Event(EventKind.CLOSED, Reason.FINISHED)))

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

    # ---- changes below ----

    def nudge(self, now: int) -> None:
        """Let every connection show itself, or ask for a sign, now."""
        for socket in self.sockets.values():
            socket.connection.nudge(now)
            self.touch(socket)

    def leave(self, own: Collection[bytes], now: int) -> None:
        """End the connections of addresses that are not ours any more."""
        for socket in list(self.sockets.values()):
            if socket.route.source not in own:
                socket.trouble = errno.EADDRNOTAVAIL
                socket.abort(now)
