"""BBR's constants, states and filters (draft-ietf-ccwg-bbr, sections 2 and 4.5)."""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Final

MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000
INFINITE: Final = 1 << 62

STARTUP_PACING_GAIN: Final = 2.77  # 4 ln 2
DRAIN_PACING_GAIN: Final = 0.5
DOWN_PACING_GAIN: Final = 0.9
UP_PACING_GAIN: Final = 1.25
CWND_GAIN: Final = 2.0
UP_CWND_GAIN: Final = 2.25
PACING_MARGIN: Final = 0.99
LOSS_THRESHOLD: Final = 0.02
BETA: Final = 0.7
HEADROOM: Final = 0.15
MIN_PIPE_SEGMENTS: Final = 4
FULL_BW_GROWTH: Final = 1.25
FULL_BW_ROUNDS: Final = 3
STARTUP_LOSS_EVENTS: Final = 6
MIN_RTT_WINDOW: Final = 10 * SECOND
PROBE_RTT_INTERVAL: Final = 5 * SECOND
PROBE_RTT_DURATION: Final = 200 * MILLISECOND
PROBE_RTT_CWND_GAIN: Final = 0.5
EXTRA_ACKED_ROUNDS: Final = 10
MAX_BW_CYCLES: Final = 2
RENO_ROUNDS: Final = 63
# Beyond the draft: a probe that found this much more is soon followed by another.
PROBE_AGAIN_GROWTH: Final = 1.1
PROBE_AGAIN_ROUNDS: Final = 4
# But where it overflowed the queue, what it found was others': one round for so many segments.
PROBE_AGAIN_SHARE: Final = 20
# A flow with little in flight probes more often, after one round for so many segments of it: with
# one that holds more it would else never be even, since a probe gains each of them the same part.
PROBE_SHARE: Final = 8
PROBE_LEAST_ROUNDS: Final = 16


class State(Enum):
    """The state machine of section 4.3. The four PROBE_* of bandwidth form one cycle."""

    STARTUP = "startup"
    DRAIN = "drain"
    DOWN = "probe bandwidth: down"
    CRUISE = "probe bandwidth: cruise"
    REFILL = "probe bandwidth: refill"
    UP = "probe bandwidth: up"
    PROBE_RTT = "probe rtt"


PACING_GAIN: Final = {
    State.STARTUP: STARTUP_PACING_GAIN,
    State.DRAIN: DRAIN_PACING_GAIN,
    State.DOWN: DOWN_PACING_GAIN,
    State.CRUISE: 1.0,
    State.REFILL: 1.0,
    State.UP: UP_PACING_GAIN,
    State.PROBE_RTT: 1.0,
}
PROBING: Final = (State.STARTUP, State.REFILL, State.UP)
CYCLE: Final = (State.DOWN, State.CRUISE, State.REFILL, State.UP)


class AckPhase(Enum):
    """How acknowledgments relate to the present bandwidth probe (section 4.3.3)."""

    INIT = "before the first probe"
    REFILLING = "refilling"
    STARTING = "probe starting"
    FEEDBACK = "probe feedback"
    STOPPING = "probe stopping"


class WindowedMax:
    """The largest value of the last `window` ticks; ticks only grow. Monotonic queue."""

    __slots__ = ("_entries", "_newest", "_window", "value")

    def __init__(self, window: int) -> None:
        self._window = window
        self._entries: deque[tuple[int, int]] = deque()  # (tick, value), values falling
        self._newest = (-1, 0)  # the last entry
        self.value = 0  # the maximum now, 0 before the first value

    def update(self, tick: int, value: int) -> None:
        """Add a value."""
        last, least = self._newest
        if tick == last and value <= least:
            return
        entries = self._entries
        while entries and entries[-1][1] <= value:
            entries.pop()
        self._newest = tick, value
        entries.append(self._newest)
        while entries[0][0] <= tick - self._window:
            entries.popleft()
        self.value = entries[0][1]
