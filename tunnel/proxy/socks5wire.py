"""SOCKS5 as it lies on the wire (RFC 1928, RFC 1929): what a client says until bytes are carried.

    client: 5, methods          proxy: 5, method
    client: name, password      proxy: 1, status                (where credentials are asked for)
    client: 5, command, target  proxy: 5, reply, bound address

A `Negotiation` is given the client's bytes, however they are cut, and says what to answer.
"""

from __future__ import annotations

import socket
import struct
from enum import Enum
from typing import Final, NamedTuple

from tunnel.proxy.credentials import Credentials

VERSION: Final = 5
NO_METHOD: Final = 0xFF
NO_AUTHENTICATION: Final = 0
PASSWORD: Final = 2
CONNECT: Final = 1
ASSOCIATE: Final = 3
IPV4: Final = 1
NAME: Final = 3
IPV6: Final = 4
GRANTED: Final = 0
FAILURE: Final = 1
UNREACHABLE_NET: Final = 3
UNREACHABLE_HOST: Final = 4
REFUSED: Final = 5
EXPIRED: Final = 6
BAD_COMMAND: Final = 7
BAD_ADDRESS: Final = 8
_NOWHERE: Final = bytes([IPV4]) + bytes(6)
_SIZES: Final = {IPV4: 4, IPV6: 16}
_FAMILIES: Final = {IPV4: socket.AF_INET, IPV6: socket.AF_INET6}


class BadRequest(Exception):
    """The client does not speak this protocol; the connection is closed."""


class Request(NamedTuple):
    """What a client wants; `host` is an address or a name."""

    command: int
    host: str
    port: int


class Stage(Enum):
    """What is awaited of the client."""

    METHODS = "methods"
    CREDENTIALS = "credentials"
    REQUEST = "request"
    OVER = "nothing: it has its answer, or `request` is there"


class Negotiation:
    """One client's."""

    __slots__ = ("_credentials", "_heard", "_stage", "request")

    def __init__(self, credentials: Credentials | None = None) -> None:
        """`credentials` None admits everybody."""
        self._credentials = credentials
        self._stage = Stage.METHODS
        self._heard = b""
        self.request: Request | None = None

    @property
    def over(self) -> bool:
        """Whether the client has said all; without a `request` it is to be hung up on."""
        return self._stage is Stage.OVER

    @property
    def rest(self) -> bytes:
        """What came after the request."""
        return self._heard

    def receive(self, data: bytes) -> bytes:
        """Take what the client says; return what to answer. Raises BadRequest."""
        self._heard += data
        said = b""
        while True:
            if self._stage is Stage.METHODS:
                answer = self._methods()
            elif self._stage is Stage.CREDENTIALS:
                answer = self._admit()
            elif self._stage is Stage.REQUEST:
                answer = self._request()
            else:
                return said
            if answer is None:
                return said
            said += answer

    def _methods(self) -> bytes | None:
        heard = self._heard
        if heard and heard[0] != VERSION:
            raise BadRequest(f"version {heard[0]} instead of 5")
        if len(heard) < 2 or len(heard) < 2 + heard[1]:
            return None
        offered = heard[2 : 2 + heard[1]]
        self._heard = heard[2 + heard[1] :]
        wanted = NO_AUTHENTICATION if self._credentials is None else PASSWORD
        if wanted not in offered:
            self._stage = Stage.OVER
            return bytes([VERSION, NO_METHOD])
        self._stage = Stage.REQUEST if self._credentials is None else Stage.CREDENTIALS
        return bytes([VERSION, wanted])

    def _admit(self) -> bytes | None:
        heard = self._heard
        if heard and heard[0] != 1:
            raise BadRequest(f"version {heard[0]} of the negotiation instead of 1")
        if len(heard) < 2 or len(heard) < 3 + heard[1]:
            return None
        at = 2 + heard[1]
        if len(heard) < at + 1 + heard[at]:
            return None
        name, password = heard[2:at], heard[at + 1 : at + 1 + heard[at]]
        self._heard = heard[at + 1 + heard[at] :]
        admitted = self._credentials is not None and self._credentials.admit(name, password)
        self._stage = Stage.REQUEST if admitted else Stage.OVER
        return bytes([1, 0 if admitted else 1])

    def _request(self) -> bytes | None:
        heard = self._heard
        if heard and heard[0] != VERSION:
            raise BadRequest(f"version {heard[0]} of the request instead of 5")
        if len(heard) < 5:
            return None
        kind = heard[3]
        at = 5 if kind == NAME else 4
        size = heard[4] if kind == NAME else _SIZES.get(kind)
        if size is None:
            return self._refuse(BAD_ADDRESS)
        if len(heard) < at + size + 2:
            return None
        raw = heard[at : at + size]
        (port,) = struct.unpack_from("!H", heard, at + size)
        if kind != NAME:
            host = socket.inet_ntop(_FAMILIES[kind], raw)
        elif raw and raw.isascii() and raw.decode().isprintable():
            host = raw.decode()
        else:
            return self._refuse(BAD_ADDRESS)
        self._heard = heard[at + size + 2 :]
        self._stage = Stage.OVER
        if heard[1] not in (CONNECT, ASSOCIATE):
            return reply(BAD_COMMAND)
        self.request = Request(heard[1], host, port)
        return b""

    def _refuse(self, code: int) -> bytes:
        self._stage = Stage.OVER
        return reply(code)


def reply(code: int, host: str | None = None, port: int = 0) -> bytes:
    """Return a reply; `host` and `port` are where the connection or the datagrams leave from."""
    bound = _NOWHERE
    if host is not None:
        kind = IPV6 if ":" in host else IPV4
        bound = bytes([kind]) + socket.inet_pton(_FAMILIES[kind], host) + struct.pack("!H", port)
    return bytes([VERSION, code, 0]) + bound
