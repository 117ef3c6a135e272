"""Ports that the stack takes from the kernel, where both share the tunnel's addresses.

Beside a TUN the kernel owns every port of the tunnel's addresses. One that the stack wants is bound
there by kernel sockets that nobody uses: the kernel refuses it where it is in use, refuses it to
everybody else from then on, and chooses a free one where any will do. Then the engine is told to
bring its packets here. Other addresses of the machine are left alone: what listens on 127.0.0.1 may
well be what the stack exposes at the same port. The addresses need not be there yet.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
from collections.abc import Callable, Collection, Iterable
from ipaddress import ip_address
from typing import Final

from tunnel.netstack.aio.names import text
from tunnel.netstack.ip import ICMP, TCP, UDP
from tunnel.primitives import EngineError
from tunnel.provider import StackPort

MOST: Final = 8192
SPARE: Final = 64
"""TCP ports that are kept, unused, for connections that leave."""
_TRIES: Final = 8
_KINDS: Final = {TCP: socket.SOCK_STREAM, UDP: socket.SOCK_DGRAM}
_NAMES: Final = {TCP: "TCP", UDP: "UDP"}
_FREEBIND: Final = {
    socket.AF_INET: (socket.IPPROTO_IP, 15),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 78),
}

Held = dict[bytes, socket.socket]  # by address


class ReservedPorts:
    """The ports that one stack holds on its addresses."""

    def __init__(self, claims: StackPort, addresses: Iterable[bytes]) -> None:
        self._claims = claims
        self._addresses = _own(addresses)
        self._held: dict[tuple[int, int], Held] = {}
        self._any: list[int] = []  # TCP ports for connections that leave
        self._identifier: int | None = None

    def follow(self, addresses: Iterable[bytes]) -> None:
        """Go over to other addresses. What the kernel uses on a new one already stays there."""
        self._addresses = _own(addresses)
        for (protocol, port), holders in self._held.items():
            for gone in holders.keys() - set(self._addresses):
                holders.pop(gone).close()
            for address in self._addresses:
                if address not in holders:
                    with contextlib.suppress(OSError):
                        holders[address] = _bind(protocol, address, port)

    def identifier(self) -> int:
        """Claim an echo identifier."""
        for _ in range(_TRIES):
            wanted = random.SystemRandom().randrange(1 << 16)
            try:
                self._claims.claim(ICMP, wanted)
            except EngineError as error:
                if error.errno != errno.EEXIST:
                    raise
            else:
                self._identifier = wanted
                return wanted
        raise OSError(errno.EADDRINUSE, "no echo identifier is free")

    def take(self, protocol: int, port: int) -> int:
        """Take a port from the kernel, 0 for any. Raises OSError, EADDRINUSE for a collision."""
        if port and (protocol, port) in self._held:
            return port
        if len(self._held) >= MOST:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        number, holders = self._bind_all(protocol, port)
        try:
            self._claims.claim(protocol, number)
        except BaseException:
            _close(holders)
            raise
        self._held[protocol, number] = holders
        return number

    def _bind_all(self, protocol: int, port: int) -> tuple[int, Held]:
        """Bind a port, 0 for any, on every address."""
        for left in reversed(range(_TRIES)):
            holders: Held = {}
            number = port
            try:
                for address in self._addresses:
                    holders[address] = _bind(protocol, address, number)
                    number = holders[address].getsockname()[1]
            except OSError as error:
                _close(holders)
                if error.errno != errno.EADDRINUSE:
                    raise
                if port or not left:  # else what was free on one address was not on the next
                    words = f"{_NAMES[protocol]} port {number} is in use by another program of this"
                    raise OSError(
                        errno.EADDRINUSE, f"{words} machine; choose another port"
                    ) from error
            else:
                if number:
                    return number, holders
                break
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    def outgoing(self, free: Callable[[int], bool]) -> int:
        """Return a TCP port for a connection that leaves: one that is held and free, or another."""
        for port in random.sample(self._any, min(_TRIES, len(self._any))):
            if free(port):
                return port
        if len(self._held) < MOST:
            port = self.take(TCP, 0)
            self._any.append(port)
            return port
        for port in self._any:
            if free(port):
                return port
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    def give_back(self, protocol: int, port: int) -> None:
        """Leave a port to the kernel again."""
        holders = self._held.pop((protocol, port), None)
        if holders is not None:
            if protocol == TCP and port in self._any:
                self._any.remove(port)
            self._claims.unclaim(protocol, port)
            _close(holders)

    def sweep(self, used: dict[int, Collection[int]]) -> None:
        """Leave what is not used any more to the kernel; `used` is by protocol."""
        spare = [port for port in self._any if port not in used[TCP]][:SPARE]
        for protocol, port in list(self._held):
            if port not in used[protocol] and not (protocol == TCP and port in spare):
                self.give_back(protocol, port)

    def close(self) -> None:
        """Leave all of them to the kernel."""
        for protocol, port in list(self._held):
            self.give_back(protocol, port)
        if self._identifier is not None:
            self._claims.unclaim(ICMP, self._identifier)
            self._identifier = None


def _own(addresses: Iterable[bytes]) -> list[bytes]:
    """Leave out what no socket can be bound to: link-local ones need their interface's name, and
    those of a kernel without IPv6 a kernel with it.
    """
    usable = [one for one in addresses if len(one) == 4 or not ip_address(one).is_link_local]
    return [one for one in dict.fromkeys(usable) if len(one) == 4 or socket.has_dualstack_ipv6()]


def _close(holders: Held) -> None:
    for holder in holders.values():
        holder.close()


def _bind(protocol: int, address: bytes, port: int) -> socket.socket:
    """Bind a port of one address, whether the kernel has that yet or not. Raises OSError."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    holder = socket.socket(family, _KINDS[protocol])
    try:
        holder.setsockopt(*_FREEBIND[family], 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # it never reads
        holder.bind((text(address), port))
    except BaseException:
        holder.close()
        raise
    return holder
