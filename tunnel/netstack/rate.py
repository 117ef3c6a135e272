"""Delivery rate estimation (BBR draft, section 4.1): what rate each acknowledgment proves.

Every record notes, when it leaves, how much had been delivered by then and when. Its own delivery
then tells how much arrived in the meantime. The longer of the sending and the acknowledging
interval counts, so that neither a burst nor a compressed train of acknowledgments exaggerates.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunnel.netstack.flight import Sent

_SECOND = 1_000_000_000


@dataclass(slots=True)
class RateSample:
    """What the newest of the records that one acknowledgment delivered says."""

    prior_delivered: int
    rate: int  # bytes a second, 0 when the interval was too short to be believed
    app_limited: bool
    tx_in_flight: int
    lost_since: int


class DeliveryRate:
    """One connection's count of what was delivered and lost. Bytes and nanoseconds."""

    __slots__ = ("_app_limited", "_first_sent_at", "_newest", "delivered", "delivered_at", "lost")

    def __init__(self) -> None:
        self.delivered = 0
        self.delivered_at = 0
        self.lost = 0
        self._first_sent_at = 0
        self._app_limited = 0  # until this much is delivered, samples are limited by the user
        self._newest: Sent | None = None

    def on_sent(self, record: Sent, now: int, in_flight: int) -> None:
        """Note the state of things on a record that leaves; `in_flight` includes it."""
        if in_flight <= record.length:
            self._first_sent_at = self.delivered_at = now
        record.sent_at = now
        record.first_sent_at = self._first_sent_at
        record.delivered = self.delivered
        record.delivered_at = self.delivered_at
        record.in_flight = in_flight
        record.lost_before = self.lost
        record.app_limited = bool(self._app_limited)

    def on_delivered(self, record: Sent, now: int) -> None:
        """Count a record that was delivered for the first time."""
        self.delivered += record.length
        self.delivered_at = now
        newest = self._newest
        if newest is None or (record.sent_at, record.end) > (newest.sent_at, newest.end):
            self._newest = record

    def limited_by_application(self, in_flight: int) -> None:
        """The user has no more to send: what is sent until this is delivered says little."""
        self._app_limited = max(self.delivered + in_flight, 1)

    def sample(self, minimum_rtt: int) -> RateSample | None:
        """Return what the acknowledgment just processed tells; None if it delivered nothing."""
        newest, self._newest = self._newest, None
        if newest is None:
            return None
        if self._app_limited and self.delivered > self._app_limited:
            self._app_limited = 0
        self._first_sent_at = newest.sent_at
        interval = max(
            newest.sent_at - newest.first_sent_at, self.delivered_at - newest.delivered_at
        )
        rate = 0
        if interval >= max(minimum_rtt, 1):
            rate = (self.delivered - newest.delivered) * _SECOND // interval
        return RateSample(
            newest.delivered,
            rate,
            newest.app_limited,
            newest.in_flight,
            self.lost - newest.lost_before,
        )
