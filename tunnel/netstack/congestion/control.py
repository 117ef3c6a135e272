"""What a connection asks of its congestion control, and what it tells it.

The connection owns loss detection (RACK-TLP) and what is in flight; the algorithm owns how much
may be in flight (`window`, bytes) and how fast it leaves (`pacing_rate`, bytes a second, None for
unpaced). Everything that an algorithm may learn from one acknowledgment comes in one AckSample.
"""

from __future__ import annotations

from typing import Final, Protocol

INITIAL_SEGMENTS: Final = 10  # RFC 6928
MINIMUM_SEGMENTS: Final = 2  # RFC 5681, section 3.1: the loss window and the floor of ssthresh


class AckSample:
    """What one acknowledgment showed. Bytes and nanoseconds.

    `delivery_rate` (bytes a second) and `prior_delivered` follow the delivery rate estimation of
    the BBR draft, section 4.1.2; the rate is 0 where no valid sample was had. A connection has one
    that it fills anew for each acknowledgment, so an algorithm keeps numbers, not the sample.
    """

    __slots__ = (
        "acked", "app_limited", "congested", "cumulative", "delivered", "delivery_rate",
        "in_flight", "in_recovery", "lost", "lost_since", "minimum_rtt", "next_sequence", "now",
        "prior_delivered", "prior_in_flight", "rtt", "smoothed_rtt", "tx_in_flight",
    )  # fmt: skip

    def __init__(self) -> None:
        self.now = 0
        self.acked = 0  # newly delivered: cumulatively or selectively acknowledged
        self.lost = 0  # newly marked lost since the last sample
        self.in_flight = 0  # after this acknowledgment
        self.prior_in_flight = 0  # before it
        self.rtt = 0  # 0 without a sample
        self.minimum_rtt = 0
        self.smoothed_rtt = 0
        self.delivered = 0  # in total so far
        self.prior_delivered = 0  # that total when the newest acknowledged segment was sent
        self.delivery_rate = 0
        self.app_limited = False  # that segment was sent while the application had no more
        self.tx_in_flight = 0  # in flight just after that segment was sent
        self.lost_since = 0  # lost between that segment's sending and this acknowledgment
        self.cumulative = 0  # the cumulative acknowledgment point, unwrapped
        self.next_sequence = 0  # SND.NXT, unwrapped
        self.congested = False  # ECE echoed, for the first time in a round
        self.in_recovery = False


class CongestionControl(Protocol):
    """One connection's control. Made with the segment size; calls come in the order of events."""

    window: int

    @property
    def pacing_rate(self) -> int | None:
        """Bytes a second at which segments may leave; None leaves it to the window alone."""

    def on_restart(self, now: int, *, app_limited: bool) -> None:
        """Learn that something leaves while nothing else is in flight."""

    def on_idle(self) -> None:
        """Learn that something is about to leave after a pause of more than the timeout."""

    def on_ack(self, sample: AckSample) -> None:
        """Learn of an acknowledgment that delivered something."""

    def on_congestion(self, now: int, in_flight: int, next_sequence: int) -> None:
        """Learn that a loss, or an ECN echo, began a recovery episode (at most one a round)."""

    def on_recovery_end(self, now: int) -> None:
        """Learn that everything sent before the episode has been acknowledged."""

    def on_timeout(self, now: int, flight_size: int, in_flight: int) -> None:
        """Learn that the retransmission timer fired, what was in flight until then, and is still.

        The window is to be what is in flight and one segment.
        """

    def on_spurious(self) -> None:
        """Learn that the last episode answered no real loss (RFC 3522, RFC 4015, DSACK)."""

    def on_segment_size(self, size: int) -> None:
        """Learn that the path's segment size changed."""
