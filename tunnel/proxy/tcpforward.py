"""Forwarding TCP: each client is joined to one destination, and reset where that cannot be."""

from __future__ import annotations

import logging

from tunnel.places import Place
from tunnel.proxy.capacity import Capacity
from tunnel.proxy.clients import Clients
from tunnel.proxy.dialer import Dialer
from tunnel.proxy.guest import Guest


class TcpForward:
    """Carries what connects on one network to one destination on another."""

    def __init__(
        self, network: Dialer, to: Place, log: logging.Logger, capacity: Capacity | None = None
    ) -> None:
        self.clients = Clients(lambda: _Client(self.clients, to), network, log, capacity)


class _Client(Guest):
    __slots__ = ("_place",)

    def __init__(self, clients: Clients, to: Place) -> None:
        super().__init__(clients)
        self._place = to

    def came(self, *, full: bool) -> None:
        super().came(full=full)
        if not full:
            self.dial(self._place.host, self._place.port)
