"""What a connection asks of its congestion control, and what it tells it.

The connection owns loss detection (RACK-TLP) and what is in flight; the algorithm owns how much
may be in flight (`window`, bytes) and how fast it leaves (`pacing_rate`, bytes a second, None for
unpaced). Everything that an algorithm may learn from one acknowledgment comes in one AckSample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

INITIAL_SEGMENTS: Final = 10  # RFC 6928
MINIMUM_SEGMENTS: Final = 2  # RFC 5681, section 3.1: the loss window and the floor of ssthresh


@dataclass(slots=True)
class AckSample:
    """What one acknowledgment showed. Bytes and nanoseconds.

    `delivery_rate` (bytes a second) and `prior_delivered` follow the delivery rate estimation of
    the BBR draft, section 4.1.2; the rate is 0 where no valid sample was had.
    """

    now: int
    acked: int  # newly delivered: cumulatively or selectively acknowledged
    lost: int  # newly marked lost since the last sample
    in_flight: int  # after this acknowledgment
    prior_in_flight: int  # before it
    rtt: int  # 0 without a sample
    minimum_rtt: int
    smoothed_rtt: int
    delivered: int  # in total so far
    prior_delivered: int  # that total when the newest acknowledged segment was sent
    delivery_rate: int
    app_limited: bool  # the sample's segment was sent while the application had no more
    tx_in_flight: int  # in flight just after that segment was sent
    lost_since: int  # lost between that segment's sending and this acknowledgment
    cumulative: int  # the cumulative acknowledgment point, unwrapped
    next_sequence: int  # SND.NXT, unwrapped
    congested: bool = False  # ECE echoed
    in_recovery: bool = False


class CongestionControl(Protocol):
    """One connection's control. Made with the segment size; calls come in the order of events."""

    window: int

    @property
    def pacing_rate(self) -> int | None:
        """Bytes a second at which segments may leave; None leaves it to the window alone."""

    def on_sent(self, now: int, size: int, in_flight: int, *, app_limited: bool) -> None:
        """Learn that `size` bytes left, making `in_flight` bytes outstanding."""

    def on_ack(self, sample: AckSample) -> None:
        """Learn of an acknowledgment that delivered something."""

    def on_congestion(self, now: int, in_flight: int, next_sequence: int) -> None:
        """Learn that a loss, or an ECN echo, began a recovery episode (at most one a round)."""

    def on_recovery_end(self, now: int) -> None:
        """Learn that everything sent before the episode has been acknowledged."""

    def on_timeout(self, now: int, in_flight: int) -> None:
        """Learn that the retransmission timer fired."""

    def on_spurious(self) -> None:
        """Learn that the last episode answered no real loss (RFC 3522, RFC 4015, DSACK)."""

    def on_segment_size(self, size: int) -> None:
        """Learn that the path's segment size changed."""
