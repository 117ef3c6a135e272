"""Round-trip time and retransmission timeout (RFC 6298), with timestamps (RFC 7323, section 4).

Times are nanoseconds. Karn's rule is the caller's: only samples that belong to one certain
transmission come here (a timestamp echo, or a segment sent once).
"""

from __future__ import annotations

from typing import Final

MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000

INITIAL_RTO: Final = 1 * SECOND  # RFC 6298, (2.1)
SECOND_RTO: Final = 3 * SECOND  # RFC 6298, (5.7)
MIN_RTO: Final = 200 * MILLISECOND  # below RFC 6298's (2.4) 1 s, as Linux and RFC 8985 assume
MAX_RTO: Final = 60 * SECOND  # RFC 6298, (2.5)
_GRANULARITY: Final = 1 * MILLISECOND  # G of RFC 6298


class RoundTrip:
    """The estimator of one connection: smoothed time, variation, minimum, and backed-off RTO."""

    __slots__ = ("_backoff", "base", "latest", "minimum", "smoothed", "timeout", "variation")

    def __init__(self) -> None:
        self.smoothed = 0  # SRTT; 0 before the first sample
        self.variation = 0  # RTTVAR
        self.minimum = 0  # smallest sample so far; 0 before the first
        self.latest = 0
        self.base = INITIAL_RTO  # the timeout before it is backed off
        self._backoff = 0
        self.timeout = INITIAL_RTO  # the retransmission timeout now, backing off included

    def sample(self, rtt: int, *, samples_per_window: int = 1) -> None:
        """Take a measurement. A valid sample also ends the backing off of (5.7).

        `samples_per_window` thins the gains where every segment gives a sample
        (RFC 7323, appendix G); at least 1.
        """
        if rtt < 1:
            rtt = 1
        self.latest = rtt
        if rtt < self.minimum or not self.minimum:
            self.minimum = rtt
        smoothed = self.smoothed
        if not smoothed:  # (2.2)
            self.smoothed = smoothed = rtt
            self.variation = variation = rtt // 2
        else:  # (2.3), alpha = 1/8 and beta = 1/4, spread over the samples of a window
            error = rtt - smoothed
            variation = self.variation
            variation += (abs(error) - variation) // (4 * samples_per_window)
            self.variation = variation
            self.smoothed = smoothed = smoothed + error // (8 * samples_per_window)
        base = smoothed + 4 * variation
        if 4 * variation < _GRANULARITY:
            base = smoothed + _GRANULARITY
        self.base = self.timeout = base if base > MIN_RTO else MIN_RTO
        self._backoff = 0
        if base > MAX_RTO:
            self.timeout = MAX_RTO

    def back_off(self) -> None:
        """Double the timeout after it has fired (5.5)."""
        if self.timeout < MAX_RTO:
            self._backoff += 1
            self.timeout = min(self.base << self._backoff, MAX_RTO)

    def start_over(self) -> None:
        """Our SYN had to be repeated, and nothing tells which one was answered (5.7)."""
        self._backoff = 0
        self.base = self.timeout = SECOND_RTO

    @property
    def silent(self) -> int:
        """How often in a row the timeout has fired."""
        return self._backoff

    def end_back_off(self) -> None:
        """Something new was acknowledged: the path carries again.

        RFC 6298 waits for a sample, which may never come where every segment is lost once.
        """
        self._backoff = 0
        self.timeout = min(self.base, MAX_RTO)
