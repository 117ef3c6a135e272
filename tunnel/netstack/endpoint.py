"""A connection's variables and what it says. What it hears is in connection.py.

Everything that leaves is made in `segments_to_send`: what the sender lets go, with the newest
acknowledgment on it, and else an acknowledgment alone where one is due. Resets and challenge ACKs
are queued where their cause is met.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from itertools import pairwise
from typing import Final, NamedTuple

from tunnel.netstack.budget import Pool, RateLimit
from tunnel.netstack.congestion import ALGORITHMS, CongestionControl
from tunnel.netstack.receiver import Receiver
from tunnel.netstack.rtt import MILLISECOND, SECOND
from tunnel.netstack.segment import (
    ACK,
    CWR,
    ECE,
    FIN,
    NO_OPTIONS,
    PSH,
    RST,
    SYN,
    URG,
    Options,
    Segment,
)  # fmt: skip
from tunnel.netstack.sender import Sender, Unit
from tunnel.netstack.sequence import unwrap, wrap
from tunnel.netstack.settings import Settings
from tunnel.netstack.states import State, Step, follow

_make: Final = tuple.__new__  # as in segment.py
DEFAULT: Final = Settings()
# An enum's member costs a look-up in its class each time; these are looked at for each segment.
_CLOSED: Final = State.CLOSED
_LISTEN: Final = State.LISTEN


class EventKind(Enum):
    """What the user hears of."""

    __hash__ = object.__hash__  # as of the states

    ESTABLISHED = "established"
    READABLE = "readable"
    URGENT = "urgent data is on its way, or more of it"
    WRITABLE = "writable"
    FINISHED = "the peer sends no more"
    CLOSED = "closed"


class Reason(Enum):
    """Why a connection is closed."""

    FINISHED = "both sides have finished"
    RESET = "the peer reset the connection"
    REFUSED = "the peer refused the connection"
    TIMED_OUT = "the peer does not answer"
    ABORTED = "aborted"


class Event(NamedTuple):
    """One thing that happened; `reason` comes with CLOSED."""

    kind: EventKind
    reason: Reason | None = None


READABLE: Final = Event(EventKind.READABLE)
_URGENT: Final = Event(EventKind.URGENT)
_PLAIN: Final = {kind: Event(kind) for kind in EventKind}


class Endpoint:
    """One end of a connection."""

    __slots__ = (
        "_clock_offset", "_closing", "_control", "_early", "_ecn", "_heard_at", "_limit",
        "_opened_at", "_outbox", "_passive", "_pool", "_probes", "_receive_shift", "_recent",
        "_recent_at", "_scaling", "_selective", "_send_shift", "_time_wait_at", "_timestamps",
        "_urgent_untold", "_write_refused", "events", "iss", "local_port", "receiver",
        "remote_port", "sender", "settings", "state", "user_timeout",
    )  # fmt: skip

    def __init__(
        self,
        local_port: int,
        remote_port: int = 0,
        *,
        iss: int,
        settings: Settings = DEFAULT,
        clock_offset: int = 0,
        pool: Pool | None = None,
        limit: RateLimit | None = None,
        control: Callable[[int], CongestionControl] | None = None,
    ) -> None:
        """`iss` comes from RFC 6528's function, `clock_offset` (ms) likewise (RFC 7323, 5.4).

        `pool` and `limit` are shared by all connections of a stack.
        """
        self.local_port = local_port
        self.remote_port = remote_port
        self.settings = settings
        self.state = State.CLOSED
        self.iss = iss
        self._clock_offset = clock_offset
        self._pool = pool or Pool(64 << 20)
        self._limit = limit or RateLimit(10, 5 * SECOND)
        self._control = control or ALGORITHMS[settings.congestion]
        self._outbox: list[Segment] = []
        self.events: list[Event] = []  # what `take_events` gives
        self._passive = False
        self._start_over()

    def _start_over(self) -> None:
        """Forget the peer: at first, and when a passive open begins anew."""
        settings = self.settings
        self.sender = Sender(
            self.iss, self._control(settings.segment), settings.segment, settings.send_buffer
        )
        self.sender.nodelay = settings.nodelay
        self.sender.pacing = settings.pacing
        self.receiver: Receiver | None = None
        self.user_timeout = settings.user_timeout
        self._timestamps = settings.timestamps
        self._selective = settings.selective
        self._ecn = settings.ecn
        self._send_shift = 0
        self._receive_shift = settings.window_shift
        self._scaling = settings.scaling
        self._recent = self._recent_at = 0  # TS.Recent and its age
        self._opened_at = 0
        self._heard_at = 0
        self._probes = 0  # keepalives unanswered
        self._time_wait_at = 0
        self._closing = False  # CLOSE came before ESTABLISHED
        self._early: Segment | None = None  # a SYN with data or a FIN, for when we are
        self._write_refused = False
        self._urgent_untold = False  # nothing has left since the user wrote urgent data

    # ---- what is said ----

    def segments_to_send(self, now: int) -> list[Segment]:
        """Return what leaves now, in order; a payload may hold many segments to be cut."""
        out = self._outbox
        if out:
            self._outbox = []
        else:
            out = []
        if self.state is _CLOSED or self.state is _LISTEN:
            return out
        sender, receiver = self.sender, self.receiver
        if receiver is not None and receiver.ack_now and receiver.duplicate_acks > 1:
            self._say_what_came(out, now)  # one for each, which data cannot say
        if sender.has_something:
            urgent = sender.buffer.urgent
            while (unit := sender.next_unit(now)) is not None:
                if unit[0] < urgent:
                    self._say_urgent(out, unit, now)
                else:
                    out.append(self._segment_of(unit, now))
            sender.prepare(now)
            if self._urgent_untold and sender.open and receiver is not None:
                receiver.ack_now = True  # which carries the pointer past a closed window
        if receiver is not None and (
            receiver.ack_now or (receiver.ack_at and now >= receiver.ack_at)
        ):
            if receiver.duplicate_acks or receiver.owes_blocks:
                self._say_what_came(out, now)
            else:
                receiver.acknowledged()
                out.append(self._segment(self._bare_position, ACK, now))
        return out

    def _say_what_came(self, out: list[Segment], now: int) -> None:
        """An acknowledgment with SACK blocks; without SACK a duplicate for each segment."""
        receiver = self.receiver
        if receiver is None:
            return
        copies = 1 if self._selective else max(receiver.duplicate_acks, 1)
        options = self._selecting(now)
        receiver.acknowledged()
        out += [self._segment(self._bare_position, ACK, now, options)] * copies

    @property
    def _bare_position(self) -> int:
        """Where a segment without payload stands: it is not heard beyond a window that is closed,
        where the byte that probed it is.
        """
        recovery = self.sender.recovery
        return recovery.una if recovery.closed else recovery.nxt

    def _selecting(self, now: int) -> Options | None:
        """The options with the SACK blocks of what waits for a gap; None where there are none."""
        receiver = self.receiver
        if receiver is None or not self._selective or not receiver.owes_blocks:
            return None
        most = 3 if self._timestamps else 4
        blocks = tuple((wrap(low), wrap(high)) for low, high in receiver.blocks(most))
        return Options(timestamp=self._timestamp(now), sack=blocks)

    def _say_urgent(self, out: list[Segment], unit: Unit, now: int) -> None:
        """A unit as single segments: the urgent pointer of each is another."""
        receiver = self.receiver
        if receiver is not None and receiver.ack_now and receiver.owes_blocks:
            self._say_what_came(out, now)  # there is no room for blocks beside a full payload
        start, end, again, cut = unit
        edges = range(start + cut, min(end, self.sender.buffer.end), cut) if cut else ()
        for low, high in pairwise((start, *edges, end)):
            out.append(self._segment_of(Unit(low, high, again, 0), now))

    def _segment_of(self, unit: Unit, now: int) -> Segment:
        sender, receiver, buffer = self.sender, self.receiver, self.sender.buffer
        start, end, again, cut = unit
        if start == self.iss:
            return self._syn(now)
        flags = ACK
        data_end = end
        if sender.fin is not None and end > sender.fin:
            flags |= FIN
            data_end = sender.fin
        size = data_end - start
        payload = buffer.slice(start, data_end) if size > 0 else b""
        if data_end == buffer.end and size > 0:
            flags |= PSH
        capable = self._ecn and size > 0 and not again and sender.window > 0  # 6.1.5, 6.1.6
        if capable and sender.recovery.reduced:
            sender.recovery.reduced = False
            flags |= CWR
        options = None
        if receiver is not None:
            if receiver.owes_blocks and cut:
                options = self._selecting(now)
                cut -= 0 if options is None else 4 + 8 * len(options.sack)
            receiver.acknowledged()
        return self._segment(start, flags, now, options, payload, capable, cut if size > cut else 0)

    def _syn(self, now: int) -> Segment:
        settings = self.settings
        answers = self.state is State.SYN_RECEIVED
        flags = SYN | (ACK if answers else 0)
        if self._ecn:
            flags |= ECE if answers else ECE | CWR
        timeout = self.user_timeout // SECOND if settings.announce_user_timeout else None
        options = Options(
            mss=settings.segment,
            window_shift=self._receive_shift if self._scaling else None,
            sack_permitted=self._selective,
            timestamp=self._timestamp(now),
            user_timeout=timeout,
        )
        if self.receiver is not None:
            self.receiver.acknowledged()
        return self._segment(self.iss, flags, now, options)

    def _segment(
        self,
        position: int,
        flags: int,
        now: int,
        options: Options | None = None,
        payload: bytes | memoryview = b"",
        capable: bool = False,
        cut: int = 0,
    ) -> Segment:
        """A segment of ours; without other options it carries a timestamp where negotiated."""
        if options is not None:
            pass
        elif self._timestamps:
            value = (now // MILLISECOND + self._clock_offset) & 0xFFFFFFFF
            options = _make(Options, (None, None, False, (value, self._recent), (), None))
        else:
            options = NO_OPTIONS
        receiver = self.receiver
        if receiver is None:
            ack, window = 0, self.settings.receive_buffer
        else:
            ack = receiver.nxt
            window = receiver.edge - ack if receiver.edge > ack else 0
            if receiver.echo_congestion and not flags & SYN:
                flags |= ECE
        if not flags & SYN:
            window >>= self._receive_shift
        if window > 0xFFFF:
            window = 0xFFFF
        urgent = 0
        if position < self.sender.buffer.urgent:
            urgent = self._urgent_pointer(position, flags)
            flags |= URG if urgent else 0
        return _make(
            Segment,
            (self.local_port, self.remote_port, position & 0xFFFFFFFF, ack & 0xFFFFFFFF, flags,
             window, options, payload, False, capable, cut, urgent),
        )  # fmt: skip

    def _urgent_pointer(self, position: int, flags: int) -> int:
        """How far behind `position` the urgent data ends, or seems to (MUST-31, MUST-62); 0: none.

        There is none once all of it is acknowledged, and none on a SYN, which has its own numbers.
        """
        sender = self.sender
        if flags & (SYN | RST) or sender.una >= sender.buffer.urgent:
            return 0
        self._urgent_untold = False
        return min(sender.buffer.urgent - position, 0xFFFF)

    def _challenge(self, now: int) -> None:
        """Say where we are, at a bounded rate (RFC 5961, section 7)."""
        if self._limit.allows(now):
            self._acknowledge_at_once(now)

    def _acknowledge_at_once(self, now: int) -> None:
        self._say_what_came(self._outbox, now)

    @property
    def stamps(self) -> tuple[int, int] | None:
        """TS.Recent, and what our clock is ahead of `now` (ms); None without timestamps."""
        return (self._recent, self._clock_offset) if self._timestamps else None

    def _timestamp(self, now: int) -> tuple[int, int] | None:
        if not self._timestamps:
            return None
        return self._tick(now) & 0xFFFFFFFF, self._recent

    def _tick(self, now: int) -> int:
        return now // MILLISECOND + self._clock_offset

    def _time_of(self, tick: int, now: int) -> int:
        """When a timestamp of ours was sent, to its millisecond; 0 for one that cannot be."""
        near = self._tick(now)
        sent = (unwrap(tick, near) - self._clock_offset) * MILLISECOND
        return sent if 0 < sent <= now else 0

    # ---- states ----

    def _step(self, step: Step) -> None:
        self.state = follow(self.state, step)

    def _close(self, reason: Reason) -> None:
        self._step(Step.DELETE)
        self._time_wait_at = 0
        if self.receiver is not None:
            self.receiver.release()
        self._tell(EventKind.CLOSED, reason)

    def _tell(self, kind: EventKind, reason: Reason | None = None) -> None:
        event = _PLAIN[kind] if reason is None else Event(kind, reason)
        if event not in self.events:
            self.events.append(event)

    def _tell_readable(self) -> None:
        events = self.events
        if not events or READABLE not in events:
            events.append(READABLE)

    def _tell_urgent(self) -> None:
        """Before what is readable: who reads at once would else have read past it."""
        events = self.events
        if _URGENT not in events:
            events.insert(events.index(READABLE) if READABLE in events else len(events), _URGENT)

    def _wait_out(self, now: int) -> None:
        self._time_wait_at = now + self.settings.time_wait
