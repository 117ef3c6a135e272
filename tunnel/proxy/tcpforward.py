"""Forwarding TCP: each client is joined to one destination, and reset where that cannot be."""

from __future__ import annotations

import logging
from typing import Final

from tunnel.places import Place
from tunnel.proxy.capacity import Capacity
from tunnel.proxy.clients import Clients
from tunnel.proxy.dialer import Dialer
from tunnel.proxy.guest import FarSocket, Guest
from tunnel.proxy.relay import Carrier, End, SocketEnd, reset


class TcpForward:
    """Carries what connects on one network to one destination on another.

    With `inside` it is the tunnel that is listened on, and a socket of the machine that is dialled.
    """

    def __init__(
        self,
        network: Dialer,
        to: Place,
        log: logging.Logger,
        capacity: Capacity | None = None,
        *,
        inside: bool = False,
    ) -> None:
        kind: Final = _FromTunnel if inside else _FromMachine
        self.clients = Clients(lambda: kind(self.clients, to), network, log, capacity)


class _Client(Guest):
    __slots__ = ("_to",)

    def __init__(self, clients: Clients, to: Place) -> None:
        super().__init__(clients)
        self._to = to

    def came(self, *, full: bool) -> None:
        if full:
            reset(self.transport)
        else:
            self.dial(self._to.host, self._to.port)

    def failed(self, error: BaseException) -> None:
        reset(self.transport)  # as the destination itself would refuse


class _FromMachine(_Client, SocketEnd):
    __slots__ = ()


class _FromTunnel(_Client, End):
    __slots__ = ()

    def far_end(self) -> Carrier:
        return FarSocket(self)
