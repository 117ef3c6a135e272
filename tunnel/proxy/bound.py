"""Sockets of the kernel that are bound to a port of a host, of all its addresses."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any, Final

TCP: Final = socket.SOCK_STREAM
UDP: Final = socket.SOCK_DGRAM
_BACKLOG: Final = 1024
"""Clients that may wait to be accepted; asyncio's 100 are fewer than a proxy may meet at once."""
_NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


async def bound(kind: socket.SocketKind, host: str | None, port: int) -> list[socket.socket]:
    """Bind a port of each address of a host, of the first one for UDP; TCP listens, too.

    None is all addresses. Of a name's addresses those that this machine has are enough: `localhost`
    often has one too many. Raises OSError, and leaves nothing open then.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, place in dict.fromkeys((entry[0], entry[4]) for entry in found):
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
    return sockets


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
            one.listen(_BACKLOG)  # else another one could bind it, too
    except BaseException:
        one.close()
        raise
    return one
