"""What is left of a connection in TIME-WAIT: some numbers, so that a hundred thousand cost little.

A connection that has nothing more to say is replaced by a `Remnant`, which answers late segments
for two segment lifetimes, or makes room for a new connection of the same name where that is safe
(RFC 9293, section 3.10.7.4; RFC 6191).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from tunnel.netstack.connection import Connection
from tunnel.netstack.ip import Route
from tunnel.netstack.rtt import MILLISECOND, SECOND
from tunnel.netstack.segment import ACK, FIN, NO_OPTIONS, RST, SYN, Options, Segment
from tunnel.netstack.sequence import unwrap, wrap

MOST: Final = 16_384
_REUSE_AFTER: Final = 1 * SECOND  # a timestamp of ours is a later one for certain


class Remnant(NamedTuple):
    """Sequence numbers are the wire's; `recent` is TS.Recent, None without timestamps."""

    route: Route
    ports: tuple[int, int]  # ours, theirs
    sent: int  # SND.NXT
    received: int  # RCV.NXT
    recent: int | None
    clock_offset: int
    window: int
    since: int
    until: int

    def acknowledgment(self, now: int) -> Segment:
        """Return the segment that says once more where both sides are."""
        options = NO_OPTIONS
        if self.recent is not None:
            tick = now // MILLISECOND + self.clock_offset
            options = Options(timestamp=(tick & 0xFFFFFFFF, self.recent))
        return Segment(*self.ports, self.sent, self.received, ACK, self.window, options)

    def gives_way_to(self, syn: Segment) -> bool:
        """Whether a SYN begins a new connection (RFC 6191, section 2)."""
        stamp = syn.options.timestamp
        if stamp is not None and self.recent is not None:
            ahead = unwrap(stamp[0], self.recent) - self.recent
            if ahead:
                return ahead > 0
        return unwrap(syn.sequence, self.received) > self.received

    def may_be_reopened(self, now: int) -> bool:
        """Whether we may use the name again ourselves: what is old shows by its timestamp."""
        return self.recent is not None and now - self.since >= _REUSE_AFTER


def remnant_of(connection: Connection, route: Route, now: int) -> Remnant:
    """Return what is left of a connection that has come to TIME-WAIT."""
    receiver = connection.receiver
    recent, clock_offset = connection.stamps or (None, 0)
    return Remnant(
        route,
        (connection.local_port, connection.remote_port),
        wrap(connection.sender.nxt),
        0 if receiver is None else wrap(receiver.nxt),
        recent,
        clock_offset,
        0 if receiver is None else min(max(receiver.edge - receiver.nxt, 0), 0xFFFF),
        now,
        now + connection.settings.time_wait,
    )


class TimeWait:
    """All remnants, the oldest first; beyond MOST the oldest go early."""

    def __init__(self) -> None:
        # An ordinary dictionary looks for its oldest item from the start, past all that were taken.
        self._remnants: OrderedDict[bytes, Remnant] = OrderedDict()

    def __len__(self) -> int:
        return len(self._remnants)

    def local_ports(self) -> set[int]:
        """Return our ports of what is left."""
        return {remnant.ports[0] for remnant in self._remnants.values()}

    def get(self, key: bytes) -> Remnant | None:
        """Return what is left of a connection."""
        return self._remnants.get(key)

    def add(self, key: bytes, remnant: Remnant) -> None:
        """Keep what is left of a connection."""
        self._remnants.pop(key, None)
        self._remnants[key] = remnant
        if len(self._remnants) > MOST:
            self._remnants.popitem(last=False)

    def take(self, key: bytes) -> Remnant | None:
        """Forget a connection, because a new one takes its name."""
        return self._remnants.pop(key, None)

    def answer(self, key: bytes, segment: Segment, now: int) -> Segment | None:
        """Return what a late segment is answered with. Resets end nothing (RFC 1337)."""
        remnant = self._remnants[key]
        if segment.flags & RST:
            return None
        if segment.flags & FIN:
            self.add(key, remnant._replace(until=now + remnant.until - remnant.since, since=now))
        if segment.flags & (SYN | FIN) or segment.payload:
            return remnant.acknowledgment(now)
        return None

    def next_deadline(self) -> int | None:
        """When the oldest goes."""
        for remnant in self._remnants.values():
            return remnant.until
        return None

    def expire(self, now: int) -> None:
        """Forget those whose time is over."""
        while self._remnants:
            key, remnant = next(iter(self._remnants.items()))
            if remnant.until > now:
                return
            del self._remnants[key]
        self._remnants.clear()  # gives the memory back, which taking out items does not
