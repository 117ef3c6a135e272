"""What BBR knows of the path (draft-ietf-ccwg-bbr, sections 4.5 and 5.5 to 5.6).

Two rates (the largest delivery rate of two cycles, and a short-term bound after loss), three
amounts in flight (long-term and short-term bounds, what acknowledgments come aggregated), the
smallest round-trip time, and the rounds that time all of it. Nothing is decided here.
"""

from __future__ import annotations

from typing import Final

from tunnel.netstack.congestion.bbrmodel import (
    BETA,
    EXTRA_ACKED_ROUNDS,
    HEADROOM,
    INFINITE,
    LOSS_THRESHOLD,
    MAX_BW_CYCLES,
    MILLISECOND,
    MIN_PIPE_SEGMENTS,
    PACING_GAIN,
    PACING_MARGIN,
    PROBE_AGAIN_ROUNDS,
    PROBE_AGAIN_SHARE,
    PROBE_LEAST_ROUNDS,
    PROBE_SHARE,
    PROBING,
    RENO_ROUNDS,
    SECOND,
    STARTUP_PACING_GAIN,
    State,
    WindowedMax,
)
from tunnel.netstack.congestion.control import INITIAL_SEGMENTS, AckSample

_UP: Final = State.UP  # an enum's member costs a look-up in its class each time


class PathModel:
    """One path's model; BBR, the state machine, builds on it."""

    __slots__ = (
        "_bw_latest", "_bw_short", "_cycles", "_extra_acked", "_extra_delivered", "_extra_start",
        "_gain", "_gain_in_round", "_inflight_latest", "_inflight_long", "_inflight_short",
        "_loss_events", "_loss_in_round", "_loss_round", "_loss_round_start", "_marked",
        "_max_bw", "_next_round", "_overflowed", "_prior_window", "_round_start", "_rounds",
        "_rounds_since_probe", "min_rtt", "pacing_rate", "segment_size", "state", "window",
    )  # fmt: skip

    def __init__(self, segment_size: int) -> None:
        self.segment_size = segment_size
        self.window = INITIAL_SEGMENTS * segment_size
        self._prior_window = 0  # from before an episode of repair or a round-trip probe
        self.state = State.STARTUP
        self.pacing_rate = int(STARTUP_PACING_GAIN * self.window * SECOND / MILLISECOND)
        self._max_bw = WindowedMax(MAX_BW_CYCLES)
        self._cycles = 0
        self._bw_short = self._inflight_short = self._inflight_long = INFINITE
        self._bw_latest = self._inflight_latest = 0
        self.min_rtt = INFINITE
        self._gain = PACING_GAIN[self.state]
        self._gain_in_round = 1.0  # the least of the round
        # rounds
        self._next_round = self._loss_round = 0
        self._rounds = self._rounds_since_probe = 0
        self._overflowed = False  # so ended the last probe
        self._round_start = self._loss_round_start = self._loss_in_round = False
        self._loss_events = 0
        self._marked = False  # CE in this round
        # aggregation of acknowledgments
        self._extra_acked = WindowedMax(EXTRA_ACKED_ROUNDS)
        self._extra_start = self._extra_delivered = 0

    @property
    def bandwidth(self) -> int:
        """Bytes a second that the model grants now."""
        most = self._max_bw.value
        return most if most < self._bw_short else self._bw_short

    @property
    def _min_pipe(self) -> int:
        return MIN_PIPE_SEGMENTS * self.segment_size

    def _bdp(self, gain: float) -> int:
        if self.min_rtt >= INFINITE:
            return INITIAL_SEGMENTS * self.segment_size
        return int(gain * self.bandwidth * self.min_rtt / SECOND)

    def _inflight(self, gain: float) -> int:
        """What may be in flight for a gain, with a budget for offloads (section 4.6.4.2)."""
        segment = self.segment_size
        quantum = self.pacing_rate // 1000
        if quantum < 2 * segment:
            quantum = 2 * segment
        elif quantum > 65536:
            quantum = 65536
        inflight = self._bdp(gain)
        least = max(3 * quantum, MIN_PIPE_SEGMENTS * segment)
        if inflight < least:
            inflight = least
        return inflight + 2 * segment if self.state is _UP else inflight

    def _inflight_with_headroom(self) -> int:
        if self._inflight_long >= INFINITE:
            return INFINITE
        headroom = max(self.segment_size, int(HEADROOM * self._inflight_long))
        return max(self._inflight_long - headroom, self._min_pipe)

    def _update_model(self, sample: AckSample) -> None:
        """BBRUpdateLatestDeliverySignals, then BBRUpdateCongestionSignals."""
        delivered, prior = sample.delivered, sample.prior_delivered
        rate = sample.delivery_rate
        if rate > self._bw_latest:
            self._bw_latest = rate
        if delivered - prior > self._inflight_latest:
            self._inflight_latest = delivered - prior
        self._round_start = prior >= self._next_round
        if self._round_start:
            self._start_round(delivered)
            self._rounds += 1
            self._rounds_since_probe += 1
        if rate and (not sample.app_limited or rate >= self._max_bw.value):
            self._max_bw.update(self._cycles, rate)
        if sample.lost:
            self._loss_in_round = True
            self._loss_events += 1
        if sample.congested:
            self._loss_in_round = self._marked = True
        self._loss_round_start = prior >= self._loss_round
        if self._loss_round_start:
            self._loss_round = delivered
            if self._loss_in_round:
                self._loss_in_round = False
                if self.state not in PROBING:
                    self._lower_bounds()
            self._marked = False
            self._gain_in_round = min(self._gain, 1.0)

    def _lower_bounds(self) -> None:
        """BBRAdaptLowerBoundsFromCongestion: a round with loss bounds the cycle.

        Beyond the draft: what was delivered is held against what our own pacing allowed. Else the
        slow rounds that follow a probe would pass for the path's rate where loss is random.
        """
        if self._bw_short >= INFINITE:
            self._bw_short = self._max_bw.value
        if self._inflight_short >= INFINITE:
            self._inflight_short = self.window
        shown = int(self._bw_latest / (self._gain_in_round * PACING_MARGIN))
        self._bw_short = max(min(shown, self._bw_short), int(BETA * self._bw_short))
        self._inflight_short = max(self._inflight_latest, int(BETA * self._inflight_short))
        if self._marked:  # what was delivered has the queue in it that the mark complains of
            self._inflight_short = max(min(self._inflight_short, self._bdp(1.0)), self._min_pipe)

    def _rounds_between_probes(self, *, again: bool) -> int:
        """`again`: the last probe found more."""
        segments = min(self._bdp(1.0), self.window) // self.segment_size
        rounds = min(segments, max(segments // PROBE_SHARE, PROBE_LEAST_ROUNDS), RENO_ROUNDS)
        if again:
            patience = segments // PROBE_AGAIN_SHARE if self._overflowed else 0
            rounds = min(rounds, max(patience, PROBE_AGAIN_ROUNDS))
        return rounds

    def _start_round(self, delivered: int) -> None:
        self._next_round = delivered

    def _reset_congestion_signals(self) -> None:
        self._loss_in_round = False
        self._bw_latest = self._inflight_latest = 0

    def _update_ack_aggregation(self, sample: AckSample) -> None:
        expected = self.bandwidth * (sample.now - self._extra_start) // SECOND
        extra = self._extra_delivered
        if extra <= expected:
            extra = expected = 0
            self._extra_start = sample.now
        self._extra_delivered = extra = extra + sample.acked
        extra -= expected
        self._extra_acked.update(self._rounds, extra if extra < self.window else self.window)

    def _inflight_too_high(self, sample: AckSample) -> bool:
        return sample.congested or sample.lost_since > sample.tx_in_flight * LOSS_THRESHOLD

    def _window_limited(self, sample: AckSample) -> bool:
        return sample.prior_in_flight + self.segment_size > self.window

    def _save_window(self) -> None:
        self._prior_window = max(self._prior_window, self.window)

    def _restore_window(self) -> None:
        self.window = max(self.window, self._prior_window)
        self._prior_window = 0
