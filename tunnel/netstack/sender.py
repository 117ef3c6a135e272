"""What may be sent now: the sending half of a connection.

In this order: what was lost, a tail loss probe, new data, the FIN. Limits are the peer's window,
congestion control, pacing, Nagle (RFC 9293, section 3.7.4) and the avoidance of silly windows
(section 3.8.6.2.1). Where the window keeps everything back, the persist timer sends a byte into it
(section 3.8.6.1). SYN and FIN are positions like any byte, so one flight serves for all.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tunnel.netstack.acks import Ack
from tunnel.netstack.congestion.control import CongestionControl
from tunnel.netstack.pacing import MAX_UNIT, Pacer, quantum
from tunnel.netstack.pathprobe import AGAIN, FOLLOWERS, SUSPICIOUS, PathSearch, safer
from tunnel.netstack.recovery import Recovery
from tunnel.netstack.rtt import MAX_RTO, SECOND
from tunnel.netstack.sendbuffer import SendBuffer
from tunnel.netstack.states import Mode

_WORTH_A_COPY: Final = 16_384  # bytes: what is put together is not worth more units

_make: Final = tuple.__new__  # as in segment.py


class Unit(NamedTuple):
    """A range of positions that leaves now."""

    start: int
    end: int
    again: bool
    cut: int  # into segments of this many bytes; 0 leaves it whole


class Sender:
    """From the initial sequence number on; `una`, `nxt` and so on are unwrapped positions."""

    __slots__ = (
        "_duplicates", "_forced", "_most", "_pacer", "_persist_at", "_persist_count",
        "_search", "_seen_ack", "_seen_sequence", "buffer", "corked", "end", "fin",
        "largest_window", "nodelay", "open", "pacing", "recovery", "segment", "start", "window",
    )  # fmt: skip

    def __init__(self, start: int, control: CongestionControl, segment: int, limit: int) -> None:
        self.start = start
        self.buffer = SendBuffer(start + 1, limit)
        self.recovery = Recovery(start, control, segment)
        self.segment = segment
        self.end = self.buffer.end  # one past all that the user gave us, the FIN included
        self.window = 1  # SND.WND; the SYN may go
        self.largest_window = 0
        self.nodelay = False
        self.pacing = True
        self.corked = False
        self._search: PathSearch | None = None
        self._most = segment  # the largest segment that both ends take
        self.fin: int | None = None  # the position of our FIN, once the user closed
        self.open = False  # synchronized: more than the SYN may be sent
        self._seen_sequence = self._seen_ack = 0  # SND.WL1, SND.WL2
        self._pacer = Pacer()
        self._persist_at = 0
        self._persist_count = 0
        self._forced = False  # the persist timer fired
        self._duplicates = 0

    @property
    def una(self) -> int:
        """The oldest position not acknowledged."""
        return self.recovery.una

    @property
    def nxt(self) -> int:
        """The next position to be sent."""
        return self.recovery.nxt

    @property
    def unit(self) -> int:
        """How many bytes leave at once at most: whole segments."""
        return MAX_UNIT - MAX_UNIT % self.segment

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take what there is room for; return how much that was.

        Of more than that, whole segments, so that what leaves lies in one piece.
        """
        room, segment = self.buffer.room, self.segment
        if segment <= room < len(data):
            data = memoryview(data)[: room - room % segment]
        taken = self.buffer.append(data)
        self.end = self.buffer.end
        return taken

    def close(self) -> None:
        """Put the FIN behind what has been written."""
        if self.fin is None:
            self.fin = self.buffer.end
            self.end = self.fin + 1

    @property
    def fin_acked(self) -> bool:
        """Whether the peer has acknowledged our FIN."""
        return self.fin is not None and self.una > self.fin

    # ---- what comes in ----

    def advance(self, position: int, now: int) -> bool:
        """Take an acknowledgment of something new that says nothing else; False: not taken."""
        if self.recovery.closed or not self.recovery.advance(position, now):
            return False
        self.buffer.release(position)
        self._duplicates = self._persist_count = 0
        return True

    def finish(self) -> None:
        """Our FIN, and so everything, has been acknowledged."""
        self.recovery.finish()
        self.buffer.release(self.recovery.una)
        self._persist_at = self._persist_count = 0

    def acknowledge(self, ack: Ack, now: int, *, bare: bool) -> int:
        """Take an acknowledgment; return the bytes delivered. `bare`: no data, same window."""
        before = self.una
        if self.window < self.segment:  # it answers our probes: alive, however long it takes
            self.recovery.progress_at = now
            if self.window:
                self.recovery.trip.end_back_off()
        delivered = self.recovery.acknowledge(ack, now, bare=bare)
        if self.recovery.path_takes is not None:
            self._path_answered()
        if self.una > before:
            self.buffer.release(self.una)
            self._duplicates = self._persist_count = 0
        elif bare and not self.recovery.selective and self.nxt > self.una == ack.position:
            self._duplicates += 1
            if self._duplicates == 3:
                self.recovery.duplicates_say_lost(now)
        return delivered

    def update_window(self, sequence: int, ack: int, window: int) -> None:
        """RFC 9293, section 3.10.7.4: only from newer segments."""
        seen = self._seen_sequence
        if seen > sequence or (seen == sequence and self._seen_ack > ack):
            return
        self._seen_sequence, self._seen_ack = sequence, ack
        if window == self.window and window:
            return
        if window > self.window and self._persist_count:
            self.recovery.send_all_again()  # the probe that the closed window swallowed
            self._persist_count = 0
        self.window = window
        self.largest_window = max(self.largest_window, window)
        self.recovery.closed = not window
        if window:
            self._persist_at = 0

    def synchronize(self, sequence: int, ack: int, window: int) -> None:
        """The peer's SYN came: its window counts from here."""
        self._seen_sequence, self._seen_ack = sequence, ack
        self.window = window
        self.largest_window = max(self.largest_window, window)

    # ---- the path's segment size ----

    def path_told(self, size: int, now: int) -> None:
        """The network says that segments were too large (RFC 1191, RFC 8201)."""
        self._search = PathSearch(size, size, self._most, now + AGAIN)
        self.resize(size, again=True)

    def _path_answered(self) -> None:
        """A probe arrived, or did not."""
        search, passed = self._search, self.recovery.path_takes
        self.recovery.path_takes = None
        if search is None or passed is None:
            return
        self.resize(search.settle(passed=passed))
        if search.over:
            self._search = None

    def _suspect_path(self) -> None:
        """Silence again and again: perhaps the path swallows large segments."""
        size, first = safer(self.segment), self.recovery.flight.first_lost()
        if size < self.segment and first is not None and first.length > size:
            self._search = PathSearch(size, self._most, self._most)
            self.resize(size, again=True)
            self.recovery.trip.end_back_off()  # what leaves now is another try

    def _path_probe(self, search: PathSearch, available: int, now: int) -> Unit | None:
        """One segment larger than the rest, where its loss would show soon and harm nothing."""
        recovery = self.recovery
        size = search.candidate(now)
        needed = size + FOLLOWERS * self.segment
        if (
            not size
            or recovery.mode is not Mode.OPEN
            or not recovery.selective
            or recovery.flight.sacked
            or self._pacer.at > now
            or min(available, recovery.room, self.una + self.window - self.nxt) < needed
        ):
            return None
        search.tried = size
        unit = self._new_unit(size, now)
        recovery.probe_path()
        return unit._replace(cut=0)

    def adopt(self, segment: int) -> None:
        """Both ends have said what they take."""
        self._most = segment
        self.resize(segment)

    def resize(self, segment: int, *, again: bool = False) -> None:
        """Segments have another size from now on; `again` where those in flight were too big."""
        if segment != self.segment:
            self.segment = self.recovery.segment = segment
            self.recovery.control.on_segment_size(segment)
            if again:
                self.recovery.send_all_again()

    # ---- what goes out ----

    @property
    def has_something(self) -> bool:
        """Whether anything waits to be sent, however long it may have to."""
        recovery = self.recovery
        return recovery.nxt < self.end or recovery.flight.lost > 0 or recovery.probe

    def next_unit(self, now: int) -> Unit | None:
        """Return what leaves now and count it as sent; None when nothing may."""
        recovery = self.recovery
        self._pacer.held = False
        if recovery.flight.lost:
            return self._lost_unit(now)
        if recovery.probe:
            return self._probe_unit(now)
        if not self.open:
            return self._new_unit(1, now) if recovery.nxt == self.start else None
        available = self.end - recovery.nxt
        if available <= 0:
            return None
        if self._search is not None and not self._forced:
            probe = self._path_probe(self._search, available, now)
            if probe is not None:
                return probe
        if recovery.nxt == recovery.una:
            recovery.resume(now)
        length = self._new_length(available)
        if not length:
            self._pacer.waits = False  # a window keeps us back
            return None
        if self._pacer.holds(now):
            return None
        self._forced = False
        return self._new_unit(length, now)

    def _lost_unit(self, now: int) -> Unit | None:
        recovery = self.recovery
        record = recovery.flight.first_lost()
        if record is None or (recovery.room < min(self.segment, record.length)):
            return None
        if self._pacer.holds(now):
            return None
        most = max(min(recovery.room, self._quantum) // self.segment, 1) * self.segment
        if recovery.mode is Mode.LOSS or not self.window:
            usable = recovery.una + self.window - record.start  # the window may have shrunk
            most = min(most, max(usable, int(record.start == recovery.una)))  # a byte probes it
            if not most:
                return None
        recovery.flight.cut_first(record, most)
        recovery.sent_again(record, now)
        self._pace(record.length, now)
        return Unit(record.start, record.end, again=True, cut=self.segment)

    def _probe_unit(self, now: int) -> Unit | None:
        """RFC 8985, section 7.3: new data if the window takes it, else the last segment."""
        flight = self.recovery.flight
        length = min(self.segment, self.end - self.nxt, self.una + self.window - self.nxt)
        if self.open and length > 0:
            return self._new_unit(length, now)
        last = flight.last
        if last is None:
            self.recovery.probe = False
            return None
        if last.length > self.segment:
            flight.cut_first(last, last.length - self.segment)
            last = flight.last or last
        self.recovery.sent_again(last, now)
        return Unit(last.start, last.end, again=True, cut=self.segment)

    def _new_length(self, available: int) -> int:
        """How much new data may leave: windows, Nagle, silly windows; pacing apart."""
        recovery, segment = self.recovery, self.segment
        usable = recovery.una + self.window - recovery.nxt
        if self._forced:
            return max(min(available, usable, segment), 1)
        room = recovery.room
        length = min(available, usable, room, self._quantum)
        if usable < segment <= room and usable < available:
            # The peer's window keeps us back, which says as little of the path as an idle user.
            recovery.rate.limited_by_application(recovery.nxt - recovery.una)
        if length >= segment:
            whole = length - length % segment if length < available else self._whole(length)
            return whole if whole < _WORTH_A_COPY else self._uncopied(whole)
        if length <= 0:
            return 0
        if length == available:
            return 0 if (self.corked or len(recovery.flight)) and not self._eager else length
        if usable <= length and 2 * length >= self.largest_window:
            return length
        return 0

    def _uncopied(self, length: int) -> int:
        """Rather a unit that is not the largest than one that must be put together."""
        piece = self.buffer.contiguous(self.recovery.nxt)
        return piece if _WORTH_A_COPY <= piece < length and not piece % self.segment else length

    def _whole(self, length: int) -> int:
        """Everything that is there; the short rest too only where Nagle agrees."""
        rest = length % self.segment
        return length if not rest or self._eager else length - rest

    @property
    def _eager(self) -> bool:
        """Whether nothing waits for more: neither a FIN nor urgent data does."""
        hurried = self.fin is not None or self.buffer.urgent > self.recovery.nxt
        return hurried or (self.nodelay and not self.corked)

    def _new_unit(self, length: int, now: int) -> Unit:
        recovery = self.recovery
        start = recovery.nxt
        end = start + length
        # A rest that Nagle keeps back is no more than nothing.
        all_sent = self.end - end < self.segment and recovery.room > length
        if all_sent:
            recovery.rate.limited_by_application(recovery.flight.outstanding + length)
        recovery.sent_new(end, now, app_limited=all_sent)
        self._pace(length, now)
        return _make(Unit, (start, end, False, self.segment))

    # ---- pacing ----

    @property
    def pacing_rate(self) -> int:
        """Bytes a second, 0 for unpaced. Twice the window a round trip without a model."""
        if not self.pacing:
            return 0
        control = self.recovery.control
        rate = control.pacing_rate
        if rate is None:
            smoothed = self.recovery.trip.smoothed
            if not smoothed:
                return 0
            rate = 2 * control.window * SECOND // smoothed
        return rate if rate > self.segment else self.segment

    @property
    def _quantum(self) -> int:
        return quantum(self.pacing_rate, self.segment)

    def _pace(self, length: int, now: int) -> None:
        rate = self.pacing_rate
        if rate:
            self.recovery.rate.idled += self._pacer.count(length, rate, now)

    # ---- time ----

    def prepare(self, now: int) -> None:
        """After sending: start the persist timer where only the window, or its size, holds us."""
        nxt = self.recovery.nxt
        waiting = nxt == self.recovery.una and self.open and self.end > nxt
        if not waiting or self._pacer.held:
            self._persist_at = 0
        elif not self._persist_at:
            wait = min(self.recovery.trip.base << min(self._persist_count, 9), MAX_RTO)
            self._persist_at = now + wait

    @property
    def deadline(self) -> int | None:
        """When `handle_timeout` or another attempt to send is due."""
        due = self.recovery.deadline
        if self._pacer.held and self.has_something and (due is None or self._pacer.at < due):
            due = self._pacer.at
        if self._persist_at and (due is None or self._persist_at < due):
            due = self._persist_at
        return due

    def handle_timeout(self, now: int) -> None:
        """Do what is due; `next_unit` then has something to give."""
        if self._persist_at and now >= self._persist_at:
            self._persist_at = 0
            self._persist_count += 1
            self._forced = True
            self.recovery.trip.back_off()
        before = self.recovery.trip.silent
        self.recovery.handle_timeout(now)
        if self.recovery.path_takes is not None:
            self._path_answered()
        silent = self.recovery.trip.silent
        if before < silent and silent % SUSPICIOUS == 0 and self.open and self.window:
            self._suspect_path()
