"""What is in flight and when it is taken for lost: by RACK, by a lost probe, by silence.

Losses are found by RACK (RFC 8985, section 6); a lost tail by a probe (section 7); silence by the
retransmission timer (RFC 6298). An episode of repair lasts until everything that had been sent
when it began is acknowledged. With a loss-based control PRR (RFC 9937) spreads sending over the
episode; a control with a model of its own (one that has a pacing rate) rules by its window alone.
"""

from __future__ import annotations

from typing import Final

from tunnel.netstack.congestion.control import AckSample, CongestionControl
from tunnel.netstack.flight import Flight, Sent
from tunnel.netstack.prr import ProportionalRateReduction
from tunnel.netstack.rack import MAX_ACK_DELAY, Rack
from tunnel.netstack.rate import DeliveryRate
from tunnel.netstack.rtt import RoundTrip
from tunnel.netstack.states import Mode

_OPEN: Final = Mode.OPEN


class Repair:
    """One connection's flight, its losses and its timers."""

    __slots__ = (
        "_again", "_congestion_point", "_excused", "_first_again", "_point", "_probe_again",
        "_probe_end", "_prr", "_quota", "_reorder_at", "_rto_base", "_sample", "_sent_at",
        "_sent_once", "closed", "control", "flight", "mode", "nxt", "path_probe", "path_takes",
        "probe", "progress_at", "rack", "rate", "reduced", "segment", "selective", "trip", "una",
    )  # fmt: skip

    def __init__(self, start: int, control: CongestionControl, segment: int) -> None:
        self.una = self.nxt = start
        self.control = control
        self.segment = segment
        self.flight = Flight()
        self.trip = RoundTrip()
        self.rack = Rack()
        self.rate = DeliveryRate()
        self.mode = Mode.OPEN
        self.selective = False  # SACK was negotiated
        self.reduced = False  # ECN: the next new data carries CWR
        self.probe = False  # a tail loss probe is due
        self.closed = False  # the peer's window is zero: silence is no sign of congestion
        self.progress_at = 0  # when the peer last acknowledged something new
        self._point = start  # the episode ends here
        self._congestion_point = start  # one reduction for ECN until here
        self._prr: ProportionalRateReduction | None = None
        self._quota = 0
        self._rto_base = 0
        self._sent_at = 0
        self._reorder_at = 0
        self._probe_end = 0  # TLP.end_seq; 0 when none is outstanding
        self._probe_again = False  # the probe sent old data
        self.path_probe: Sent | None = None  # a segment larger than others: RFC 4821
        self.path_takes: bool | None = None  # what became of it
        self._excused = 0  # bytes of one that was lost: no sign of congestion
        self._sent_once = start  # nothing at or above was sent twice
        self._sample = AckSample()
        self._first_again = 0  # when the episode's first retransmission left
        self._again = 0  # the episode's retransmitted bytes not yet known to be needless

    # ---- losses ----

    def _detect(self, now: int) -> None:
        lost, wait = self.rack.detect(
            self.flight,
            now,
            self.trip,
            recovering=self.mode is not Mode.OPEN,
            segment=self.segment,
        )
        if self.path_probe is not None and self.path_probe in lost:
            lost.remove(self.path_probe)
            self._end_path_probe(passed=False)
        self.rate.lost += sum(record.length for record in lost)
        self._reorder_at = now + wait if wait else 0

    def probe_path(self) -> None:
        """What was just sent is larger than the path is known to take."""
        self.path_probe = self.flight.last

    def _end_path_probe(self, *, passed: bool) -> None:
        if self.path_probe is not None and not passed:
            self._excused = self.path_probe.length
        self.path_probe = None
        self.path_takes = passed

    def duplicates_say_lost(self, now: int) -> None:
        """Three duplicate acknowledgments without SACK: the first is lost (RFC 6582)."""
        first = next(iter(self.flight), None)
        if first is not None and self.mode is Mode.OPEN:
            prior = self.flight.outstanding
            self._lose_first(first)
            self._enter(now, prior)

    def _lose_first(self, first: Sent) -> None:
        self.flight.cut_first(first, self.segment)
        if not first.lost:
            self.flight.mark_lost(first)
            self.rate.lost += first.length

    def _enter(self, now: int, prior: int) -> None:
        self.mode = Mode.RECOVERY
        self._begin_episode()
        self.control.on_congestion(now, prior, self.nxt)
        if self.control.pacing_rate is None:
            self._prr = ProportionalRateReduction(prior, self.control.window, self.segment)
            self._quota = self.segment  # the fast retransmission itself

    def _begin_episode(self) -> None:
        self._point = self.nxt
        self._first_again = self._again = 0
        self.probe = False
        self._probe_end = 0

    def _end_episode(self, now: int) -> None:
        self.mode = Mode.OPEN
        self._prr = None
        self.rack.recovery_ended()
        self.control.on_recovery_end(now)

    # ---- time ----

    @property
    def deadline(self) -> int | None:
        """When `handle_timeout` is due."""
        una, nxt = self.una, self.nxt
        if una == nxt:
            return None
        trip = self.trip
        rto = self._rto_base + trip.timeout
        if self._reorder_at:
            return min(self._reorder_at, rto)
        if self._may_probe:
            wait = 2 * trip.smoothed
            if nxt - una <= self.segment:
                wait += MAX_ACK_DELAY
            wait += self._sent_at if self._sent_at > self._rto_base else self._rto_base
            return wait if wait < rto else rto
        return rto

    @property
    def _may_probe(self) -> bool:
        return (
            self.selective
            and self.mode is _OPEN
            and not self._probe_end
            and not self.flight.sacked
            and self.trip.smoothed > 0
            and not self.probe
        )

    def handle_timeout(self, now: int) -> None:
        """Do what is due: look for losses again, ask for a probe, or time out."""
        deadline = self.deadline
        if deadline is None or now < deadline:
            return
        if now >= self._rto_base + self.trip.timeout:
            self._time_out(now)
        elif self._reorder_at:
            prior = self.flight.outstanding
            self._detect(now)
            if self.flight.lost > self._excused and self.mode is Mode.OPEN:
                self._enter(now, prior)
            elif self._prr is not None:
                self._quota = max(self._quota, self.segment)
        elif self._may_probe:
            self.probe = True
            self._rto_base = now

    def _time_out(self, now: int) -> None:
        """RFC 6298, section 5.4 and following; without SACK all that is in flight is lost."""
        prior = self.flight.outstanding
        first = next(iter(self.flight))
        if first.sacked:
            self.flight.forget_selections()
        handshake = not self.trip.smoothed
        if self.path_probe is not None:
            self._end_path_probe(passed=False)
        self._excused = 0
        if self.selective and self.rack.sent_at:
            lost = self.rack.timed_out(self.flight, now, self.trip, segment=self.segment)
            self.rate.lost += sum(record.length for record in lost)
        else:
            for record in self.flight:
                if not record.lost:
                    self.flight.mark_lost(record)
                    self.rate.lost += record.length
        self.trip.back_off()
        self._rto_base = now
        self._reorder_at = 0
        self._prr = None
        if self.closed:
            return
        if not handshake and self.mode is not Mode.LOSS:
            self.control.on_timeout(now, prior, self.flight.outstanding)
        self._begin_episode()
        self.mode = Mode.LOSS

    def send_all_again(self) -> None:
        """What is in flight never fitted the path (RFC 1191), or the peer's window reopened."""
        for record in self.flight:
            self.flight.mark_lost(record)
