"""BBR version 3 (draft-ietf-ccwg-bbr), the stack's default.

Instead of taking loss as the sign of a full path, BBR keeps a model of it: the bottleneck's
bandwidth (the largest delivery rate of two probing cycles) and its round-trip time (the smallest
of ten seconds). It paces at the bandwidth, keeps about one product of the two in flight, and now
and then probes: more in flight for more bandwidth, less for a smaller round-trip time. Loss above
2 % in a probe bounds what is in flight in the long term; loss outside probes bounds it for a cycle.

Method names follow the draft's functions, so that the two can be read side by side.
"""

from __future__ import annotations

from random import Random
from typing import Final

from tunnel.netstack.congestion.bbrmodel import (
    BETA,
    CWND_GAIN,
    CYCLE,
    FULL_BW_GROWTH,
    FULL_BW_ROUNDS,
    INFINITE,
    MIN_PIPE_SEGMENTS,
    MIN_RTT_WINDOW,
    PACING_GAIN,
    PACING_MARGIN,
    PROBE_AGAIN_GROWTH,
    PROBE_RTT_CWND_GAIN,
    PROBE_RTT_DURATION,
    PROBE_RTT_INTERVAL,
    SECOND,
    STARTUP_LOSS_EVENTS,
    STARTUP_PACING_GAIN,
    UP_CWND_GAIN,
    AckPhase,
    State,
)
from tunnel.netstack.congestion.bbrpath import PathModel
from tunnel.netstack.congestion.control import INITIAL_SEGMENTS, AckSample

_CHANCE: Final = Random()
# An enum's member costs a look-up in its class each time; these are looked at for each sample.
_STARTUP: Final = State.STARTUP
_DRAIN: Final = State.DRAIN
_DOWN: Final = State.DOWN
_CRUISE: Final = State.CRUISE
_UP: Final = State.UP
_PROBE_RTT: Final = State.PROBE_RTT


class BBR(PathModel):
    """One connection's BBR."""

    __slots__ = (
        "_ack_phase", "_bw_before", "_cut_short", "_cycle_stamp", "_full_bw", "_full_bw_count",
        "_full_bw_now", "_idle_restart", "_min_rtt_stamp", "_probe_rtt_done", "_probe_rtt_expired",
        "_probe_rtt_min", "_probe_rtt_round_done", "_probe_rtt_stamp", "_probe_samples",
        "_probe_wait", "_quiet_from", "_quiet_until", "_random", "_undo", "_up_acked", "_up_count",
        "_up_rounds", "full_bw_reached",
    )  # fmt: skip

    def __init__(self, segment_size: int, random: Random | None = None) -> None:
        super().__init__(segment_size)
        self._random = random or _CHANCE  # seeding one for each costs more than all else here
        self._undo: tuple[int, int, int] | None = None
        self._idle_restart = False
        # startup
        self._full_bw = self._full_bw_count = 0
        self._full_bw_now = self.full_bw_reached = False
        self._cut_short = False  # by loss
        # the bandwidth-probing cycle
        self._ack_phase = AckPhase.INIT
        self._cycle_stamp = self._probe_wait = 0
        self._probe_samples = False
        self._up_count = INFINITE
        self._up_acked = self._up_rounds = 0
        self._bw_before = 0  # the bandwidth as the last probe began
        # the round-trip probe
        self._min_rtt_stamp = self._probe_rtt_stamp = 0
        self._probe_rtt_min = INFINITE
        self._probe_rtt_done = 0
        self._quiet_from, self._quiet_until = 0, -1  # of what was delivered
        self._probe_rtt_expired = self._probe_rtt_round_done = False

    # ---- the interface ----

    def on_restart(self, now: int, *, app_limited: bool) -> None:
        """Restart from idle at the model's rate (section 4.4.3)."""
        if not app_limited:
            return
        self._idle_restart = True
        self._extra_start = now
        if self.state in CYCLE:
            self._set_pacing_rate(1.0)
        elif self.state is State.PROBE_RTT:
            self._check_probe_rtt_done(now)

    def on_idle(self) -> None:
        """The model is kept: what leaves is paced by it."""

    def on_ack(self, sample: AckSample) -> None:
        """Update the model and the state, then rate and window (section 4.2.3)."""
        if not self._probe_rtt_stamp:
            self._probe_rtt_stamp = self._min_rtt_stamp = sample.now
            if sample.smoothed_rtt:
                # So far the rate was a guess at a round trip of 1 ms. Startup never slows down, so
                # each window would leave as one burst, which a shallow queue does not take.
                initial = INITIAL_SEGMENTS * self.segment_size * SECOND // sample.smoothed_rtt
                self.pacing_rate = int(STARTUP_PACING_GAIN * initial)
        if self._quiet_from <= sample.prior_delivered <= self._quiet_until:
            sample.app_limited = True  # sent in PROBE_RTT: we held back, not the path
        self._update_model(sample)
        self._update_ack_aggregation(sample)
        if self._round_start:
            self._check_full_bw_reached(sample)
        if self.state is _STARTUP:
            self._check_startup_done(sample)
        if self.state is _DRAIN and sample.in_flight <= self._inflight(1.0):
            self._start_down(sample)
        if self.full_bw_reached:
            self._update_cycle_phase(sample)
        self._update_min_rtt(sample)
        if self._probe_rtt_expired or self.state is _PROBE_RTT:
            self._check_probe_rtt(sample)
        if sample.acked:
            self._idle_restart = False
        if self._loss_round_start:
            self._bw_latest = sample.delivery_rate
            self._inflight_latest = sample.delivered - sample.prior_delivered
        self._set_pacing_rate(self._gain)
        self._set_window(sample)

    def on_congestion(self, now: int, in_flight: int, next_sequence: int) -> None:
        """Remember the window; the model itself learns of loss from the samples."""
        self._save_window()
        self._undo = self._bw_short, self._inflight_short, self._inflight_long

    def on_recovery_end(self, now: int) -> None:
        """Go back to the window from before the episode."""
        self._restore_window()

    def on_timeout(self, now: int, flight_size: int, in_flight: int) -> None:
        """Start again from one segment beside what may be in flight still (section 5.6.4.4)."""
        self._save_window()
        self._undo = self._bw_short, self._inflight_short, self._inflight_long
        self.window = in_flight + self.segment_size

    def on_spurious(self) -> None:
        """Take back what the false loss taught."""
        self._loss_in_round = False
        self._reset_full_bw()
        if self._undo is not None:
            bw, short, long = self._undo
            self._bw_short = max(self._bw_short, bw)
            self._inflight_short = max(self._inflight_short, short)
            self._inflight_long = max(self._inflight_long, long)
            self._undo = None
        self._restore_window()

    def on_segment_size(self, size: int) -> None:
        """Bytes stay bytes; only the minimum follows."""
        self.segment_size = size
        self.window = max(self.window, self._min_pipe)

    # ---- startup and drain ----

    def _enter(self, state: State) -> None:
        self.state = state
        self._gain = PACING_GAIN[state]
        self._gain_in_round = min(self._gain_in_round, self._gain)

    def _reset_full_bw(self) -> None:
        self._full_bw = self._full_bw_count = 0
        self._full_bw_now = False

    def _check_full_bw_reached(self, sample: AckSample) -> None:
        if self._full_bw_now or sample.app_limited:
            return
        if sample.delivery_rate >= self._full_bw * FULL_BW_GROWTH:
            self._reset_full_bw()
            self._full_bw = sample.delivery_rate
            return
        self._full_bw_count += 1
        self._full_bw_now = self._full_bw_count >= FULL_BW_ROUNDS
        self.full_bw_reached = self.full_bw_reached or self._full_bw_now

    def _check_startup_done(self, sample: AckSample) -> None:
        too_much = sample.congested
        if self._loss_round_start:
            if self._loss_events >= STARTUP_LOSS_EVENTS and sample.in_recovery:
                too_much = too_much or self._inflight_too_high(sample)
            self._loss_events = 0
        if too_much and not self.full_bw_reached:
            # Beyond the draft: a shallow queue overflows before the path is full, so the model is
            # too low here. Its bound holds while losses are repaired; then comes a probe.
            self.full_bw_reached = self._cut_short = True
            self._inflight_long = max(self._bdp(1.0), self._inflight_latest)
        if self.full_bw_reached:
            self._enter(State.DRAIN)

    # ---- the bandwidth-probing cycle ----

    def _update_cycle_phase(self, sample: AckSample) -> None:
        self._adapt_long_term_model(sample)
        state = self.state
        if state is _CRUISE:
            self._time_to_probe(sample)
        elif state is _DOWN:
            if not self._time_to_probe(sample) and self._time_to_cruise(sample):
                self._enter(State.CRUISE)
        elif state is State.REFILL:
            if self._round_start:
                self._probe_samples = True
                self._start_up(sample)
        elif state is State.UP and self._time_to_go_down(sample):
            self._start_down(sample)

    def _time_to_probe(self, sample: AckSample) -> bool:
        waited = sample.now > self._cycle_stamp + self._probe_wait
        waited = waited or (self._cut_short and not sample.in_recovery)
        if not waited:
            if not self._round_start:  # rounds count only as they begin
                return False
            again = self._max_bw.value >= PROBE_AGAIN_GROWTH * self._bw_before
            if self._rounds_since_probe < self._rounds_between_probes(again=again):
                return False
        self._start_refill(sample)
        return True

    def _time_to_cruise(self, sample: AckSample) -> bool:
        if sample.in_flight > self._inflight_with_headroom():
            return False
        return sample.in_flight <= self._inflight(1.0)

    def _time_to_go_down(self, sample: AckSample) -> bool:
        if self._window_limited(sample) and self.window >= self._inflight_long:
            self._reset_full_bw()
            self._full_bw = sample.delivery_rate
            return False
        return self._full_bw_now

    def _start_down(self, sample: AckSample) -> None:
        self._reset_congestion_signals()
        self._up_count = INFINITE
        self._rounds_since_probe = self._random.randrange(2)
        self._probe_wait = 2 * SECOND + self._random.randrange(SECOND)
        self._cycle_stamp = sample.now
        self._ack_phase = AckPhase.STOPPING
        self._start_round(sample.delivered)
        self._enter(State.DOWN)

    def _start_refill(self, sample: AckSample) -> None:
        if self._cut_short:
            self._cut_short = False
            self._inflight_long = INFINITE
        self._bw_before = self._max_bw.value
        self._overflowed = False
        self._bw_short = self._inflight_short = INFINITE
        self._up_rounds = self._up_acked = 0
        self._ack_phase = AckPhase.REFILLING
        self._start_round(sample.delivered)
        self._enter(State.REFILL)

    def _start_up(self, sample: AckSample) -> None:
        self._ack_phase = AckPhase.STARTING
        self._start_round(sample.delivered)
        self._reset_full_bw()
        self._full_bw = sample.delivery_rate
        self._cycle_stamp = sample.now
        self._enter(State.UP)
        self._raise_inflight_slope()

    def _raise_inflight_slope(self) -> None:
        growth = self.segment_size << self._up_rounds
        self._up_rounds = min(self._up_rounds + 1, 30)
        self._up_count = max(self.window // growth, 1) * self.segment_size

    def _adapt_long_term_model(self, sample: AckSample) -> None:
        if self._round_start:
            if self._ack_phase is AckPhase.STARTING:
                self._ack_phase = AckPhase.FEEDBACK
            elif self._ack_phase is AckPhase.STOPPING:
                self._ack_phase = AckPhase.INIT
                if self.state in CYCLE and not sample.app_limited:
                    self._cycles += 1
        if (sample.lost_since or sample.congested) and self._inflight_too_high(sample):
            if self._probe_samples:
                self._handle_inflight_too_high(sample)
            return
        if self._inflight_long >= INFINITE:
            return
        self._inflight_long = max(self._inflight_long, sample.tx_in_flight)
        if self.state is _UP:
            self._probe_inflight_upward(sample)

    def _handle_inflight_too_high(self, sample: AckSample) -> None:
        self._probe_samples = False
        if not sample.app_limited:
            target = min(self._bdp(1.0), self.window)
            self._inflight_long = max(sample.tx_in_flight, int(BETA * target))
        if self.state is State.UP:
            self._overflowed = True
            self._start_down(sample)

    def _probe_inflight_upward(self, sample: AckSample) -> None:
        if not self._window_limited(sample) or self.window < self._inflight_long:
            return
        self._up_acked += sample.acked
        steps = self._up_acked // self._up_count
        self._up_acked -= steps * self._up_count
        self._inflight_long += steps * self.segment_size
        if self._round_start:
            self._raise_inflight_slope()

    # ---- the round-trip probe ----

    def _update_min_rtt(self, sample: AckSample) -> None:
        now, rtt = sample.now, sample.rtt
        self._probe_rtt_expired = expired = now > self._probe_rtt_stamp + PROBE_RTT_INTERVAL
        if rtt and (rtt < self._probe_rtt_min or expired):
            self._probe_rtt_min = rtt
            self._probe_rtt_stamp = now
        if self._probe_rtt_min < self.min_rtt or now > self._min_rtt_stamp + MIN_RTT_WINDOW:
            self.min_rtt = self._probe_rtt_min
            self._min_rtt_stamp = self._probe_rtt_stamp

    def _check_probe_rtt(self, sample: AckSample) -> None:
        if (
            self.state is not State.PROBE_RTT
            and self._probe_rtt_expired
            and not self._idle_restart
            and self.min_rtt < INFINITE
        ):
            self._save_window()
            self._enter(State.PROBE_RTT)
            self._probe_rtt_done = 0
            self._quiet_from = sample.delivered
            self._ack_phase = AckPhase.STOPPING
            self._start_round(sample.delivered)
        if self.state is State.PROBE_RTT:
            self._quiet_until = sample.delivered + sample.in_flight
            if not self._probe_rtt_done:
                if sample.in_flight <= self._probe_rtt_window():
                    self._probe_rtt_done = sample.now + PROBE_RTT_DURATION
                    self._probe_rtt_round_done = False
                    self._start_round(sample.delivered)
            else:
                self._probe_rtt_round_done |= self._round_start
                if self._probe_rtt_round_done:
                    self._check_probe_rtt_done(sample.now, sample)

    def _check_probe_rtt_done(self, now: int, sample: AckSample | None = None) -> None:
        if not self._probe_rtt_done or now <= self._probe_rtt_done:
            return
        self._probe_rtt_stamp = now
        self._restore_window()
        self._bw_short = self._inflight_short = INFINITE
        if not self.full_bw_reached:
            self._enter(State.STARTUP)
            return
        if sample is not None:
            self._start_down(sample)
        self._enter(State.CRUISE)

    def _probe_rtt_window(self) -> int:
        return max(self._bdp(PROBE_RTT_CWND_GAIN), self._min_pipe)

    # ---- what the connection is told ----

    def _set_pacing_rate(self, gain: float) -> None:
        rate = int(gain * self.bandwidth * PACING_MARGIN)
        if self.full_bw_reached or rate > self.pacing_rate:
            self.pacing_rate = max(rate, self.segment_size)

    def _set_window(self, sample: AckSample) -> None:
        state, segment, window = self.state, self.segment_size, self.window
        gain = UP_CWND_GAIN if state is _UP else CWND_GAIN
        most = self._inflight(gain) + self._extra_acked.value
        if sample.lost:
            window = max(window - sample.lost, segment)
        if self.full_bw_reached:
            window += sample.acked
            if window > most:
                window = most
        elif window < most or sample.delivered < INITIAL_SEGMENTS * segment:
            window += sample.acked
        cap = self._inflight_short
        if state is _PROBE_RTT:
            cap = min(cap, self._probe_rtt_window(), self._inflight_with_headroom())
        elif state is _CRUISE:
            if self._inflight_long < INFINITE:
                cap = min(cap, self._inflight_with_headroom())
        elif state in CYCLE and self._inflight_long < cap:
            cap = self._inflight_long
        if window > cap:
            window = cap
        least = MIN_PIPE_SEGMENTS * segment
        self.window = window if window > least else least
