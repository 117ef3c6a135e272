"""Ports that the stack takes from the kernel, where both share the tunnel's addresses.

Beside a TUN the kernel owns every port. One that the stack wants is bound by a kernel socket that
nobody uses: the kernel refuses it where it is in use, refuses it to everybody else from then on,
and chooses a free one where any will do. Then the engine is told to bring its packets here.
"""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Callable
from typing import Final

from tunnel.netstack.ip import ICMP, TCP, UDP
from tunnel.primitives import EngineError
from tunnel.provider import StackPort

MOST: Final = 8192
_TRIES: Final = 8
_KINDS: Final = {TCP: socket.SOCK_STREAM, UDP: socket.SOCK_DGRAM}
_NAMES: Final = {TCP: "TCP", UDP: "UDP"}


class ReservedPorts:
    """The ports that one stack holds."""

    def __init__(self, claims: StackPort) -> None:
        self._claims = claims
        self._held: dict[tuple[int, int], socket.socket] = {}
        self._any: list[int] = []  # TCP ports for connections that leave
        self._identifier: int | None = None

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
        holder = _bind(protocol, port)
        number: int = holder.getsockname()[1]
        try:
            self._claims.claim(protocol, number)
        except BaseException:
            holder.close()
            raise
        self._held[protocol, number] = holder
        return number

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
        holder = self._held.pop((protocol, port), None)
        if holder is not None:
            if protocol == TCP and port in self._any:
                self._any.remove(port)
            self._claims.unclaim(protocol, port)
            holder.close()

    def close(self) -> None:
        """Leave all of them to the kernel."""
        for protocol, port in list(self._held):
            self.give_back(protocol, port)
        if self._identifier is not None:
            self._claims.unclaim(ICMP, self._identifier)
            self._identifier = None


def _bind(protocol: int, port: int) -> socket.socket:
    """Bind a port on every address of the kernel; both versions in one where it can."""
    try:
        holder = socket.socket(socket.AF_INET6, _KINDS[protocol])
        place: tuple[str, int] = ("::", port)
    except OSError:  # no IPv6 here
        holder = socket.socket(socket.AF_INET, _KINDS[protocol])
        place = ("0.0.0.0", port)
    try:
        if holder.family == socket.AF_INET6:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # it never reads
        holder.bind(place)
    except OSError as error:
        holder.close()
        if error.errno == errno.EADDRINUSE:
            words = f"{_NAMES[protocol]} port {port} is in use by another program of this machine"
            raise OSError(errno.EADDRINUSE, f"{words}; choose another port") from error
        raise
    return holder
