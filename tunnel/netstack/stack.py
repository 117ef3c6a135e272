"""The stack: addresses, and everything between IP packets and sockets. Sans I/O.

Whoever owns it hands in packets, or units of them, and the time; sends what `packets_to_send`
gives; hears of sockets from `take_events`, `take_datagrams` and `take_replies`; and calls
`handle_timeout` when `next_deadline` has come. A packet never raises: it is taken, answered or
dropped and counted by reason.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from tunnel.netstack import icmp
from tunnel.netstack.budget import RateLimit
from tunnel.netstack.endpoint import Event
from tunnel.netstack.icmp import Kind, Message
from tunnel.netstack.ip import (
    CE,
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    Outgoing,
    Packet,
    Route,
    flow_key,
    parse,
)
from tunnel.netstack.pathmtu import PathMtu
from tunnel.netstack.ports import Numbers
from tunnel.netstack.reassembly import Reassembly
from tunnel.netstack.rtt import SECOND
from tunnel.netstack.segment import parse as parse_segment
from tunnel.netstack.settings import Settings
from tunnel.netstack.tcp import TcpLayer
from tunnel.netstack.tcpsocket import Listener, Place, TcpSocket
from tunnel.netstack.udp import Received, UdpLayer, UdpSocket, verified

BATCH_BYTES: Final = 1 << 20
_ERRORS_A_SECOND: Final = 1000
_ROUTES: Final = 1024  # ways that are remembered
_ANSWERS: Final = 1024  # packets that may wait to answer packets nobody asked for


class Reply(NamedTuple):
    """An echo reply, or with `error` what the network says of the request."""

    source: bytes
    identifier: int
    sequence: int
    data: bytes
    error: int = 0


class Stack:
    """One host of the tunnel's network, with `addresses` (packed) of both families."""

    def __init__(
        self,
        addresses: Iterable[bytes],
        mtu: int,
        *,
        secret: bytes,
        settings: Settings | None = None,
        memory: int = 64 << 20,
    ) -> None:
        """`secret` is 64 random bytes; `memory` what all receive windows may have, in bytes."""
        self.addresses = tuple(addresses)
        self.mtu = mtu
        self.counters: dict[str, int] = {}
        numbers = Numbers(secret[:32])
        self.tcp = TcpLayer(
            numbers, secret[32:64], settings or Settings(), self._count, memory=memory
        )
        self.udp = UdpLayer(numbers, self.route, self._count)
        self._own = frozenset(self.addresses)
        self._reassembly = Reassembly()
        self._paths = PathMtu()
        self._routes: dict[tuple[bytes | None, bytes], Route] = {}  # a store, not a table
        self._limit = RateLimit(_ERRORS_A_SECOND, SECOND)
        self._outbox: list[Outgoing] = []
        self._replies: list[Reply] = []
        self._now = 0

    def _count(self, reason: str) -> None:
        self.counters[reason] = self.counters.get(reason, 0) + 1

    def configure(self, addresses: Iterable[bytes], mtu: int, now: int) -> None:
        """Go over to other addresses and another MTU; what is open on an old address ends."""
        self.addresses = tuple(addresses)
        self._own = frozenset(self.addresses)
        self._routes.clear()
        self.mtu = mtu
        self.tcp.leave(self._own, now)

    # ---- ways ----

    def source_for(self, destination: bytes) -> bytes:
        """Return our address that has most in common with another. OSError: ENETUNREACH."""
        fitting = [a for a in self.addresses if len(a) == len(destination)]
        if not fitting:
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        there = int.from_bytes(destination, "big")
        return min(fitting, key=lambda a: (int.from_bytes(a, "big") ^ there).bit_length())

    def route(self, source: bytes | None, destination: bytes) -> Route:
        """Return the way to an address. OSError: ENETUNREACH, EADDRNOTAVAIL."""
        mtu = self._paths.get(destination, self.mtu, self._now)
        known = self._routes.get((source, destination))
        if known is not None and known.mtu == mtu:
            return known
        name = source, destination
        if source is None:
            source = self.source_for(destination)
        elif source not in self._own or len(source) != len(destination):
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        if len(self._routes) >= _ROUTES:
            self._routes.clear()
        route = self._routes[name] = Route(source, destination, mtu)
        return route

    # ---- for owners of sockets ----

    def connect(
        self,
        remote: Place,
        now: int,
        *,
        local: Place | None = None,
        settings: Settings | None = None,
    ) -> TcpSocket:
        """Open a TCP connection. OSError as `route` and `TcpLayer.connect`."""
        self._now = now
        route = self.route(local.address or None if local else None, remote.address)
        port = local.port if local else 0
        return self.tcp.connect(route, remote.port, now, local_port=port, settings=settings)

    def listen(self, address: bytes | None, port: int, *, backlog: int = 128) -> Listener:
        """Accept TCP connections. OSError: EADDRINUSE, EADDRNOTAVAIL."""
        self._check_own(address)
        return self.tcp.listen(address, port, backlog=backlog)

    def bind(
        self,
        address: bytes | None,
        port: int,
        remote: Place | None = None,
    ) -> UdpSocket:
        """Return a UDP socket. OSError: EADDRINUSE, EADDRNOTAVAIL."""
        self._check_own(address)
        return self.udp.bind(address, port, remote)

    def _check_own(self, address: bytes | None) -> None:
        if address is not None and address not in self._own:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    def ping(self, destination: bytes, identifier: int, sequence: int, data: bytes) -> None:
        """Send an echo request. OSError: ENETUNREACH, EMSGSIZE."""
        route = self.route(None, destination)
        if len(data) > self.mtu - (28 if route.version == 4 else 48):
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        self._outbox.append(_echo(route, identifier, sequence, data, reply=False))

    def take_events(self) -> list[tuple[TcpSocket, Event]]:
        """Return what happened to TCP connections."""
        return self.tcp.take_events()

    def take_datagrams(self) -> list[Received]:
        """Return the datagrams that came, and errors about those sent."""
        found, self.udp.arrived = self.udp.arrived, []
        return found

    def take_replies(self) -> list[Reply]:
        """Return the echo replies that came, and errors about requests."""
        found, self._replies = self._replies, []
        return found

    # ---- what arrives ----

    def receive(self, data: memoryview, now: int, segment: int = 0) -> None:
        """Take one packet, or one unit of consecutive ones of `segment` payload bytes each.

        Checksums have been verified. The view is not needed after this call.
        """
        self._now = now
        if len(data) >= 40 and data[0] == 0x45 and data[9] == TCP and not data[6] & 0x3F | data[7]:
            total = data[2] << 8 | data[3]
            socket = self.tcp.sockets.get(bytes(data[12:24]))
            if socket is not None and 40 <= total <= len(data):
                unit = parse_segment(data[20:total], congested=data[1] & 3 == CE)
                if unit is not None:
                    socket.connection.receive(unit, now)
                    self.tcp.touch(socket)
                    return
        packet = parse(data)
        if packet is None:
            self._count("ip_malformed")
        elif packet.destination not in self._own:
            self._count("ip_not_ours")
        elif not _sensible(packet.source):
            self._count("ip_bad_source")
        elif packet.fragment is None:
            self._dispatch(packet, now, segment)
        else:
            whole = self._reassembly.add(packet, now)
            if whole is not None:
                self._reassembled(whole, now)

    def _reassembled(self, packet: Packet, now: int) -> None:
        if packet.protocol == UDP and not verified(packet):
            self._count("udp_bad_checksum")
        elif packet.protocol == TCP:
            self._count("tcp_fragmented")  # nobody sends these but to hide something
        else:
            self._dispatch(packet, now, 0)

    def _dispatch(self, packet: Packet, now: int, segment: int) -> None:
        protocol = packet.protocol
        if protocol == TCP:
            unit = parse_segment(packet.payload, congested=packet.ds & 3 == CE)
            if unit is None or len(self._outbox) + len(self.tcp.outbox) > _ANSWERS:
                self._count("tcp_malformed" if unit is None else "answers_full")
            else:
                self.tcp.receive(flow_key(packet), unit, lambda: self._back(packet), now)
        elif protocol == UDP:
            if not self.udp.receive(packet, segment):
                self._count("udp_no_socket")
                self._complain(packet, icmp.port_unreachable, now)
        elif protocol == (ICMP if packet.version == 4 else ICMPV6):
            message = icmp.read(packet)
            if message is not None:
                self._take_message(packet, message, now)
        elif not (packet.version == 6 and protocol == 59):
            self._count("ip_unknown_protocol")
            self._complain(packet, icmp.protocol_unreachable, now)

    def _back(self, packet: Packet) -> Route:
        mtu = self._paths.get(packet.source, self.mtu, self._now)
        return Route(packet.destination, packet.source, mtu)

    def _complain(
        self, packet: Packet, make: Callable[[Route, Packet], Outgoing], now: int
    ) -> None:
        """Answer with an error, at a bounded rate (RFC 4443, section 2.4(f))."""
        if self._limit.allows(now) and len(self._outbox) < _ANSWERS:
            self._outbox.append(make(self._back(packet), packet))

    def _take_message(self, packet: Packet, message: Message, now: int) -> None:
        quote = message.quote
        if message.kind is Kind.ECHO:
            fits = len(packet.whole) <= self.mtu
            if fits and len(self._outbox) < _ANSWERS and self._limit.allows(now):
                self._outbox.append(
                    _echo(self._back(packet), message.identifier, message.sequence,
                          message.data, reply=True)
                )  # fmt: skip
        elif message.kind is Kind.ECHO_REPLY:
            self._hear(Reply(packet.source, message.identifier, message.sequence, message.data))
        elif quote is None or quote.source not in self._own:
            self._count("icmp_not_ours")
        elif message.kind is Kind.TOO_BIG:
            self._take_too_big(quote, message.mtu, now)
        elif quote.protocol == TCP:
            self.tcp.path_error(quote.key, quote.sequence, message.error, now)
        elif quote.protocol == UDP:
            self.udp.path_error(quote, message.error)
        else:
            self._hear(
                Reply(quote.destination, quote.source_port, quote.sequence, b"", message.error)
            )

    def _hear(self, reply: Reply) -> None:
        if len(self._replies) < _ANSWERS:
            self._replies.append(reply)
        else:
            self._count("icmp_replies_full")

    def _take_too_big(self, quote: icmp.Quote, mtu: int, now: int) -> None:
        """RFC 1191 and RFC 8201, believed only where it can concern something that we sent."""
        least = 576 if len(quote.source) == 4 else 1280
        mtu = max(mtu, least)  # what is smaller is a trick, or a router that must fragment
        if mtu >= self.mtu:
            return
        if quote.protocol == TCP:
            if self.tcp.path_size(quote.key, quote.sequence, mtu):
                self._paths.learn(quote.destination, mtu, now)
        elif quote.protocol == UDP:
            peer = Place(quote.destination, quote.destination_port)
            if self.udp.find(quote.source, quote.source_port, peer) is not None:
                self._paths.learn(quote.destination, mtu, now)

    # ---- what leaves ----

    @property
    def eager(self) -> bool:
        """Whether `packets_to_send` may have something now."""
        return bool(self.tcp.eager or self._outbox or self.udp.outbox)

    def packets_to_send(self, now: int, most: int = BATCH_BYTES) -> list[Outgoing]:
        """Return what leaves now, some `most` bytes of it; call again until there is nothing."""
        self._now = now
        out = self._outbox + self.udp.outbox
        self._outbox, self.udp.outbox = [], []
        self.tcp.packets_to_send(now, out, most)
        return out

    # ---- time ----

    def next_deadline(self) -> int | None:
        """When `handle_timeout` is due (ns); None where nothing is waited for."""
        due, other = self.tcp.next_deadline(), self._reassembly.next_deadline()
        if due is None or other is None:
            return other if due is None else due
        return min(due, other)

    def handle_timeout(self, now: int) -> None:
        """Do what is due by now."""
        self._now = now
        self.tcp.handle_timeout(now)
        for late in self._reassembly.expire(now):
            self._count("reassembly_timed_out")
            if late.first is not None:
                self._complain(late.first, icmp.reassembly_timed_out, now)


def _echo(route: Route, identifier: int, sequence: int, data: bytes, *, reply: bool) -> Outgoing:
    body = icmp.echo(route, identifier, sequence, data, reply=reply)
    protocol = ICMP if route.version == 4 else ICMPV6
    return Outgoing(route.header(protocol, len(body), identification=0), body)


def _sensible(source: bytes) -> bool:
    """Whether an address can be somebody's: not unspecified, multicast, broadcast, loopback."""
    if len(source) == 4:
        return 0 < source[0] < 224 and source[0] != 127
    return source[0] != 0xFF and source[:15] != bytes(15)
