"""AdvertWatch: listens to the routers' advertisements, and asks for them where they matter.

Where no raw socket can be had (no CAP_NET_RAW), nothing is heard, and a router is taken for that of
an address only where both are in one prefix.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address, IPv6Network

from tunnel.policy.advert import (
    HOP_LIMIT,
    ROUTER_ADVERTISEMENT,
    SOLICITATION,
    Adverts,
    parse,
)

_ICMP6_FILTER = 1
_ALL_ROUTERS = "ff02::2"
_READ_SIZE = 4096
_PACKET_INFO = struct.Struct("=16sI")
_INT = struct.Struct("=i")


class AdvertWatch:
    """Calls `changed` when routers advertise other prefixes than before."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._adverts = Adverts()
        self._asked: set[int] = set()
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Begin to listen, on the running loop and in the calling thread's network namespace."""
        with contextlib.suppress(OSError):
            kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            self._socket = socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6)
            block = bytearray(b"\xff" * 32)  # a bit a type, set for those that are not wanted
            block[ROUTER_ADVERTISEMENT // 8] &= ~(1 << ROUTER_ADVERTISEMENT % 8)
            self._socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, bytes(block))
            for option in (socket.IPV6_RECVPKTINFO, socket.IPV6_RECVHOPLIMIT):
                self._socket.setsockopt(socket.IPPROTO_IPV6, option, 1)
            hops = socket.IPV6_MULTICAST_HOPS
            self._socket.setsockopt(socket.IPPROTO_IPV6, hops, HOP_LIMIT)
            asyncio.get_running_loop().add_reader(self._socket, self._readable)

    def close(self) -> None:
        """Stop listening; safe to call again."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def prefixes(self, index: int) -> tuple[tuple[IPv6Address, IPv6Network], ...]:
        """Return the (router, prefix) pairs that are valid on a link now."""
        return self._adverts.prefixes(index, asyncio.get_running_loop().time())

    def ask(self, indices: Iterable[int], present: frozenset[int]) -> None:
        """Solicit advertisements on links where there are several routers, once each."""
        self._adverts.keep(present)
        self._asked &= present
        for index in indices:
            if index not in self._asked and self._socket is not None:
                self._asked.add(index)
                with contextlib.suppress(OSError):
                    self._socket.sendto(SOLICITATION, (_ALL_ROUTERS, 0, 0, index))

    def _readable(self) -> None:
        told = False
        with contextlib.suppress(OSError):
            while self._socket is not None:
                data, ancillary, _, source = self._socket.recvmsg(_READ_SIZE, 256)
                said = {kind: value for level, kind, value in ancillary if level == 41}
                info, hops = said.get(socket.IPV6_PKTINFO), said.get(socket.IPV6_HOPLIMIT)
                router = IPv6Address(source[0].partition("%")[0])
                if not info or not hops or _INT.unpack(hops)[0] != HOP_LIMIT:
                    continue
                advert = parse(data)
                if advert is not None and router.is_link_local:
                    _, index = _PACKET_INFO.unpack(info)
                    now = asyncio.get_running_loop().time()
                    told |= self._adverts.hear(index, router, advert, now)
        if told:
            self._changed()
