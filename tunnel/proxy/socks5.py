"""SOCKS5 (RFC 1928) with name and password (RFC 1929): CONNECT and UDP ASSOCIATE.

    client: 5, methods          proxy: 5, method
    client: name, password      proxy: 1, status                (where credentials are asked for)
    client: 5, command, target  proxy: 5, reply, bound address
    then bytes both ways, or datagrams for as long as this connection is open

Names are resolved by the network that is dialled, never by this machine's resolver. BIND is
answered as not supported, fragments of datagrams are dropped, as RFC 1928 section 7 allows.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from tunnel.proxy.associate import Association
from tunnel.proxy.clients import Clients, connect
from tunnel.proxy.credentials import Credentials
from tunnel.proxy.dialer import Dialer
from tunnel.proxy.splice import splice

VERSION, NO_METHOD = 5, 0xFF
NO_AUTHENTICATION, PASSWORD = 0, 2
CONNECT, ASSOCIATE = 1, 3
IPV4, NAME, IPV6 = 1, 3, 4
GRANTED, FAILURE, UNREACHABLE_NET, UNREACHABLE_HOST, REFUSED, EXPIRED = 0, 1, 3, 4, 5, 6
BAD_COMMAND, BAD_ADDRESS = 7, 8
#: Seconds that a client has for its part of the negotiation.
NEGOTIATION: Final = 30.0
_NOWHERE: Final = bytes([IPV4]) + bytes(6)
_REPLIES: Final = {
    errno.ENETUNREACH: UNREACHABLE_NET,
    errno.EHOSTUNREACH: UNREACHABLE_HOST,
    errno.ECONNREFUSED: REFUSED,
    errno.ETIMEDOUT: EXPIRED,
}


class BadRequest(Exception):
    """The client does not speak this protocol; the connection is closed."""


class Socks5:
    """A SOCKS5 proxy into a network; `credentials` None admits everybody."""

    def __init__(
        self, network: Dialer, log: logging.Logger, credentials: Credentials | None = None
    ) -> None:
        self._network = network
        self._log = log
        self._credentials = credentials
        self.clients = Clients(self._serve, log)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(NEGOTIATION):
                if not await self._admit(reader, writer):
                    return
                command, host, port = await _request(reader)
        except BadRequest as error:
            self._log.debug("SOCKS5: %s", error)
            return
        except _BadAddress:
            writer.write(_reply(BAD_ADDRESS))
            return
        if command == CONNECT:
            await self._connect(reader, writer, host, port)
        elif command == ASSOCIATE:
            await self._associate(reader, writer)
        else:
            writer.write(_reply(BAD_COMMAND))

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        version, count = await reader.readexactly(2)
        if version != VERSION:
            raise BadRequest(f"version {version} instead of 5")
        offered = await reader.readexactly(count)
        wanted = NO_AUTHENTICATION if self._credentials is None else PASSWORD
        if wanted not in offered:
            writer.write(bytes([VERSION, NO_METHOD]))
            return False
        writer.write(bytes([VERSION, wanted]))
        if self._credentials is None:
            return True
        version, length = await reader.readexactly(2)
        if version != 1:
            raise BadRequest(f"version {version} of the negotiation instead of 1")
        name = await reader.readexactly(length)
        (length,) = await reader.readexactly(1)
        password = await reader.readexactly(length)
        admitted = self._credentials.admit(name, password)
        writer.write(bytes([1, 0 if admitted else 1]))
        return admitted

    async def _connect(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int
    ) -> None:
        try:
            far = await connect(self._network, host, port)
        except OSError as error:
            self._log.debug("SOCKS5: no connection: %s", error)
            writer.write(_reply(code_for(error)))
            return
        writer.write(_reply(GRANTED, far[1].get_extra_info("sockname")))
        await splice((reader, writer), far)

    async def _associate(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = writer.get_extra_info("peername")[0]
        near = writer.get_extra_info("sockname")[0]
        association = Association(self._network, client)
        try:
            place = await association.open(near)
        except OSError as error:
            writer.write(_reply(code_for(error)))
            return
        try:
            writer.write(_reply(GRANTED, place))
            while await reader.read(4096):  # it lasts as long as this connection
                pass
        finally:
            await association.aclose()


def code_for(error: OSError) -> int:
    """Return the reply's code for a connection that could not be made (RFC 1928, section 6)."""
    if isinstance(error, TimeoutError):
        return EXPIRED
    if isinstance(error, socket.gaierror):
        return UNREACHABLE_HOST
    return _REPLIES.get(error.errno or 0, FAILURE)


class _BadAddress(Exception):
    pass


async def _request(reader: asyncio.StreamReader) -> tuple[int, str, int]:
    """Read a request: command, host and port."""
    version, command, _, kind = await reader.readexactly(4)
    if version != VERSION:
        raise BadRequest(f"version {version} of the request instead of 5")
    if kind == NAME:
        (length,) = await reader.readexactly(1)
        try:
            host = (await reader.readexactly(length)).decode("ascii")
        except UnicodeDecodeError:
            raise _BadAddress from None
        if not host or not host.isprintable():
            raise _BadAddress
    elif kind in (IPV4, IPV6):
        host = str(ip_address(await reader.readexactly(4 if kind == IPV4 else 16)))
    else:
        raise _BadAddress
    (port,) = struct.unpack("!H", await reader.readexactly(2))
    return command, host, port


def _reply(code: int, place: tuple[str, int] | None = None) -> bytes:
    head = bytes([VERSION, code, 0])
    return head + (_NOWHERE if place is None else written(ip_address(place[0]), place[1]))


def written(address: IPv4Address | IPv6Address, port: int) -> bytes:
    """Return an address and port as SOCKS5 writes them."""
    kind = IPV4 if address.version == 4 else IPV6
    return bytes([kind]) + address.packed + struct.pack("!H", port)
