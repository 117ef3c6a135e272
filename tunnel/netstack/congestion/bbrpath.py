"""What BBR knows of the path (draft-ietf-ccwg-bbr, sections 4.5 and 5.5 to 5.6).

Two rates (the largest delivery rate of two cycles, and a short-term bound after loss), three
amounts in flight (long-term and short-term bounds, what acknowledgments come aggregated), the
smallest round-trip time, and the rounds that time all of it. Nothing is decided here.
"""

from __future__ import annotations

from tunnel.netstack.congestion.bbrmodel import (
    BETA,
    EXTRA_ACKED_ROUNDS,
    HEADROOM,
    INFINITE,
    LOSS_THRESHOLD,
    MAX_BW_CYCLES,
    MILLISECOND,
    MIN_PIPE_SEGMENTS,
    PROBING,
    SECOND,
    STARTUP_PACING_GAIN,
    State,
    WindowedMax,
)
from tunnel.netstack.congestion.control import INITIAL_SEGMENTS, AckSample


class PathModel:
    """One path's model; BBR, the state machine, builds on it."""

    def __init__(self, segment_size: int) -> None:
        self.segment_size = segment_size
        self.window = INITIAL_SEGMENTS * segment_size
        self.state = State.STARTUP
        self._rate = int(STARTUP_PACING_GAIN * self.window * SECOND / MILLISECOND)
        self._max_bw = WindowedMax(MAX_BW_CYCLES)
        self._cycles = 0
        self._bw_short = self._inflight_short = self._inflight_long = INFINITE
        self._bw_latest = self._inflight_latest = 0
        self.min_rtt = INFINITE
        # rounds
        self._next_round = self._loss_round = 0
        self._rounds = self._rounds_since_probe = 0
        self._round_start = self._loss_round_start = self._loss_in_round = False
        self._loss_events = 0
        # aggregation of acknowledgments
        self._extra_acked = WindowedMax(EXTRA_ACKED_ROUNDS)
        self._extra_start = self._extra_delivered = 0

    @property
    def bandwidth(self) -> int:
        """Bytes a second that the model grants now."""
        return min(self._max_bw.value, self._bw_short)

    @property
    def _min_pipe(self) -> int:
        return MIN_PIPE_SEGMENTS * self.segment_size

    def _bdp(self, gain: float) -> int:
        if self.min_rtt >= INFINITE:
            return INITIAL_SEGMENTS * self.segment_size
        return int(gain * self.bandwidth * self.min_rtt / SECOND)

    def _inflight(self, gain: float) -> int:
        """What may be in flight for a gain, with a budget for offloads (section 4.6.4.2)."""
        quantum = min(max(self._rate // 1000, 2 * self.segment_size), 65536)
        inflight = max(self._bdp(gain), 3 * quantum, self._min_pipe)
        return inflight + 2 * self.segment_size if self.state is State.UP else inflight

    def _inflight_with_headroom(self) -> int:
        if self._inflight_long >= INFINITE:
            return INFINITE
        headroom = max(self.segment_size, int(HEADROOM * self._inflight_long))
        return max(self._inflight_long - headroom, self._min_pipe)

    def _update_latest_delivery_signals(self, sample: AckSample) -> None:
        self._loss_round_start = False
        delivered = sample.delivered - sample.prior_delivered
        self._bw_latest = max(self._bw_latest, sample.delivery_rate)
        self._inflight_latest = max(self._inflight_latest, delivered)
        if sample.prior_delivered >= self._loss_round:
            self._loss_round = sample.delivered
            self._loss_round_start = True

    def _update_congestion_signals(self, sample: AckSample) -> None:
        self._round_start = sample.prior_delivered >= self._next_round
        if self._round_start:
            self._start_round(sample.delivered)
            self._rounds += 1
            self._rounds_since_probe += 1
        if sample.delivery_rate and (
            sample.delivery_rate >= self._max_bw.value or not sample.app_limited
        ):
            self._max_bw.update(self._cycles, sample.delivery_rate)
        if sample.lost:
            self._loss_in_round = True
            self._loss_events += 1
        if not self._loss_round_start:
            return
        if self._loss_in_round and self.state not in PROBING:
            if self._bw_short >= INFINITE:
                self._bw_short = self._max_bw.value
            if self._inflight_short >= INFINITE:
                self._inflight_short = self.window
            self._bw_short = max(self._bw_latest, int(BETA * self._bw_short))
            self._inflight_short = max(self._inflight_latest, int(BETA * self._inflight_short))
        self._loss_in_round = False

    def _start_round(self, delivered: int) -> None:
        self._next_round = delivered

    def _reset_congestion_signals(self) -> None:
        self._loss_in_round = False
        self._bw_latest = self._inflight_latest = 0

    def _update_ack_aggregation(self, sample: AckSample) -> None:
        expected = self.bandwidth * (sample.now - self._extra_start) // SECOND
        if self._extra_delivered <= expected:
            self._extra_delivered = expected = 0
            self._extra_start = sample.now
        self._extra_delivered += sample.acked
        self._extra_acked.update(self._rounds, min(self._extra_delivered - expected, self.window))

    def _inflight_too_high(self, sample: AckSample) -> bool:
        return sample.lost_since > sample.tx_in_flight * LOSS_THRESHOLD
