"""CUBIC (RFC 9438) with HyStart++ (RFC 9406) in slow start.

The window follows a cubic function of the time since the last reduction: fast up to where the loss
was (W_max), flat around it, then probing. On short paths it keeps up with Reno through the
estimate of section 4.3. Windows are in segments here, as in the RFC, and floats.
"""

from __future__ import annotations

from typing import Final

from tunnel.netstack.congestion.control import MINIMUM_SEGMENTS, AckSample
from tunnel.netstack.congestion.hystart import HyStart, Phase
from tunnel.netstack.congestion.lossbased import UNBOUNDED, LossBased

C: Final = 0.4  # RFC 9438, section 5
BETA: Final = 0.7
_ALPHA: Final = 3 * (1 - BETA) / (1 + BETA)  # section 4.3
_SECOND: Final = 1_000_000_000


class Cubic(LossBased):
    """One connection's CUBIC."""

    __slots__ = (
        "_epoch", "_fraction", "_idle_since", "_k", "_prior", "_undo", "_w_est", "_w_max",
        "hystart",
    )  # fmt: skip

    def __init__(self, segment_size: int) -> None:
        super().__init__(segment_size)
        self.hystart = HyStart()
        self._w_max = 0.0
        self._prior = 0.0  # cwnd_prior: the window before the last reduction
        self._epoch = 0  # when congestion avoidance began; 0 between epochs
        self._k = 0.0
        self._w_est = 0.0
        self._fraction = 0.0  # of a byte of growth not yet in `window`
        self._idle_since = 0
        self._undo: tuple[int, int, float, float, int, float, float] | None = None

    def on_restart(self, now: int, *, app_limited: bool) -> None:
        """Shift the epoch by idle time, so that the curve does not run on (section 5.8)."""
        if self._idle_since and self._epoch:
            self._epoch += now - self._idle_since
        self._idle_since = 0

    def on_ack(self, sample: AckSample) -> None:
        """Grow the window, unless in recovery or limited by the application."""
        if sample.in_flight == 0:
            self._idle_since = sample.now
        if sample.in_recovery:
            return
        if self.window < self.threshold:
            phase = self.hystart.on_ack(sample.rtt, sample.cumulative, sample.next_sequence)
            if phase is not Phase.DONE or self.threshold != UNBOUNDED:
                if 2 * sample.prior_in_flight >= self.window:
                    self.window += self.hystart.growth(sample.acked)
                return
            self.threshold = self.window  # HyStart++ ended the first slow start
        if 2 * sample.prior_in_flight < self.window:
            return
        self._avoid(sample)

    def _avoid(self, sample: AckSample) -> None:
        window = self.window / self.segment_size
        if not self._epoch:
            self._epoch = sample.now
            self._w_est = window
            if window < self._w_max:  # equation 2
                self._k = ((self._w_max - window) / C) ** (1 / 3)
            else:
                self._k = 0.0
                self._w_max = window
        elapsed = (sample.now - self._epoch) / _SECOND
        rtt = sample.smoothed_rtt / _SECOND
        acked = sample.acked / self.segment_size
        # Section 4.3: what Reno would have; alpha is 1 once the old window is reached.
        self._w_est += (1.0 if self._w_est >= self._prior else _ALPHA) * acked / window
        cubic = C * (elapsed - self._k) ** 3 + self._w_max
        if cubic < self._w_est:
            growth = max(0.0, self._w_est - window)
        else:
            ahead = C * (elapsed + rtt - self._k) ** 3 + self._w_max
            target = min(max(ahead, window), 1.5 * window)  # section 4.2
            growth = (target - window) / window * acked
        self._fraction += growth * self.segment_size
        whole = int(self._fraction)
        self._fraction -= whole
        self.window += whole

    def on_congestion(self, now: int, in_flight: int, next_sequence: int) -> None:
        """Reduce by beta, remembering where it happened, with fast convergence (4.6, 4.7)."""
        self._remember()
        self.hystart.stop()
        window = self.window / self.segment_size
        self._prior = window
        self._w_max = window * (1 + BETA) / 2 if window < self._w_max else window
        self._epoch = 0
        self.threshold = max(int(self.window * BETA), MINIMUM_SEGMENTS * self.segment_size)
        self.window = self.threshold

    def on_timeout(self, now: int, flight_size: int, in_flight: int) -> None:
        """Start again from one segment (section 4.8)."""
        self.on_congestion(now, flight_size, 0)
        self.window = in_flight + self.segment_size
        self._w_max = 0.0  # the next epoch begins with K = 0 and W_max = its window

    def on_spurious(self) -> None:
        """Take back the last reduction, unless the window is larger by now (section 4.9)."""
        undo, self._undo = self._undo, None
        if undo is not None and self.window < undo[0]:
            (self.window, self.threshold, self._w_max, self._prior,
             self._epoch, self._k, self._w_est) = undo  # fmt: skip

    def _remember(self) -> None:
        self._undo = (
            self.window, self.threshold, self._w_max, self._prior,
            self._epoch, self._k, self._w_est,
        )  # fmt: skip
