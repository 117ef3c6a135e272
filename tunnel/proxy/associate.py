"""UDP ASSOCIATE of SOCKS5 (RFC 1928, section 7): datagrams of one client.

Every datagram of the client says where it is for, every one back where it is from. One socket a
family sends for all destinations, so that a peer sees one source port, as of any UDP program.

A name is asked for again every second while it is in use; the resolver behind keeps its answer for
the time to live, and no longer. Meanwhile the old address is used, and it stays in use while it is
among the answers, since a server that takes turns would tear a flow apart. Where there is no route
to an address the next one is tried.
"""

from __future__ import annotations

import asyncio
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

from tunnel.errors import TunnelError
from tunnel.proxy.dialer import Dialer, widen
from tunnel.settings import Address

_IPV4, _NAME, _IPV6 = 1, 3, 4
_ANY: Final = {4: "0.0.0.0", 6: "::"}
_NAMES_MOST: Final = 256
_WAITING_MOST: Final = 32
"""Datagrams of a name that has no address yet."""
_FRESH_SECONDS: Final = 1.0


@dataclass(slots=True)
class _Name:
    """A name that the client sends to."""

    addresses: Sequence[Address] = ()
    asked: float = float("-inf")
    waiting: list[tuple[int, bytes]] = field(default_factory=list)  # port, payload
    task: asyncio.Task[None] | None = None


class Association:
    """The datagrams of one client, which is known by the address of its control connection.

    `dropped` counts what could not be carried, `fragments` those that were pieces of a datagram.
    """

    def __init__(self, network: Dialer, client: str) -> None:
        self._network = network
        self._client = client
        self._place: tuple[Any, ...] | None = None  # the client's, once it has sent something
        self._near: asyncio.DatagramTransport | None = None
        self._far: dict[int, _Far] = {}
        self._names: OrderedDict[str, _Name] = OrderedDict()
        self._now = asyncio.get_running_loop().time
        self.dropped = 0
        self.fragments = 0

    async def open(self, near: str) -> tuple[str, int]:
        """Listen for the client's datagrams on an address; return where. Raises OSError."""
        error: Exception | None = None
        for version, any_address in _ANY.items():
            try:
                _, self._far[version] = await self._network.create_datagram_endpoint(
                    lambda: _Far(self._to_client), (any_address, 0)
                )
            except (OSError, TunnelError) as failure:
                error = failure  # a network may have one family only
        if not self._far:
            raise error if isinstance(error, OSError) else OSError(str(error))
        loop = asyncio.get_running_loop()
        try:
            self._near, _ = await loop.create_datagram_endpoint(
                lambda: _Near(self._from_client), (near, 0)
            )
        except BaseException:
            await self.aclose()
            raise
        widen(self._near)
        name = self._near.get_extra_info("sockname")
        return name[0], name[1]

    async def carry(self, near: str, opened: Callable[[str, int], None]) -> None:
        """Carry datagrams until cancelled; `opened` hears where they are listened for.

        Raises OSError, as `open`.
        """
        place = await self.open(near)
        try:
            opened(*place)
            await asyncio.get_running_loop().create_future()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close all sockets."""
        tasks = [name.task for name in self._names.values() if name.task is not None]
        self._names.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for transport in (self._near, *(far.transport for far in self._far.values())):
            if transport is not None:
                transport.close()

    # ---- there ----

    def _from_client(self, data: bytes, place: tuple[Any, ...]) -> None:
        if place[0] != self._client or (self._place is not None and place != self._place):
            self.dropped += 1  # somebody else on the client's network
            return
        if len(data) > 2 and data[2]:
            self.fragments += 1
            return
        target = _target(data)
        if target is None:
            self.dropped += 1
            return
        self._place = place
        host, port, payload = target
        if isinstance(host, str):
            self._send_to_name(host, port, payload)
        else:
            self._send((host,), port, payload)

    def _send_to_name(self, host: str, port: int, payload: bytes) -> None:
        name = self._names.get(host)
        if name is None:
            if len(self._names) >= _NAMES_MOST:
                self._forget(next(iter(self._names)))
            name = self._names[host] = _Name()
        self._names.move_to_end(host)
        if name.task is None and self._now() - name.asked >= _FRESH_SECONDS:
            name.task = asyncio.create_task(self._ask(host, name))
        if name.addresses:
            self._send(name.addresses, port, payload)
        elif len(name.waiting) < _WAITING_MOST:
            name.waiting.append((port, payload))
        else:
            self.dropped += 1

    async def _ask(self, host: str, name: _Name) -> None:
        try:
            found = await self._network.lookup(host)
        except (OSError, TunnelError):
            name.task = None
            self._forget(host)
            return
        used = [address for address in name.addresses[:1] if address in found]
        name.addresses = [*used, *(address for address in found if address not in used)]
        name.asked, name.task = self._now(), None
        waiting, name.waiting = name.waiting, []
        for port, payload in waiting:
            self._send(name.addresses, port, payload)

    def _forget(self, host: str) -> None:
        name = self._names.pop(host)
        self.dropped += len(name.waiting)
        if name.task is not None:
            name.task.cancel()

    def _send(self, addresses: Sequence[Address], port: int, payload: bytes) -> None:
        """Send to the first address that there is a route to."""
        for address in addresses:
            far = self._far.get(address.version)
            if far is not None and far.send(payload, (str(address), port)):
                return
        self.dropped += 1

    # ---- and back ----

    def _to_client(self, data: bytes, place: tuple[Any, ...]) -> None:
        if self._near is None or self._place is None:
            return
        address = ip_address(place[0].partition("%")[0])
        kind = _IPV4 if address.version == 4 else _IPV6
        head = bytes([0, 0, 0, kind]) + address.packed + struct.pack("!H", place[1])
        self._near.sendto(head + data, self._place)


class _Near(asyncio.DatagramProtocol):
    """Hands datagrams on; errors of single ones are nobody's concern."""

    def __init__(self, received: Callable[[bytes, tuple[Any, ...]], None]) -> None:
        self._received = received
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[Any, ...]) -> None:
        self._received(data, address)


class _Far(_Near):
    """Sends, too, and knows at once where there is no route."""

    def __init__(self, received: Callable[[bytes, tuple[Any, ...]], None]) -> None:
        super().__init__(received)
        self._failed = False

    def send(self, payload: bytes, place: tuple[str, int]) -> bool:
        """Send a datagram; False where the network refuses it."""
        self._failed = False
        self.transport.sendto(payload, place)
        return not self._failed

    def error_received(self, error: Exception) -> None:
        self._failed = True


def _target(data: bytes) -> tuple[str | IPv4Address | IPv6Address, int, bytes] | None:
    """Return where a datagram of the client is for, and its payload; None for a malformed one."""
    if len(data) < 5:
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
    if not port:
        return None
    if kind != _NAME:
        return ip_address(raw), port, payload
    if not raw.isascii() or not raw.decode().isprintable():
        return None
    name = raw.decode()
    try:
        return ip_address(name), port, payload
    except ValueError:
        return name, port, payload
