"""UDP ASSOCIATE of SOCKS5 (RFC 1928, section 7): datagrams of one client.

Every datagram of the client says where it is for, every one back where it is from. One socket a
family sends for all destinations, so that a peer sees one source port, as of any UDP program.
"""

from __future__ import annotations

import asyncio
import struct
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

from tunnel.errors import TunnelError
from tunnel.proxy.dialer import Dialer
from tunnel.settings import Address

_IPV4, _NAME, _IPV6 = 1, 3, 4
_ANY: Final = {4: "0.0.0.0", 6: "::"}
_NAMES_MOST: Final = 256
_QUESTIONS_MOST: Final = 32


class Association:
    """The datagrams of one client, which is known by the address of its control connection."""

    def __init__(self, network: Dialer, client: str) -> None:
        self._network = network
        self._client = client
        self._place: tuple[Any, ...] | None = None  # the client's, once it has sent something
        self._near: asyncio.DatagramTransport | None = None
        self._far: dict[int, asyncio.DatagramTransport] = {}
        self._names: OrderedDict[str, Address] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self.dropped = 0

    async def open(self, near: str) -> tuple[str, int]:
        """Listen for the client's datagrams on an address; return where. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._near, _ = await loop.create_datagram_endpoint(
            lambda: _Receiver(self._from_client), (near, 0)
        )
        name = self._near.get_extra_info("sockname")
        return name[0], name[1]

    async def aclose(self) -> None:
        """Close all sockets."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for transport in (self._near, *self._far.values()):
            if transport is not None:
                transport.close()

    def _from_client(self, data: bytes, place: tuple[Any, ...]) -> None:
        if place[0] != self._client or (self._place is not None and place != self._place):
            self.dropped += 1  # somebody else on the client's network
            return
        target = _target(data)
        if target is None or len(self._tasks) >= _QUESTIONS_MOST:
            self.dropped += 1
            return
        self._place = place
        host, port, payload = target
        address = self._known(host)
        if address is not None and address.version in self._far:
            self._far[address.version].sendto(payload, (str(address), port))
            return
        task = asyncio.create_task(self._send(host, port, payload))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _known(self, host: str | Address) -> Address | None:
        return self._names.get(host) if isinstance(host, str) else host

    async def _send(self, host: str | Address, port: int, payload: bytes) -> None:
        try:
            address = self._known(host)
            if address is None:
                assert isinstance(host, str)
                address = self._names[host] = (await self._network.lookup(host))[0]
                if len(self._names) > _NAMES_MOST:
                    self._names.popitem(last=False)
            version = address.version
            if version not in self._far:
                transport, _ = await self._network.create_datagram_endpoint(
                    lambda: _Receiver(self._to_client), (_ANY[version], 0)
                )
                if version in self._far:  # another datagram was first
                    transport.close()
                self._far.setdefault(version, transport)
            self._far[version].sendto(payload, (str(address), port))
        except (OSError, TunnelError):
            self.dropped += 1

    def _to_client(self, data: bytes, place: tuple[Any, ...]) -> None:
        if self._near is None or self._place is None:
            return
        address = ip_address(place[0].partition("%")[0])
        kind = _IPV4 if address.version == 4 else _IPV6
        head = bytes([0, 0, 0, kind]) + address.packed + struct.pack("!H", place[1])
        self._near.sendto(head + data, self._place)


class _Receiver(asyncio.DatagramProtocol):
    """Hands datagrams on; errors of single ones are nobody's concern."""

    def __init__(self, received: Callable[[bytes, tuple[Any, ...]], None]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, address: tuple[Any, ...]) -> None:
        self._received(data, address)


def _target(data: bytes) -> tuple[str | IPv4Address | IPv6Address, int, bytes] | None:
    """Return where a datagram of the client is for, and its payload; None for a malformed one."""
    if len(data) < 5 or data[2]:  # a fragment
        return None
    kind, at = data[3], 4
    size = {_IPV4: 4, _IPV6: 16, _NAME: data[4]}.get(kind)
    if size is None:
        return None
    at += kind == _NAME
    if len(data) < at + size + 2 or not size:
        return None
    raw, (port,) = data[at : at + size], struct.unpack_from("!H", data, at + size)
    payload = data[at + size + 2 :]
    if kind != _NAME:
        return ip_address(raw), port, payload
    if not raw.isascii() or not raw.decode().isprintable():
        return None
    name = raw.decode()
    try:
        return ip_address(name), port, payload
    except ValueError:
        return name, port, payload
