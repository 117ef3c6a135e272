"""The stack against a naive model of TCP: stop and wait, in order only, no options, one timer.

What the model lacks in speed it has in plainness, so that both cannot be wrong alike.
"""

from __future__ import annotations

from random import Random

import pytest

from tests.netstack.simulator import MBIT, MS, Application, World
from tunnel.netstack.endpoint import Event, EventKind, Reason
from tunnel.netstack.segment import Flag, Segment
from tunnel.netstack.settings import Settings
from tunnel.netstack.states import State

SYN, FIN, RST, ACK = (int(flag) for flag in (Flag.SYN, Flag.FIN, Flag.RST, Flag.ACK))
AGAIN = 250 * MS
WINDOW = 5000
MOST = 500


class Naive:
    """A peer that waits for a connection; to a World it looks like any."""

    def __init__(self, local_port: int, remote_port: int, iss: int) -> None:
        self.ports = local_port, remote_port
        self.state = State.LISTEN
        self.sent = iss  # all below is acknowledged
        self.expected = 0
        self.waiting = b""  # to be sent, from `sent` on
        self.received = b""
        self.flags = 0  # SYN or FIN in flight
        self.size = 0  # payload in flight
        self.due: int | None = None
        self.closing = self.fin_sent = self.fin_seen = False
        self.acknowledge = False
        self.events: list[Event] = []

    # ---- the user ----

    @property
    def readable(self) -> int:
        return len(self.received)

    def write(self, data: bytes | memoryview) -> int:
        self.waiting += bytes(data)
        return len(data)

    def read(self, most: int) -> bytes:
        data, self.received = self.received[:most], self.received[most:]
        return data

    def close(self) -> None:
        self.closing = True

    def take_events(self) -> list[Event]:
        events, self.events = self.events, []
        return events

    # ---- the network ----

    def receive(self, segment: Segment, now: int) -> None:
        if segment.flags & RST:
            return
        if self.state is State.LISTEN:
            if segment.flags & SYN:
                self.expected = (segment.sequence + 1) & 0xFFFFFFFF
                self.state, self.flags, self.due = State.SYN_RECEIVED, SYN, now
            return
        length = self.size + bool(self.flags)
        if length and segment.acknowledgment == (self.sent + length) & 0xFFFFFFFF:
            self.sent = (self.sent + length) & 0xFFFFFFFF
            self.waiting = self.waiting[self.size :]
            self.flags, self.size, self.due = 0, 0, None
            if self.state is State.SYN_RECEIVED:
                self.state = State.ESTABLISHED
        if segment.length:
            self.acknowledge = True
            if segment.sequence == self.expected and not self.fin_seen:
                self.received += bytes(segment.payload)
                self.fin_seen = bool(segment.flags & FIN)
                self.expected = (self.expected + segment.length) & 0xFFFFFFFF
        if self.fin_seen and self.fin_sent and not self.flags and self.state is not State.CLOSED:
            self.state = State.CLOSED
            self.events.append(Event(EventKind.CLOSED, Reason.FINISHED))

    def segments_to_send(self, now: int) -> list[Segment]:
        if self.state is State.LISTEN:
            return []
        if self.due is None and self.state is not State.SYN_RECEIVED:  # nothing in flight
            self.size = min(len(self.waiting), MOST)
            if not self.size and self.closing and not self.fin_sent:
                self.flags, self.fin_sent = FIN, True
            if self.size or self.flags:
                self.due = now
        out = []
        if self.due is not None and now >= self.due:
            self.due = now + AGAIN
            out = [self._segment(self.flags, self.waiting[: self.size])]
        elif self.acknowledge:
            out = [self._segment(0, b"")]
        self.acknowledge = False
        return out

    def _segment(self, flags: int, payload: bytes) -> Segment:
        end = self.size + bool(self.flags) if not payload and not flags else 0
        sequence = (self.sent + end) & 0xFFFFFFFF
        window = max(WINDOW - len(self.received), 0)
        return Segment(*self.ports, sequence, self.expected, flags | ACK, window, payload=payload)

    def next_deadline(self) -> int | None:
        return self.due

    def handle_timeout(self, now: int) -> None:
        """What is due is sent again by `segments_to_send`."""


def meet(seed: int) -> None:
    """One exchange on some path with some settings."""
    random = Random(seed)
    one, other = (
        random.randbytes(random.randrange(30_000)),
        random.randbytes(random.randrange(5000)),
    )
    a, b = Application(one), Application(other)
    settings = Settings(
        timestamps=random.random() < 0.5,
        selective=random.random() < 0.5,
        nodelay=random.random() < 0.5,
        congestion=random.choice(("bbr", "cubic", "newreno")),
        segment=random.choice((300, 1360)),
        receive_buffer=random.choice((700, 60_000)),
        receive_most=60_000,
    )
    path: dict[str, int | float] = {
        "loss": random.choice((0.0, 0.02, 0.2)),
        "jitter": random.choice((0, 5 * MS)),
        "duplication": random.choice((0.0, 0.1)),
        "reordering": random.choice((0.0, 0.1)),
        "rate": random.choice((0, MBIT)),
    }
    world = World(seed, a=a, b=b, path=path, settings=settings)
    ports = world.connections[1].local_port, world.connections[1].remote_port
    world.connections[1] = Naive(*ports, random.randrange(1 << 32))  # type: ignore[call-overload]
    world.run(seconds=100_000)
    assert b.received == one, f"seed {seed}"
    assert a.received == other, f"seed {seed}"
    assert a.reason is b.reason is Reason.FINISHED, f"seed {seed}"


def test_a_sample() -> None:
    for seed in range(60):
        meet(seed)


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, 2000, 250))
def test_thousands(first: int) -> None:
    for seed in range(first, first + 250):
        meet(seed)
