"""A network that loses, doubles, delays and reorders datagrams, in virtual time and by a seed."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass

from tunnel.settings import Address
from tunnel.testing.clock import VirtualClock

Place = tuple[Address, int]  # address, port


@dataclass(frozen=True, slots=True)
class Datagram:
    """One datagram as it was sent; `ds` is its DS byte."""

    time: int
    source: Place
    destination: Place
    data: bytes
    ds: int = 0


class LossyNetwork:
    """Carries datagrams between attached places. Rates are probabilities, delays ns.

    Every datagram that was sent is in `sent`, whatever became of it. One to a place where nobody
    is attached is lost. A delay is drawn for each, so that one may overtake another.
    """

    def __init__(
        self,
        clock: VirtualClock,
        *,
        seed: int = 0,
        loss: float = 0.0,
        duplicate: float = 0.0,
        delay: tuple[int, int] = (10_000_000, 10_000_000),
    ) -> None:
        self.loss = loss
        self.duplicate = duplicate
        self.delay = delay
        self.sent: list[Datagram] = []
        self._clock = clock
        self._random = random.Random(seed)
        self._receivers: dict[Place, Callable[[Datagram], None]] = {}
        self._under_way: list[tuple[int, int, Datagram]] = []
        self._serial = 0

    def attach(self, place: Place, receive: Callable[[Datagram], None]) -> None:
        """Give a place's datagrams to a function."""
        self._receivers[place] = receive

    def detach(self, place: Place) -> None:
        """Lose what is sent to a place from now on, and what is on its way."""
        del self._receivers[place]

    def send(self, source: Place, destination: Place, data: bytes, ds: int = 0) -> None:
        """Send one datagram now."""
        datagram = Datagram(self._clock.now, source, destination, data, ds)
        self.sent.append(datagram)
        if self._random.random() < self.loss:
            return
        copies = 2 if self._random.random() < self.duplicate else 1
        for _ in range(copies):
            self._serial += 1
            arrival = self._clock.now + self._random.randint(*self.delay)
            heapq.heappush(self._under_way, (arrival, self._serial, datagram))

    def next_deadline(self) -> int | None:
        """Return when the next datagram arrives."""
        return self._under_way[0][0] if self._under_way else None

    def deliver_due(self) -> None:
        """Deliver what has arrived by now, in order of arrival."""
        while self._under_way and self._under_way[0][0] <= self._clock.now:
            datagram = heapq.heappop(self._under_way)[2]
            receive = self._receivers.get(datagram.destination)
            if receive is not None:
                receive(datagram)
