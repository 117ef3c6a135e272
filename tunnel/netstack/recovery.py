"""What acknowledgments mean: delivery, and what congestion control is told.

An episode of repair that answered no loss is taken back: by timestamps (Eifel, RFC 3522) or when
DSACK (RFC 2883, RFC 3708) reports every retransmission as a duplicate.
"""

from __future__ import annotations

from typing import Final

from tunnel.netstack.acks import Ack
from tunnel.netstack.flight import Flight, Sent
from tunnel.netstack.repair import Repair
from tunnel.netstack.rtt import MILLISECOND
from tunnel.netstack.states import Mode

_OPEN: Final = Mode.OPEN


class Recovery(Repair):
    """One connection's flight and what is known of it."""

    __slots__ = ()

    # ---- sending ----

    @property
    def room(self) -> int:
        """How many bytes congestion control lets leave now; can be negative."""
        if self._prr is not None:
            return self._quota
        flight = self.flight
        return self.control.window - (self.nxt - self.una - flight.sacked - flight.lost)

    def resume(self, now: int) -> None:
        """Nothing is in flight, and something is to leave."""
        if now - self._sent_at > self.trip.timeout:
            self.control.on_idle()

    def sent_new(self, end: int, now: int, *, app_limited: bool) -> None:
        """[nxt, end) leaves for the first time."""
        start = self.nxt
        record = Sent(start, end)
        if start == self.una:
            self._rto_base = self.progress_at = now
        self.flight.append(record)
        self.nxt = end
        if self.probe:
            self._note_probe(again=False)
        self._leave(record, now, app_limited=app_limited)

    def sent_again(self, record: Sent, now: int) -> None:
        """A record leaves once more."""
        self._sent_once = self.nxt
        self._excused = 0
        if record.start == self.una:
            self._rto_base = now  # its answer takes another round trip, however much has come since
        self.flight.mark_sent_again(record)
        if self.probe:
            self._note_probe(again=True)
        else:
            self._first_again = self._first_again or now
            self._again += record.length
        self._leave(record, now, app_limited=False)

    def _leave(self, record: Sent, now: int, *, app_limited: bool) -> None:
        record.transmissions += 1
        flight = self.flight
        length = record.end - record.start
        in_flight = self.nxt - self.una - flight.sacked - flight.lost
        self.rate.on_sent(record, now, in_flight)
        if self._prr is not None:
            self._prr.sent += length
            self._quota -= length
        if in_flight <= length:
            self.control.on_restart(now, app_limited=app_limited)
        self._sent_at = now

    def _note_probe(self, *, again: bool) -> None:
        self.probe = False
        self._probe_end = self.nxt
        self._probe_again = again

    # ---- acknowledgments ----

    def advance(self, position: int, now: int) -> bool:
        """Take an acknowledgment that says only that all below `position` has come, in order.

        False, and nothing is done, unless no loss is known or suspected: then it is for
        `acknowledge`. What that does step by step is here in one piece, as nearly every
        acknowledgment is of this kind.
        """
        flight, una = self.flight, self.una
        if (
            una < self._sent_once
            or self.mode is not _OPEN
            or flight.sacked
            or flight.lost
            or self._probe_end
            or self.path_probe is not None
        ):
            return False
        nxt = self.nxt
        prior = nxt - una
        newest = flight.advance(position)
        sent_at = newest.sent_at
        self.una = position
        self._rto_base = self.progress_at = now
        self._reorder_at = 0
        self.rate.on_delivered(newest, position - una, now)
        rack, trip = self.rack, self.trip
        rack.sent_at = sent_at  # steps 1 to 3 of RFC 8985, section 6.2
        rack.end = rack.forward = position
        rack.rtt = rtt = now - sent_at
        in_window = (nxt - position) // (2 * self.segment)
        trip.sample(rtt, samples_per_window=1 if in_window < 1 else min(in_window, 16))
        sample = self._sample
        sample.acked = position - una
        sample.lost = 0
        sample.in_flight = nxt - position
        sample.prior_in_flight = prior
        sample.rtt = rtt
        sample.congested = sample.in_recovery = False
        self._tell(now)
        return True

    def finish(self) -> None:
        """All that was sent has arrived and no more will be: there is nothing left to learn."""
        self.una = self.nxt
        self.flight = Flight()
        self.mode = Mode.OPEN
        self.probe = False
        self.path_probe = self.path_takes = self._prr = None
        self._reorder_at = 0

    def acknowledge(self, ack: Ack, now: int, *, bare: bool) -> int:
        """Take an acknowledgment; return how many bytes it delivered. `bare`: nothing else."""
        flight = self.flight
        prior = flight.outstanding
        lost_before = self.rate.lost
        advanced = ack.position > self.una
        fresh: list[Sent] = []
        if advanced:
            fresh = [r for r in flight.acknowledge(ack.position) if not r.sacked]
            self.una = ack.position
            self._rto_base = self.progress_at = now
            self.trip.end_back_off()
        for start, end in ack.sack:
            fresh += flight.select(start, end)
        delivered = self._note_delivery(fresh, now, ack.echoed_at if advanced else 0)
        if self.path_probe is not None and self.path_probe in fresh:
            self._end_path_probe(passed=True)
        rtt = self._round_trip(fresh, ack, now, advanced=advanced)
        if ack.duplicate is not None:
            self.rack.duplicate_seen(self.una, self.nxt)
        if self.selective and fresh and (flight.sacked or self.mode is not Mode.OPEN):
            self._detect(now)
        elif not flight.sacked:
            self._reorder_at = 0
        if self._probe_end:
            self._end_probe(ack, now, prior, repeated=bare and not advanced)
        marked = ack.congested and self.una > self._congestion_point  # once a round
        self._change_mode(ack, now, prior, advanced=advanced, marked=marked)
        if delivered:
            sample = self._sample
            sample.acked = delivered
            sample.lost = self.rate.lost - lost_before
            sample.in_flight = flight.outstanding
            sample.prior_in_flight = prior
            sample.rtt = rtt
            sample.congested = marked
            sample.in_recovery = self.mode is Mode.RECOVERY
            self._tell(now)
        if self._prr is not None and delivered:
            safe = advanced and self.rate.lost == lost_before
            self._quota = self._prr.allowance(delivered, flight.outstanding, safe=safe)
            if flight.lost and not self.selective:  # nobody tells what left the network since
                self._quota = max(self._quota, self.segment)
        return delivered

    def _note_delivery(self, fresh: list[Sent], now: int, echoed_at: int) -> int:
        delivered = 0
        for record in fresh:
            self.rate.on_delivered(record, record.length, now)
            self.rack.delivered(record, now, self.trip, echoed_at)
            delivered += record.length
        return delivered

    def _round_trip(self, fresh: list[Sent], ack: Ack, now: int, *, advanced: bool) -> int:
        """Karn's rule: from records sent once, else from the echoed timestamp.

        Beside a retransmission even a record sent once tells little: it may have waited behind it.
        An echo can be too old, and the timeout would grow with each acknowledgment that was lost:
        a receiver echoes what came in order last, not the duplicate, or the segment above a gap,
        that made it speak again. So a duplicate reported gives no sample, and a record sent once
        that is newer than the echo gives the better one.
        """
        once = max((record.sent_at for record in fresh if record.transmissions == 1), default=0)
        if all(record.transmissions == 1 for record in fresh):
            sent_at = once
        elif not self.trip.smoothed and ack.echoed_at < fresh[-1].sent_at - MILLISECOND:
            self.trip.start_over()  # it may answer any of our SYNs
            return 0
        elif advanced and ack.duplicate is None and ack.echoed_at:
            sent_at = max(ack.echoed_at, once)
        else:
            sent_at = 0
        if not sent_at or now <= sent_at:  # at once: it never left (a SYN cookie)
            return 0
        in_window = max(self.flight.total // (2 * self.segment), 1)
        self.trip.sample(now - sent_at, samples_per_window=min(in_window, 16))
        return now - sent_at

    def _tell(self, now: int) -> None:
        """Complete the sample and hand it to congestion control."""
        sample, trip = self._sample, self.trip
        if self.rate.fill(sample, trip.minimum):
            sample.now = now
            sample.minimum_rtt = trip.minimum
            sample.smoothed_rtt = trip.smoothed
            sample.cumulative = self.una
            sample.next_sequence = self.nxt
            self.control.on_ack(sample)

    # ---- episodes ----

    def _change_mode(self, ack: Ack, now: int, prior: int, *, advanced: bool, marked: bool) -> None:
        if self.mode is not Mode.OPEN:
            if self._is_spurious(ack, advanced=advanced):
                self._undo(now)
            elif self.una >= self._point:
                self._end_episode(now)
            elif advanced and not self.selective and self.mode is Mode.RECOVERY:
                first = next(iter(self.flight), None)  # a partial acknowledgment: RFC 6582, 3.2
                if first is not None:
                    self._lose_first(first)
        if self.mode is Mode.OPEN and self.flight.lost > self._excused:
            self._enter(now, prior)
        if marked:
            self._congestion_point = self.nxt
            self.reduced = True
            if self.mode is Mode.OPEN:
                self._enter(now, prior)

    def _is_spurious(self, ack: Ack, *, advanced: bool) -> bool:
        if not self._first_again:
            return False
        if ack.duplicate is not None:
            self._again -= ack.duplicate[1] - ack.duplicate[0]
            if self._again <= 0 and not self.flight.lost:
                return True
        # The echo names a transmission from before our first retransmission (RFC 3522).
        return advanced and 0 < ack.echoed_at < self._first_again - MILLISECOND

    def _undo(self, now: int) -> None:
        for record in self.flight:
            self.flight.mark_sent_again(record)
        self.control.on_spurious()
        self._end_episode(now)
        if self.selective and self.flight.sacked:
            self._detect(now)  # what is lost all the same need not wait for the timer

    def _end_probe(self, ack: Ack, now: int, prior: int, *, repeated: bool) -> None:
        """Section 7.4.2 of RFC 8985: did the probe hide a loss?

        Not where it brought new data, nor where it is reported as a duplicate. One that arrived
        alone is known by an acknowledgment beyond it, before which a duplicate would have come.
        """
        end = self._probe_end
        if ack.position < end:
            return
        duplicate = ack.duplicate is not None and ack.duplicate[1] == end
        if not self._probe_again or duplicate or (repeated and not ack.sack):
            self._probe_end = 0
        elif ack.position > end:
            self._probe_end = 0
            if self.mode is Mode.OPEN:
                self.control.on_congestion(now, prior, self.nxt)
                self.control.on_recovery_end(now)

    @property
    def listens(self) -> bool:
        """Whether an acknowledgment may tell something: of what is in flight, or of a probe."""
        return self.nxt > self.una or self._probe_end > 0
