"""Delivery rate estimation (BBR draft, section 4.1): what rate each acknowledgment proves.

Every record notes, when it leaves, how much had been delivered by then and when. Its own delivery
then tells how much arrived in the meantime. The longer of the sending and the acknowledging
interval counts, so that neither a burst nor a compressed train of acknowledgments exaggerates.

Beyond the draft: time in which pacing would have let something go, but nobody called because the
event loop was late, does not count. Else a busy machine would pass for a slow path: each rate that
is measured is below the one that it was sent at, and the next is paced by it.
"""

from __future__ import annotations

from typing import Final

from tunnel.netstack.congestion.control import AckSample
from tunnel.netstack.flight import Sent

_SECOND: Final = 1_000_000_000
_IDLED_MOST: Final = 75  # percent of an interval that do not count at most


class DeliveryRate:
    """One connection's count of what was delivered and lost. Bytes and nanoseconds."""

    __slots__ = (
        "_app_limited", "_first_idled", "_first_sent_at", "_newest", "delivered", "delivered_at",
        "idled", "lost",
    )  # fmt: skip

    def __init__(self) -> None:
        self.delivered = 0
        self.delivered_at = 0
        self.lost = 0
        self.idled = 0  # time that our own loop lost: pacing would have let something go
        self._first_sent_at = self._first_idled = 0
        self._app_limited = 0  # until this much is delivered, samples are limited by the user
        self._newest: Sent | None = None

    def on_sent(self, record: Sent, now: int, in_flight: int) -> None:
        """Note the state of things on a record that leaves; `in_flight` includes it."""
        if in_flight <= record.end - record.start:
            self._first_sent_at = self.delivered_at = now
            self._first_idled = self.idled
        record.sent_at = now
        record.first_sent_at = self._first_sent_at
        record.idled = self.idled
        record.first_idled = self._first_idled
        record.delivered = self.delivered
        record.delivered_at = self.delivered_at
        record.in_flight = in_flight
        record.lost_before = self.lost
        record.app_limited = self._app_limited > 0

    def on_delivered(self, record: Sent, size: int, now: int) -> None:
        """Count `size` bytes of a record that were delivered for the first time."""
        self.delivered += size
        self.delivered_at = now
        newest = self._newest
        if newest is None or (record.sent_at, record.end) > (newest.sent_at, newest.end):
            self._newest = record

    def limited_by_application(self, in_flight: int) -> None:
        """The user has no more to send: what is sent until this is delivered says little."""
        self._app_limited = max(self.delivered + in_flight, 1)

    def fill(self, sample: AckSample, minimum_rtt: int) -> bool:
        """Put in what the acknowledgment just processed tells; False if it delivered nothing."""
        newest = self._newest
        if newest is None:
            return False
        self._newest = None
        delivered = self.delivered
        if self._app_limited and delivered > self._app_limited:
            self._app_limited = 0
        sent_at = self._first_sent_at = newest.sent_at
        idled = self._first_idled = newest.idled
        idled -= newest.first_idled
        interval = sent_at - newest.first_sent_at
        acked = self.delivered_at - newest.delivered_at
        if acked > interval:
            interval = acked
        prior = newest.delivered
        sample.delivered = delivered
        sample.prior_delivered = prior
        # An interval below the round trip's minimum is too short to be believed.
        believed = interval > 0 and interval >= minimum_rtt
        if idled and believed:
            interval -= min(idled, interval * _IDLED_MOST // 100)
        sample.delivery_rate = (delivered - prior) * _SECOND // interval if believed else 0
        sample.app_limited = newest.app_limited
        sample.tx_in_flight = newest.in_flight
        sample.lost_since = self.lost - newest.lost_before
        return True
