"""A SOCKS5 proxy (RFC 1928, RFC 1929): CONNECT and UDP ASSOCIATE into a network.

Names are resolved by the network that is dialled, never by this machine's resolver. BIND is
answered as not supported, fragments of datagrams are dropped, as RFC 1928 section 7 allows.

A client is a protocol, not a task: connections through a proxy are many and short, and all that one
needs is told by the bytes that come. Only the dialling of a name, which may wait for anything, is a
task.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from typing import Any, Final

from tunnel.proxy.associate import Association
from tunnel.proxy.capacity import Capacity
from tunnel.proxy.clients import Guests, dial, dial_at_once
from tunnel.proxy.credentials import Credentials
from tunnel.proxy.dialer import Dialer, Opening
from tunnel.proxy.relay import End, SocketEnd, join, reset
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
NEGOTIATION: Final = 30.0
_EARLY_MOST: Final = 65_536  # bytes that a client may send before it is connected
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
        self.network = network
        self.log = log
        self.credentials = credentials
        self.clients = Guests(lambda: _Client(self), capacity)


class _Client(SocketEnd):
    """One client, from its first byte to its last."""

    __slots__ = (
        "_deadline", "_dialling", "_early", "_full", "_loop", "_negotiation", "_opening", "_proxy",
        "_task",
    )  # fmt: skip

    def __init__(self, proxy: Socks5) -> None:
        super().__init__()
        self._proxy = proxy
        self._loop = asyncio.get_running_loop()
        self._negotiation: Negotiation | None = Negotiation(proxy.credentials)
        self._deadline: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._opening: Opening | None = None
        self._dialling = False
        self._early = b""  # what it sent after its request
        self._full = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        clients = self._proxy.clients
        if not clients.enter(self):
            reset(transport)
            return
        self._full = clients.capacity.is_over
        self._deadline = self._loop.call_later(NEGOTIATION, transport.abort)

    def end(self) -> None:
        """Go now."""
        self.transport.abort()

    # ---- what comes ----

    def data_received(self, data: bytes | memoryview) -> None:
        other = self.other
        if other is not None:
            other.transport.write(data)
        elif self._negotiation is not None:
            self._negotiate(self._negotiation, bytes(data))
        elif self._dialling:
            self._early += data
            if len(self._early) >= _EARLY_MOST:
                self.transport.pause_reading()

    def eof_received(self) -> bool:
        if self.other is not None:
            return super().eof_received()
        self.finished = True
        return self._dialling  # it may still want to hear

    def connection_lost(self, error: BaseException | None) -> None:
        super().connection_lost(error)
        self._negotiated()
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.abort()
        task = self._task
        if task is None or task.done():
            self._proxy.clients.leave(self)
        else:
            task.cancel()
            task.add_done_callback(lambda _: self._proxy.clients.leave(self))

    # ---- what it wants ----

    def _negotiate(self, negotiation: Negotiation, data: bytes) -> None:
        try:
            answer = negotiation.receive(data)
        except BadRequest as error:
            self._proxy.log.debug("SOCKS5: %s", error)
            self.transport.close()
            return
        if answer:
            self.transport.write(answer)
        if not negotiation.over:
            return
        request = negotiation.request
        if request is None:
            self.transport.close()
            return
        if self._full:
            self._proxy.log.debug("SOCKS5: there are too many clients; one was refused")
            self._refuse(FAILURE)
            return
        self._early = negotiation.rest
        self._negotiated()
        self._dialling = request.command == CONNECT
        if not self._dialling:
            self._task = self._loop.create_task(self._associate())
            return
        host, port = request.host, request.port
        try:
            self._opening = dial_at_once(self._proxy.network, self._opened, host, port)
        except OSError as error:
            self._failed(error)
            return
        if self._opening is None:
            self._task = self._loop.create_task(self._connect(host, port))

    def _negotiated(self) -> None:
        self._negotiation = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, code: int) -> None:
        self.transport.write(reply(code))
        self.transport.close()

    def _opened(self, transport: Any, error: BaseException | None) -> None:
        if self._opening is None:
            return  # it was given up
        self._opening = None
        if error is None:
            transport.begin(_Far(self))
        else:
            self._failed(error)

    async def _connect(self, host: str, port: int) -> None:
        try:
            await dial(self._proxy.network, _Far(self), host, port)
        except OSError as error:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self._dialling = False
        self._proxy.log.debug("SOCKS5: no connection: %s", error)
        self._refuse(code_for(error))

    def connected(self, far: End) -> None:
        """The destination is there: say so, then carry."""
        self._dialling = False
        if self.transport.is_closing():
            far.transport.abort()
            return
        self.transport.write(reply(GRANTED, *far.transport.get_extra_info("sockname")[:2]))
        join(self, far)
        early, self._early = self._early, b""
        if early:
            far.transport.write(early)
            if len(early) >= _EARLY_MOST:
                self.transport.resume_reading()
        if self.finished:
            far.transport.write_eof()

    async def _associate(self) -> None:
        """Carry datagrams for as long as this connection is open."""
        client = self.transport.get_extra_info("peername")[0]
        near = self.transport.get_extra_info("sockname")[0]
        association = Association(self._proxy.network, client)
        try:
            place = await association.open(near)
        except OSError as error:
            self._refuse(code_for(error))
            return
        try:
            self.transport.write(reply(GRANTED, *place))
            await self._loop.create_future()  # until connection_lost cancels it
        finally:
            await association.aclose()


class _Far(End):
    """A client's destination. It is joined as soon as it stands, before anything comes of it."""

    __slots__ = ("_client",)

    def __init__(self, client: _Client) -> None:
        super().__init__()
        self._client = client

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._client.connected(self)


def code_for(error: BaseException) -> int:
    """Return the reply's code for a connection that could not be made (RFC 1928, section 6)."""
    if isinstance(error, TimeoutError):
        return EXPIRED
    if isinstance(error, socket.gaierror):
        return UNREACHABLE_HOST
    return _REPLIES.get(getattr(error, "errno", None) or 0, FAILURE)
