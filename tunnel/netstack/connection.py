"""A TCP connection: the user's calls and the arrival of segments (RFC 9293, section 3.10).

Sans I/O. Whoever owns it hands in segments and the time, sends what `segments_to_send` gives, and
calls `handle_timeout` when `next_deadline` has come. `_arrive` follows section 3.10.7.4 step by
step. A segment never raises, whatever it holds: it is taken, answered or dropped.
"""

from __future__ import annotations

from typing import Final

from tunnel.netstack.endpoint import Event, EventKind, Reason
from tunnel.netstack.handshake import SMALLEST_SEGMENT, TIMESTAMP_BYTES, Handshake, reset_for
from tunnel.netstack.rtt import SECOND
from tunnel.netstack.segment import ACK, CWR, FIN, NO_OPTIONS, PSH, RST, SYN, URG, Segment
from tunnel.netstack.sequence import unwrap
from tunnel.netstack.states import MAY_RECEIVE, MAY_WRITE, State, Step

__all__ = ["Connection", "reset_for"]

_NOT_PUSH: Final = 0xFF & ~PSH
_MASK, _HALF = 0xFFFFFFFF, 1 << 31
_ESTABLISHED: Final = State.ESTABLISHED  # a member costs a look-up in its class each time
_RECENT_IS_OLD: Final = 24 * 24 * 3600 * SECOND  # RFC 7323, section 5.5


class Connection(Handshake):
    """One connection, from OPEN to CLOSED."""

    __slots__ = ()

    # ---- the user's calls (section 3.10.1 to 3.10.6) ----

    def connect(self, now: int) -> None:
        """Open actively."""
        self._step(Step.ACTIVE_OPEN)
        self._opened_at = now

    def listen(self) -> None:
        """Open passively: the first SYN that comes names the peer."""
        self._passive = True
        self._step(Step.PASSIVE_OPEN)

    def write(self, data: bytes | bytearray | memoryview, *, urgent: bool = False) -> int:
        """Take bytes to send, as many as the buffer has room for; WRITABLE tells of new room.

        `urgent`: the peer's reader is to hurry until it has them (RFC 9293, section 3.8.5). It is
        told at once, also where its window lets nothing leave; the bytes stay in their place.

        Raises BrokenPipeError after close() and on a connection that is closed.
        """
        if self.state not in MAY_WRITE or self._closing:
            raise BrokenPipeError(f"cannot write: the connection is {self.state.value}")
        taken = self.sender.write(data)
        if urgent and taken:
            self.sender.buffer.urgent = self.sender.buffer.end
            self._urgent_untold = True
        self._write_refused |= taken < len(data)
        return taken

    def read(self, most: int) -> bytes:
        """Return up to `most` bytes that came in order; empty when there are none now."""
        return b"" if self.receiver is None else self.receiver.read(most)

    def take(self, most: int) -> list[bytes | memoryview]:
        """Return up to `most` bytes as they came, in pieces and without a copy."""
        return [] if self.receiver is None else self.receiver.take(most)

    @property
    def readable(self) -> int:
        """How many bytes `read` could give."""
        return 0 if self.receiver is None else self.receiver.readable

    @property
    def urgent(self) -> int:
        """How many bytes are to be read until the urgent data ends, come or not; 0: none waits."""
        return 0 if self.receiver is None else self.receiver.urgent_left

    @property
    def finished(self) -> bool:
        """Whether the peer has sent its FIN and everything before it has come."""
        receiver = self.receiver
        return receiver is not None and receiver.fin is not None and receiver.nxt > receiver.fin

    @property
    def segment_size(self) -> int:
        """Payload bytes of a full segment; `Segment.cut` tells how a unit is cut."""
        return self.sender.segment

    def close(self) -> None:
        """Send no more after what has been written; the peer may go on (half-close)."""
        if self.state in (State.LISTEN, State.SYN_SENT):
            self._close(Reason.ABORTED)
        elif self.state is State.SYN_RECEIVED:
            self._closing = True
        elif self.state in MAY_WRITE:
            self._step(Step.CLOSE)
            self.sender.close()

    def abort(self, now: int) -> None:
        """Drop everything and reset the peer."""
        if self.state is State.CLOSED:
            return
        if self.state not in (State.LISTEN, State.SYN_SENT, State.TIME_WAIT):
            self._outbox.append(self._segment(self._bare_position, RST | ACK, now, NO_OPTIONS))
        self._close(Reason.ABORTED)

    def take_events(self) -> list[Event]:
        """Return what has happened since the last call."""
        events, self.events = self.events, []
        return events

    def path_segment(self, size: int) -> None:
        """The path takes payloads of this size at most (options not counted off): RFC 1191."""
        size -= TIMESTAMP_BYTES if self._timestamps else 0
        if size < self.sender.segment:
            self.sender.path_told(max(size, SMALLEST_SEGMENT), self._heard_at)

    # ---- segments arrive (section 3.10.7) ----

    def receive(self, segment: Segment, now: int) -> None:
        """Take one segment, or one unit of consecutive ones."""
        state = self.state
        if state is _ESTABLISHED and self._take_predicted(segment, now):
            return
        if state is State.CLOSED:
            self._reset_sender(segment)
        elif state is State.LISTEN:
            self._arrive_in_listen(segment, now)
        elif state is State.SYN_SENT:
            self._arrive_in_syn_sent(segment, now)
            if self._early is not None and self.sender.open:
                self._take_early(self._early, now)
        else:
            self._arrive(segment, now)

    def _take_predicted(self, segment: Segment, now: int) -> bool:
        """Take what nearly every segment of an established connection is: False if it is not.

        That is payload in order, an acknowledgment of something new, or both, and nothing else to
        say. The same as `_arrive` would do, in one piece (header prediction).
        """
        _, _, sequence, ack, flags, window, options, payload, congested, _, _, _ = segment
        receiver, sender = self.receiver, self.sender
        recovery = sender.recovery
        if (
            flags & _NOT_PUSH != ACK
            or receiver is None
            or sequence != receiver.nxt & _MASK
            or congested
            or receiver.fin is not None
            or options.sack
        ):
            return False
        timestamp = options.timestamp
        if self._timestamps and (
            timestamp is None or (timestamp[0] - self._recent) & _MASK >= _HALF
        ):
            return False
        nxt, una = receiver.nxt, recovery.una
        length = len(payload)
        news = (ack - una) & _MASK
        if news:
            if (
                news > recovery.nxt - una
                or nxt + length > receiver.edge
                or not sender.advance(una + news, now)
            ):
                return False
        elif not length or nxt + length > receiver.edge or recovery.closed:
            return False
        if timestamp is not None and nxt <= receiver.acked:
            self._recent, self._recent_at = timestamp[0], now
        self._heard_at = now
        self._probes = 0
        sender.update_window(nxt, una + news, window << self._send_shift)
        if self._write_refused:
            self._tell_writable()
        if length and receiver.accept(nxt, payload, now):
            self._tell_readable()
            receiver.tune(now, recovery.trip.smoothed)
        return True

    def _tell_writable(self) -> None:
        buffer = self.sender.buffer
        if 2 * buffer.room >= buffer.limit:
            self._write_refused = False
            self._tell(EventKind.WRITABLE)

    def _arrive(self, segment: Segment, now: int) -> None:
        """3.10.7.4, for every state that knows the peer."""
        receiver = self._receiver
        flags = segment.flags
        sequence = unwrap(segment.sequence, receiver.nxt)
        length = segment.length
        if flags & SYN and self.state is State.SYN_RECEIVED and sequence == receiver.nxt - 1:
            if not flags & ACK:  # our SYN,ACK was lost
                self.sender.recovery.send_all_again()
                return
            flags &= ~SYN  # simultaneous open: only the acknowledgment is news
            sequence, length = sequence + 1, length - 1
        if not self._check_timestamp(segment, length, now):
            return
        if not self._check_sequence(segment, sequence, length, now):
            return
        if flags & RST:
            self._take_reset(sequence, now)
            return
        if flags & SYN:
            self._challenge(now)  # RFC 5961, section 4
            return
        if not flags & ACK:
            return
        if not self._take_acknowledgment(segment, sequence, now):
            return
        timestamp = segment.options.timestamp
        if self._timestamps and timestamp is not None and sequence <= receiver.acked:
            self._recent, self._recent_at = timestamp[0], now  # R3 of RFC 7323, section 5.3
        self._take_urgent(segment, sequence)
        if receiver.edge == receiver.nxt and length:  # a probe of our closed window
            receiver.ack_now = True
            return
        self._take_text(segment, sequence, now)

    def _take_early(self, early: Segment, now: int) -> None:
        """What came with the SYN (3.10.7.2 and 3.10.7.3), behind which it begins."""
        self._early = None
        self._take_urgent(early, self._receiver.nxt - 1)
        self._take_text(early, self._receiver.nxt, now)

    def _take_urgent(self, segment: Segment, sequence: int) -> None:
        """The sixth check; behind a FIN nothing is urgent, so in no state but the right ones."""
        if segment.flags & URG and self._receiver.urge(sequence + segment.urgent):
            self._tell_urgent()

    def _take_text(self, segment: Segment, sequence: int, now: int) -> None:
        """The seventh and the eighth check."""
        receiver = self._receiver
        if segment.payload and self.state in MAY_RECEIVE:
            self._take_payload(segment, sequence, now)
        if segment.flags & FIN:
            receiver.finish(sequence + len(segment.payload))
        if receiver.fin is not None and receiver.take_fin():
            self._take_fin(now)

    def _check_timestamp(self, segment: Segment, length: int, now: int) -> bool:
        """RFC 7323, section 5.3: R1. R3 comes last: what is refused until then must not set it."""
        if not self._timestamps:
            return True
        timestamp = segment.options.timestamp
        if timestamp is None:  # section 3.2; a SYN is for RFC 5961 to answer, whatever it carries
            return bool(segment.flags & (RST | SYN))
        ahead = unwrap(timestamp[0], self._recent) - self._recent
        if ahead < 0 and not segment.flags & RST and now - self._recent_at < _RECENT_IS_OLD:
            if length or self._limit.allows(now):
                self._receiver.ack_now = True
            return False
        return True

    def _check_sequence(self, segment: Segment, sequence: int, length: int, now: int) -> bool:
        """The first check of 3.10.7.4: does the segment touch the window?"""
        receiver = self._receiver
        nxt, edge = receiver.nxt, receiver.edge
        if nxt <= sequence < edge or sequence == nxt:
            return True
        if nxt == edge and sequence == nxt + 1 and not length:
            return True  # what it says stands behind the byte that probes our closed window
        if length and nxt < sequence + length and sequence < edge:
            return True
        if segment.flags & RST:
            return False
        if segment.payload and sequence + length <= nxt:
            receiver.accept(sequence, segment.payload, now)  # for the DSACK
        if self.state is State.TIME_WAIT and segment.flags & FIN:
            self._wait_out(now)
        if length:
            receiver.ack_now = True
        else:
            self._challenge(now)
        return False

    def _take_reset(self, sequence: int, now: int) -> None:
        """RFC 5961, section 3.2: exactly the next position, else prove it."""
        if sequence != self._receiver.nxt:
            self._challenge(now)
        elif self.state is State.SYN_RECEIVED and self._passive:
            self._receiver.release()
            self._step(Step.RETURN_TO_LISTEN)
            self._start_over()
        elif self.state is State.SYN_RECEIVED:
            self._close(Reason.REFUSED)
        elif self.state in (State.CLOSING, State.LAST_ACK, State.TIME_WAIT):
            self._close(Reason.FINISHED)
        else:
            self._close(Reason.RESET)

    def _take_acknowledgment(self, segment: Segment, sequence: int, now: int) -> bool:
        """The fifth check. False where the segment is to be dropped."""
        sender = self.sender
        ack = unwrap(segment.acknowledgment, sender.una)
        window = segment.window << self._send_shift
        if self.state is State.SYN_RECEIVED:
            if not sender.una < ack <= sender.nxt:
                self._reset_sender(segment)
                return False
            self._step(Step.SYN_ACKED)
            sender.synchronize(sequence, ack, window)
            self._establish(segment, ack, now)
            if self._early is not None:
                self._take_early(self._early, now)
            return True
        if ack > sender.nxt or ack < sender.una - sender.largest_window:
            self._challenge(now)  # RFC 5961, section 5
            return False
        self._heard_at = now
        self._probes = 0
        if ack >= sender.una:
            if sender.fin is not None and ack > sender.fin:
                sender.finish()
            elif sender.recovery.listens:
                bare = not segment.length and window == sender.window
                sender.acknowledge(self._ack_of(segment, ack, now), now, bare=bare)
            sender.update_window(sequence, ack, window)
            if self._write_refused:
                self._tell_writable()
        if sender.fin_acked:
            self._fin_acknowledged(now)
        return True

    def _fin_acknowledged(self, now: int) -> None:
        if self.state is State.FIN_WAIT_1:
            self._step(Step.FIN_ACKED)
        elif self.state is State.CLOSING:
            self._step(Step.FIN_ACKED)
            self._wait_out(now)
        elif self.state is State.LAST_ACK:
            self._close(Reason.FINISHED)

    def _take_payload(self, segment: Segment, sequence: int, now: int) -> None:
        """The seventh check; with the congestion mark's echo (RFC 3168, section 6.1.3)."""
        receiver = self._receiver
        if self._ecn:
            if segment.flags & CWR:
                receiver.echo_congestion = False
            if segment.congested:
                receiver.echo_congestion = True
        if receiver.accept(sequence, segment.payload, now):
            self._tell_readable()
        receiver.tune(now, self.sender.recovery.trip.smoothed)

    def _take_fin(self, now: int) -> None:
        """The eighth check."""
        if self.state in (State.ESTABLISHED, State.FIN_WAIT_1, State.FIN_WAIT_2):
            self._step(Step.FIN)
            self._tell(EventKind.FINISHED)
        if self.state is State.TIME_WAIT:
            self._wait_out(now)
