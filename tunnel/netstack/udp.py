"""UDP sockets (RFC 768, RFC 8085): who a datagram is for, and what errors concern whom."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

from tunnel.netstack.fragments import cut
from tunnel.netstack.icmp import Quote
from tunnel.netstack.ip import UDP, Outgoing, Packet, Route, checksum, total_of
from tunnel.netstack.ports import Numbers
from tunnel.netstack.tcpsocket import Place

_HEADER: Final = 8
_CHECKSUM: Final = 6


class UdpSocket:
    """A bound port; `remote` restricts it to one peer. `address` None is every address of ours."""

    __slots__ = ("_layer", "address", "closed", "owner", "port", "remote")

    def __init__(
        self, layer: UdpLayer, address: bytes | None, port: int, remote: Place | None
    ) -> None:
        self._layer = layer
        self.address = address
        self.port = port
        self.remote = remote
        self.owner: Any = None
        self.closed = False

    def send(self, data: bytes | bytearray | memoryview, to: Place | None = None) -> None:
        """Send a datagram. OSError: EMSGSIZE, ENETUNREACH, EDESTADDRREQ."""
        place = self.remote or to
        if place is None:
            raise OSError(errno.EDESTADDRREQ, os.strerror(errno.EDESTADDRREQ))
        self._layer.send(self, data, place)

    def close(self) -> None:
        """Give the port back."""
        self.closed = True
        self._layer.forget(self)


class Received(NamedTuple):
    """A datagram for a socket, or with `error` what the network says of one that it sent."""

    socket: UdpSocket
    data: bytes
    source: Place
    error: int = 0


class UdpLayer:
    """All sockets. `route` makes the way to an address from one of ours, or the best of ours."""

    def __init__(
        self, numbers: Numbers, route: Callable[[bytes | None, bytes], Route],
        count: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.outbox: list[Outgoing] = []
        self.arrived: list[Received] = []
        self._numbers = numbers
        self._route = route
        self._count = count
        self._bound: dict[tuple[bytes | None, int, Place | None], UdpSocket] = {}
        self._users: dict[int, int] = {}  # sockets a port
        self._identification = 0

    def bind(
        self,
        address: bytes | None = None,
        port: int = 0,
        remote: Place | None = None,
    ) -> UdpSocket:
        """Take a port, 0 for any. OSError: EADDRINUSE, EADDRNOTAVAIL."""
        if port == 0:
            found = self._numbers.port(
                b"udp" + (b"" if remote is None else remote.address),
                lambda p: p not in self._users,
            )
            if found is None:
                raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
            port = found
        elif self._taken(address, port, remote):
            words = f"UDP port {port} of the tunnel: {os.strerror(errno.EADDRINUSE)}"
            raise OSError(errno.EADDRINUSE, words)
        socket = UdpSocket(self, address, port, remote)
        self._bound[address, port, remote] = socket
        self._users[port] = self._users.get(port, 0) + 1
        return socket

    def _taken(self, address: bytes | None, port: int, remote: Place | None) -> bool:
        if port not in self._users:
            return False
        return any(
            there == port and peer == remote and (a is None or address is None or a == address)
            for a, there, peer in self._bound
        )

    def forget(self, socket: UdpSocket) -> None:
        """Forget a socket."""
        if self._bound.pop((socket.address, socket.port, socket.remote), None) is None:
            return
        self._users[socket.port] -= 1
        if not self._users[socket.port]:
            del self._users[socket.port]

    def local_ports(self) -> Collection[int]:
        """Return the ports that sockets have."""
        return self._users.keys()

    # ---- what leaves ----

    def send(self, socket: UdpSocket, data: bytes | bytearray | memoryview, to: Place) -> None:
        """Send one datagram, in fragments where it is larger than the route's MTU."""
        route = self._route(socket.address, to.address)
        length = _HEADER + len(data)
        if length > 65_535 - (20 if route.version == 4 else 0):
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        header = b"".join(
            (socket.port.to_bytes(2, "big"), to.port.to_bytes(2, "big"),
             length.to_bytes(2, "big"), b"\0\0")
        )  # fmt: skip
        room = route.mtu - (20 if route.version == 4 else 40)
        self._identification = (self._identification + 1) & 0xFFFFFFFF
        if length <= room:
            self.outbox.append(
                route.transport(
                    UDP,
                    header,
                    bytes(data),
                    _CHECKSUM,
                    identification=self._identification & 0xFFFF,
                )
            )
            return
        whole = header + bytes(data)
        sum_ = checksum(whole, route.pseudo(UDP, length)) or 0xFFFF
        whole = whole[:_CHECKSUM] + sum_.to_bytes(2, "big") + whole[_HEADER:]
        self.outbox += cut(route, UDP, whole, self._identification)

    # ---- what arrives ----

    def find(self, ours: bytes, port: int, source: Place) -> UdpSocket | None:
        """Return the socket of a datagram: connected ones first, then the narrower binding."""
        bound = self._bound
        return (
            bound.get((ours, port, source))
            or bound.get((None, port, source))
            or bound.get((ours, port, None))
            or bound.get((None, port, None))
        )

    def receive(self, packet: Packet, segment: int = 0) -> bool:
        """Take a datagram, or a unit of them; False where nobody has the port."""
        data = packet.payload
        if len(data) < _HEADER:
            self._count("udp_malformed")
            return True
        source = Place(packet.source, data[0] << 8 | data[1])
        length = data[4] << 8 | data[5]
        if (not segment and not _HEADER <= length <= len(data)) or source.port == 0:
            self._count("udp_malformed")
            return True
        socket = self.find(packet.destination, data[2] << 8 | data[3], source)
        if socket is None:
            return False
        if not segment:
            self.arrived.append(Received(socket, bytes(data[_HEADER:length]), source))
            return True
        for start in range(_HEADER, len(data), segment):
            piece = bytes(data[start : start + segment])
            self.arrived.append(Received(socket, piece, source))
        return True

    def path_error(self, quote: Quote, error: int) -> None:
        """An error about a datagram of ours goes to the socket that sent it."""
        peer = Place(quote.destination, quote.destination_port)
        socket = self.find(quote.source, quote.source_port, peer)
        if socket is not None:
            self.arrived.append(Received(socket, b"", peer, error))


def verified(packet: Packet) -> bool:
    """Whether the checksum of a datagram that came in fragments is right."""
    data = packet.payload
    if len(data) < _HEADER:
        return True
    if data[6] == 0 and data[7] == 0:
        return packet.version == 4
    base = total_of(UDP + len(data))
    return checksum(packet.source + packet.destination + bytes(data), base) == 0
