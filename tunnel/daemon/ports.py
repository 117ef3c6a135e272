"""Ports of this machine at which proxies and forwards listen, taken before there is a tunnel.

One that cannot be had ends tunneld before it has made anything, and nobody else gets one that is
taken. Who comes before the tunnel is up waits in the kernel's queue.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any, Final

from tunnel.proxy.dialer import BACKLOG, Machine, Server, widen
from tunnel.proxy.listening import Listening

TCP: Final = socket.SOCK_STREAM
UDP: Final = socket.SOCK_DGRAM
_NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class OwnPorts(Machine):
    """The machine's own network, with ports that were taken before they are listened on."""

    def __init__(self) -> None:
        self._taken: dict[tuple[socket.SocketKind, str, int], list[socket.socket]] = {}

    async def take(self, kind: socket.SocketKind, host: str, port: int) -> None:
        """Take a port of each address of a host, of the first one for UDP. Raises OSError.

        Of a name's addresses those that this machine has are enough: `localhost` often has one too
        many.
        """
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=kind)
        places = list(dict.fromkeys((family, place) for family, _, _, _, place in found))
        sockets: list[socket.socket] = []
        missing: OSError | None = None
        try:
            for family, place in places:
                try:
                    sockets.append(_bound(kind, family, place))
                except OSError as error:
                    if error.errno not in _NOT_HERE:
                        raise
                    missing = error
                if sockets and kind is UDP:
                    break
            if missing is not None and not sockets:
                raise missing
        except BaseException:
            for one in sockets:
                one.close()
            raise
        self._taken[kind, host, port] = sockets

    def let_go(self) -> None:
        """Give back what is not listened on."""
        while self._taken:
            for one in self._taken.popitem()[1]:
                one.close()

    async def _of(self, kind: socket.SocketKind, host: str, port: int) -> list[socket.socket]:
        if (kind, host, port) not in self._taken:
            await self.take(kind, host, port)
        return self._taken.pop((kind, host, port))

    async def create_server(
        self, protocol_factory: Callable[[], Any], host: str | None, port: int
    ) -> Server:
        """Listen, with a protocol for each client."""
        return Listening(protocol_factory, await self._of(TCP, host or "", port))

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], Any],
        local_addr: tuple[str, int] | None = None,
        remote_addr: tuple[str, int] | None = None,
    ) -> tuple[asyncio.DatagramTransport, Any]:
        """Open a UDP socket."""
        if local_addr is None or remote_addr is not None:
            return await super().create_datagram_endpoint(protocol_factory, local_addr, remote_addr)
        loop = asyncio.get_running_loop()
        (bound,) = await self._of(UDP, *local_addr)
        made = await loop.create_datagram_endpoint(protocol_factory, sock=bound)
        widen(made[0])
        return made


def _bound(kind: socket.SocketKind, family: int, place: Any) -> socket.socket:
    one = socket.socket(family, kind)
    try:  # by ourselves: uvloop does not say why it could not
        one.setblocking(False)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind is TCP:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(place)
        if kind is TCP:
            one.listen(BACKLOG)  # else another one could bind it, too
    except BaseException:
        one.close()
        raise
    return one
