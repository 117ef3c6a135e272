"""Accepting TCP connections: listeners, half-open connections, and cookies beyond the backlog."""

from __future__ import annotations

import errno
import os

from tunnel.netstack.cookies import VALID, Offer
from tunnel.netstack.ip import Route
from tunnel.netstack.segment import ACK, RST, SYN, Segment
from tunnel.netstack.settings import Settings
from tunnel.netstack.tcpsocket import Listener
from tunnel.netstack.tcptable import TcpTable, flow_of


class TcpListening(TcpTable):
    """A table whose ports can be listened on."""

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
            words = f"TCP port {port} of the tunnel: {os.strerror(errno.EADDRINUSE)}"
            raise OSError(errno.EADDRINUSE, words)
        listener = Listener(self, address, port, backlog, settings or self.settings)
        self._listeners[address, port] = listener
        return listener

    def _open(self, listener: Listener, route: Route, segment: Segment, now: int) -> bool:
        """A segment for a listener; False where it deserves a reset."""
        flags = segment.flags & (SYN | ACK | RST)
        ports = segment.destination_port, segment.source_port
        if flags == RST or flags == RST | ACK:
            return True
        flow = flow_of(route, *ports)
        if flags == SYN:
            if len(listener.half_open) >= listener.backlog:
                self._count("tcp_syn_cookies")
                listener.cookies_until = now + VALID
                offer = self._offer(listener, route, *ports)
                self._say(route, self._cookies.answer(flow, segment, offer, now))
                return True
            socket = self._make(route, *ports, listener.settings, now)
            socket.listener = listener
            listener.half_open[socket] = None
            socket.connection.listen()
            socket.connection.receive(segment, now)
            self.touch(socket)
            return True
        if flags != ACK or not listener.cookies_until or now > listener.cookies_until:
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
        flow = flow_of(route, port, remote_port)
        return Offer(
            settings.segment,
            settings.window_shift if settings.scaling else None,
            settings.selective,
            settings.receive_buffer,
            self._numbers.clock_offset(flow),
        )
