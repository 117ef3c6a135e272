"""A SOCKS5 proxy (RFC 1928, RFC 1929): CONNECT and UDP ASSOCIATE into a network.

Names are resolved by the network that is dialled, never by this machine's resolver. BIND is
answered as not supported, fragments of datagrams are dropped, as RFC 1928 section 7 allows.
"""

from __future__ import annotations

import errno
import logging
import socket
from typing import Final

from tunnel.proxy.associate import Association
from tunnel.proxy.capacity import Capacity
from tunnel.proxy.clients import Clients
from tunnel.proxy.credentials import Credentials
from tunnel.proxy.dialer import Dialer
from tunnel.proxy.guest import Guest
from tunnel.proxy.relay import End
from tunnel.proxy.socks5wire import (
    CONNECT,
    EXPIRED,
    FAILURE,
    GRANTED,
    REFUSED,
    UNREACHABLE_HOST,
    UNREACHABLE_NET,
    BadRequest,
    Negotiation,
    reply,
)

#: Seconds that a client has for its part of the negotiation.
NEGOTIATION = 30.0
_REPLIES: Final = {
    errno.ENETUNREACH: UNREACHABLE_NET,
    errno.EHOSTUNREACH: UNREACHABLE_HOST,
    errno.ECONNREFUSED: REFUSED,
    errno.ETIMEDOUT: EXPIRED,
}


class Socks5:
    """A SOCKS5 proxy into a network; `credentials` None admits everybody."""

    def __init__(
        self,
        network: Dialer,
        log: logging.Logger,
        credentials: Credentials | None = None,
        capacity: Capacity | None = None,
    ) -> None:
        self.clients = Clients(
            lambda: _Client(self.clients, credentials), network, log, capacity, speak_first=True
        )


class _Client(Guest):
    """One client: a negotiation, then a connection or datagrams."""

    __slots__ = ("_full", "_negotiation")

    def __init__(self, clients: Clients, credentials: Credentials | None) -> None:
        super().__init__(clients)
        self._negotiation: Negotiation | None = Negotiation(credentials)
        self._full = False

    def came(self, *, full: bool) -> None:
        self._full = full
        self.within(NEGOTIATION)

    def heard(self, data: bytes) -> None:
        negotiation = self._negotiation
        if negotiation is None:
            return
        try:
            answer = negotiation.receive(data)
        except BadRequest as error:
            self.clients.log.debug("SOCKS5: %s", error)
            self.transport.close()
            return
        if answer:
            self.transport.write(answer)
        if not negotiation.over:
            return
        self._negotiation, request = None, negotiation.request
        if request is None:
            self.transport.close()
        elif self._full:
            self._refuse(FAILURE)
        elif request.command == CONNECT:
            self.dial(request.host, request.port, negotiation.rest)
        else:
            self.in_time()
            self.run(self._associate())

    def granted(self, far: End) -> None:
        self.transport.write(reply(GRANTED, *far.transport.get_extra_info("sockname")[:2]))

    def failed(self, error: BaseException) -> None:
        self._refuse(code_for(error))

    def _refuse(self, code: int) -> None:
        self.transport.write(reply(code))
        self.transport.close()

    async def _associate(self) -> None:
        """Carry datagrams for as long as this connection is open."""
        client = self.transport.get_extra_info("peername")[0]
        near = self.transport.get_extra_info("sockname")[0]
        try:
            await Association(self.clients.network, client).carry(near, self._associated)
        except OSError as error:
            self._refuse(code_for(error))

    def _associated(self, host: str, port: int) -> None:
        self.transport.write(reply(GRANTED, host, port))


def code_for(error: BaseException) -> int:
    """Return the reply's code for a connection that could not be made (RFC 1928, section 6)."""
    if isinstance(error, TimeoutError):
        return EXPIRED
    if isinstance(error, socket.gaierror):
        return UNREACHABLE_HOST
    return _REPLIES.get(getattr(error, "errno", None) or 0, FAILURE)
