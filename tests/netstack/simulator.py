"""A network in virtual time: two connections, and a path each way that loses, delays and reorders.

    application -- Connection a == cut ==> Path ==> coalesce == Connection b -- application
                                <== ... <== Path <==

Time is an integer of nanoseconds that jumps from event to event; the same seed gives the same run.
Units are cut into segments before the path, as the native core does it, and consecutive segments
that arrive at one instant are put together again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from random import Random

from tunnel.netstack.congestion import ALGORITHMS, BBR, CongestionControl
from tunnel.netstack.connection import Connection
from tunnel.netstack.endpoint import Event, EventKind, Reason
from tunnel.netstack.segment import Flag, Segment
from tunnel.netstack.settings import Settings
from tunnel.netstack.states import MAY_WRITE, State

MS = 1_000_000
SECOND = 1_000_000_000
START = 1_000_000 * SECOND  # clocks do not begin at zero
HEADERS = 60  # IP, TCP and options, for the link's rate
MBIT = 125_000  # bytes a second
# Plain integers: arithmetic on IntFlag would take most of a run's time.
_ACK, _PSH, _ENDING, _CWR = int(Flag.ACK), int(Flag.PSH), int(Flag.FIN | Flag.PSH), int(Flag.CWR)


def cut(segment: Segment) -> Iterator[Segment]:
    """Cut a unit as the native core does: FIN and PSH on the last, CWR on the first."""
    payload, size = segment.payload, segment.cut
    if not size:
        yield segment
        return
    for at in range(0, len(payload), size):
        flags = segment.flags
        if at + size < len(payload):
            flags &= ~_ENDING
        if at:
            flags &= ~_CWR
        yield segment._replace(
            sequence=(segment.sequence + at) & 0xFFFFFFFF,
            flags=flags,
            payload=payload[at : at + size],
            cut=0,
        )


def follows(one: Segment, other: Segment) -> bool:
    """Whether the core would put `other` onto `one`."""
    return (
        bool(one.payload and other.payload)
        and (one.sequence + len(one.payload)) & 0xFFFFFFFF == other.sequence
        and (one.acknowledgment, one.options, one.window, one.congested)
        == (other.acknowledgment, other.options, other.window, other.congested)
        and not (one.flags | other.flags) & ~(_ACK | _PSH)
        and not one.flags & _PSH
        and len(one.payload) + len(other.payload) <= 65_000
    )


@dataclass
class Path:
    """One direction. Times in ns, rate in bytes a second, probabilities from 0 to 1."""

    random: Random
    delay: int = 10 * MS
    jitter: int = 0
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0  # a segment that is held back by up to three delays
    most: int = 1 << 16  # payload bytes of a segment; what is larger vanishes without a word
    rate: int = 0  # 0: unlimited
    queue: int = 1 << 30
    mark_above: int = 0  # CE instead of nothing, for a queue longer than this
    tick: int = 0  # arrivals come in batches this far apart
    sent: int = 0
    dropped: int = 0
    queued: int = 0  # the longest queue seen
    _free_at: int = 0

    def arrivals(self, segment: Segment, now: int) -> Iterator[tuple[int, Segment]]:
        """Yield when, and as what, a segment arrives: not at all, once or twice."""
        self.sent += 1
        if self.random.random() < self.loss or len(segment.payload) > self.most:
            self.dropped += 1
            return
        leaves = now
        if self.rate:
            waiting = max(self._free_at - now, 0) * self.rate // SECOND
            size = HEADERS + len(segment.payload)
            if waiting + size > self.queue:
                self.dropped += 1
                return
            self.queued = max(self.queued, waiting + size)
            if self.mark_above and waiting > self.mark_above and segment.capable:
                segment = segment._replace(congested=True)
            self._free_at = leaves = max(self._free_at, now) + size * SECOND // self.rate
        for _ in range(1 + (self.random.random() < self.duplication)):
            at = leaves + self.delay
            if self.jitter:
                at += self.random.randrange(self.jitter)
            if self.reordering and self.random.random() < self.reordering:
                at += self.random.randrange(1, 3 * self.delay + 1)
            if self.tick:
                at += -at % self.tick
            yield at, segment


@dataclass
class Application:
    """What one side's user does: write all of `data`, read up to `bite` each `pause`, close."""

    data: bytes = b""
    closes: bool = True
    bite: int = 1 << 30
    pause: int = 0
    received: bytearray = field(default_factory=bytearray)
    keep: bool = True  # keep what was received, or only count it
    count: int = 0
    written: int = 0
    events: list[Event] = field(default_factory=list)
    next_read: int = 0
    closed: bool = False

    def act(self, connection: Connection, now: int) -> None:
        """Write, read and close as far as it goes now."""
        self.events += connection.take_events()
        if connection.state in MAY_WRITE and not self.closed:
            if self.written < len(self.data):
                view = memoryview(self.data)[self.written : self.written + (1 << 20)]
                self.written += connection.write(view)
            elif self.closes and connection.state not in (State.SYN_SENT, State.SYN_RECEIVED):
                connection.close()
                self.closed = True
        if connection.readable and now >= self.next_read:
            data = connection.read(self.bite)
            self.count += len(data)
            if self.keep:
                self.received += data
            self.next_read = now + self.pause

    @property
    def reason(self) -> Reason | None:
        """Why the connection closed."""
        return next((e.reason for e in self.events if e.kind is EventKind.CLOSED), None)


def seeded(name: str, seed: int) -> Callable[[int], CongestionControl]:
    """Return the algorithm's maker; BBR draws from a generator of this seed."""
    if name == "bbr":
        return lambda segment: BBR(segment, Random(seed))
    return ALGORITHMS[name]


class World:
    """Two connections, two applications, two paths."""

    def __init__(
        self,
        seed: int,
        *,
        a: Application | None = None,
        b: Application | None = None,
        path: dict[str, int | float] | None = None,
        settings: Settings | tuple[Settings, Settings] = Settings(),  # noqa: B008 - frozen
        simultaneous: bool = False,
        start: int = START,
        wake: int = 1,
        busy: tuple[int, int] | None = None,
    ) -> None:
        """`wake`: timers are served at multiples of it only, as by an event loop that is busy.

        `busy`: the first side runs for up to so long at a time and then stands still for up to so
        long, hears nothing and sends nothing, as beside other programs on a machine.
        """
        random = Random(seed)
        self._busy = Random(seed), busy or (0, 0)
        self._stands = start, start  # still from the first to the second, and runs before it
        both = settings if isinstance(settings, tuple) else (settings, settings)
        self.now = start
        self.wake = wake
        self.connections = [
            Connection(
                1000 + i, 2000 - 1000 * i + 1 - i, iss=random.randrange(1 << 32), settings=one,
                clock_offset=random.randrange(1 << 32), control=seeded(one.congestion, seed),
            )
            for i, one in enumerate(both)
        ]  # fmt: skip
        self.connections[0].remote_port = self.connections[1].local_port
        self.connections[1].remote_port = self.connections[0].local_port
        self.applications = [a or Application(), b or Application()]
        self.paths = [Path(random, **(path or {})) for _ in range(2)]  # type: ignore[arg-type]
        self.log: list[tuple[int, int, Segment]] = []
        self.keep_log = False
        self._arriving: list[list[tuple[int, int, Segment]]] = [[], []]  # at each side
        self._order = count()
        self.connections[0].connect(self.now)
        if simultaneous:
            self.connections[1].connect(self.now)
        else:
            self.connections[1].listen()
        for side in range(2):
            self._pump(side)

    def _pump(self, side: int) -> None:
        """Let one side act and send."""
        connection = self.connections[side]
        self.applications[side].act(connection, self.now)
        for unit in connection.segments_to_send(self.now):
            if self.keep_log:
                self.log.append((self.now, side, unit))
            for segment in cut(unit):
                for at, arriving in self.paths[side].arrivals(segment, self.now):
                    heappush(self._arriving[1 - side], (at, next(self._order), arriving))

    def _runs(self, side: int, moment: int) -> int:
        """When a side runs that is to run at a moment: then, or when it stands still no more."""
        random, (run, stand) = self._busy
        if side or not stand:
            return moment
        begin, end = self._stands
        while moment >= end:
            begin = end + random.randrange(run)
            end = begin + random.randrange(stand)
            self._stands = begin, end
        return moment if moment < begin else end

    def _due_at(self, side: int) -> int | None:
        connection, application = self.connections[side], self.applications[side]
        times = [entry[0] for entry in self._arriving[side][:1]]
        deadline = connection.next_deadline()
        if deadline is not None:
            times.append(-(-deadline // self.wake) * self.wake)
        if connection.readable:
            times.append(application.next_read)
        return self._runs(side, max(min(times), self.now)) if times else None

    def _due(self) -> int | None:
        return min(
            (due for side in (0, 1) if (due := self._due_at(side)) is not None), default=None
        )

    def step(self) -> bool:
        """Go to the next moment at which something happens; False when nothing ever will."""
        due = self._due()
        if due is None:
            return False
        self.now = max(self.now, due)
        for side, connection in enumerate(self.connections):
            if self._runs(side, self.now) > self.now:
                continue
            arrived: list[Segment] = []
            arriving = self._arriving[side]
            while arriving and arriving[0][0] <= self.now:
                segment = heappop(arriving)[2]
                if arrived and follows(arrived[-1], segment):
                    last = arrived[-1]
                    joined = bytes(last.payload) + bytes(segment.payload)
                    arrived[-1] = last._replace(payload=joined, flags=last.flags | segment.flags)
                else:
                    arrived.append(segment)
            for segment in arrived:
                connection.receive(segment, self.now)
            deadline = connection.next_deadline()
            if deadline is not None and deadline <= self.now:
                connection.handle_timeout(self.now)
            self._pump(side)
        return True

    def run(self, seconds: float = 3600.0, steps: int = 2_000_000) -> None:
        """Run until nothing happens any more, or for so long in virtual time."""
        end = self.now + int(seconds * SECOND)
        for _ in range(steps):
            due = self._due()
            if due is None or due > end:
                return
            self.step()
        raise AssertionError(f"no end after {steps} steps at {self.now / SECOND:.3f} s")


def throughput(
    seconds: float, *, seed: int = 1, congestion: str = "bbr", wake: int = 1,
    busy: tuple[int, int] | None = None, **path: int | float,
) -> tuple[float, World]:  # fmt: skip
    """Return Mbit/s of payload from a to b over a time, and the world it was measured in."""
    data = bytes(int(seconds * 120_000_000))
    world = World(
        seed,
        a=Application(data, closes=False),
        b=Application(closes=False, keep=False),
        path=path,
        settings=Settings(congestion=congestion),
        wake=wake,
        busy=busy,
    )
    world.run(seconds)
    return world.applications[1].count * 8 / seconds / 1e6, world
