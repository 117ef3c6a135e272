"""A peer's timers as one pure function: what happened and when -> what to do, when to ask again.

There are five timers of the protocol, named here by the event that starts them (paper, section 6):

  retransmit   an initiation left       -> after REKEY_TIMEOUT and some jitter without a response
                                           send another; after REKEY_ATTEMPT_TIME give up
  keepalive    data was received        -> after KEEPALIVE_TIMEOUT with nothing sent back, say so
                                           with an empty packet, which asks for no answer itself
  silence      data was sent            -> after KEEPALIVE_TIMEOUT + REKEY_TIMEOUT and jitter with
                                           nothing received, the session may be dead: new handshake
  zeroing      keys were agreed upon    -> after ZEROING_TIME without newer ones erase them all
  persistent   anything was sent or     -> after the configured interval an empty packet, so that
               received                    middleboxes keep their state

and where another path stands by (`watchful`) two more, so that a path which dies in silence is left
soon. They may be wrong about a peer that has nothing to say, so they ask it first:

  doubt        data was sent            -> after DOUBT_TIME with nothing received, a handshake
  suspicion    data or an initiation    -> after SILENCE_TIME with nothing received, the path is
               was sent                    said to be silent, again each SILENCE_TIME

and the device reports these events:

  wanted       the engine has packets and no key, or a key that is due for renewal
  initiated    an initiation was made   (begins a series of attempts, or goes on with one)
  derived      keys were agreed upon    (as responder, not yet confirmed)
  completed    a session is confirmed   (ends the series)
  given_up     the series has failed
  restart      the path is another one  (begin again at once; but a peer drops what comes too soon
                                         after another initiation, and a path seldom changes once)

The engine keeps the times at which packets moved, since only it sees them; it says so once when a
resting peer moves a packet. So nothing needs to run while packets flow: a peer is looked at again
when something could be due. While data is moving that is after KEEPALIVE_TIMEOUT at the latest,
because what begins later cannot be due earlier than that.

What a key's age forbids or demands (REKEY_AFTER_TIME, REJECT_AFTER_TIME, the message counts) is
decided by the engine at each packet, and reaches us as `wanted`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol

from providers.wireguard.messages import (
    INITIATION_SPACING,
    KEEPALIVE_TIMEOUT,
    NEW_HANDSHAKE_TIME,
    REKEY_ATTEMPT_TIME,
    REKEY_TIMEOUT,
    SECOND,
    ZEROING_TIME,
)

DOUBT_TIME: Final = 3 * SECOND
SILENCE_TIME: Final = 5 * SECOND
"""What contract.md calls silence; the time between the two is for the peer's answer."""


class Action(Enum):
    """What is due."""

    INITIATE = auto()
    GIVE_UP = auto()
    KEEPALIVE = auto()
    ERASE = auto()
    SUSPECT = auto()


class Times(Protocol):
    """What the engine knows of a peer's packets (tunnel.PeerInfo). 0 is never."""

    @property
    def last_sent(self) -> int:
        """Newest authenticated packet sent."""

    @property
    def last_received(self) -> int:
        """Newest authenticated packet received."""

    @property
    def unanswered_since(self) -> int:
        """Oldest data sent with nothing received since."""

    @property
    def unacked_since(self) -> int:
        """Oldest data received with nothing sent since."""


@dataclass(slots=True)
class TimerState:
    """What the device remembers of one peer for its timers. Times are ns, None is never."""

    interval: int = 0  # of persistent keepalives, 0 for none
    wanted: bool = False
    hurry: bool = False  # it is wanted sooner than REKEY_TIMEOUT after the last one
    keepalive_now: bool = False
    series: int | None = None  # when the first initiation of this series was made
    attempts: int = 0
    initiation: int | None = None  # when the newest one was made, in this series or before
    jitter: int = 0
    keys: int | None = None  # when the newest keys were agreed upon
    abandoned: int | None = None  # when a series failed
    keepalive_tried: int = 0
    watchful: bool = False  # another path stands by
    suspected: int = 0  # when it was last said that the peer is silent

    def want(self) -> None:
        """Note that a handshake is needed; while a series is under way that is nothing new."""
        self.wanted = self.series is None

    def keepalive_sent(self, now: int) -> None:
        """Note a keepalive, or an attempt at one."""
        self.keepalive_now = False
        self.keepalive_tried = now

    def initiated(self, now: int, jitter: int) -> None:
        """Note an initiation, and the jitter of the timers that follow it."""
        if self.series is None:
            self.series = now
            self.attempts = 0
        self.attempts += 1
        self.initiation = now
        self.jitter = jitter
        self.wanted = self.hurry = False

    def derived(self, now: int) -> None:
        """Note new keys."""
        self.keys = now

    def completed(self) -> None:
        """Note that a session is confirmed."""
        self.series = None
        self.abandoned = None
        self.wanted = self.hurry = False

    def given_up(self, now: int) -> None:
        """Note that the series failed."""
        self.series = None
        self.abandoned = now
        self.wanted = self.hurry = False

    def erased(self) -> None:
        """Note that there are no keys any more."""
        self.keys = None

    def restart(self) -> None:
        """Begin a series anew, as soon as the peer will take another initiation."""
        self.series = None
        self.abandoned = None
        self.wanted = self.hurry = True

    def erased_all(self, now: int) -> None:
        """Note that keys and handshakes were erased before their time; traffic begins anew."""
        self.given_up(now)
        self.erased()
        self.initiation = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Actions in the order in which to take them; without any, the time to look again.

    `resting` means that nothing but zeroing and persistent keepalives can come due before the
    peer's next packet, which the engine is to report.
    """

    actions: tuple[Action, ...]
    deadline: int | None
    resting: bool


def decide(state: TimerState, times: Times, now: int) -> Decision:
    """Return what is due for a peer. An action taken moves its own due time on."""
    due: list[tuple[int, Action]] = []
    if state.keys is not None:
        due.append((state.keys + ZEROING_TIME, Action.ERASE))
    handshake = _handshake_due(state, times, now)
    if handshake is not None:
        due.append(handshake)
    keepalive = _keepalive_due(state, times, now)
    if keepalive is not None:
        due.append((keepalive, Action.KEEPALIVE))
    suspicion = _suspicion_due(state, times)
    if suspicion is not None:
        due.append((suspicion, Action.SUSPECT))

    actions = tuple(action for when, action in due if when <= now)
    resting = not (handshake or times.unacked_since or _silent_since(state, times))
    deadlines = [when for when, _ in due if when > now]
    if not resting:
        deadlines.append(now + (DOUBT_TIME if state.watchful else KEEPALIVE_TIMEOUT))
    return Decision(actions, min(deadlines, default=None), resting)


def _handshake_due(state: TimerState, times: Times, now: int) -> tuple[int, Action] | None:
    if state.series is not None and state.initiation is not None:
        when = state.initiation + REKEY_TIMEOUT + state.jitter
        if max(when, now) - state.series >= REKEY_ATTEMPT_TIME:
            return when, Action.GIVE_UP
        return when, Action.INITIATE
    if state.wanted:
        # Never faster than this, whatever asks for it.
        pause = INITIATION_SPACING if state.hurry else REKEY_TIMEOUT
        when = now if state.initiation is None else state.initiation + pause
        return when, Action.INITIATE
    silent = _silent_since(state, times)
    if silent is None:
        return None
    if state.watchful:
        return silent + DOUBT_TIME, Action.INITIATE
    return silent + NEW_HANDSHAKE_TIME + state.jitter, Action.INITIATE


def _suspicion_due(state: TimerState, times: Times) -> int | None:
    """When the path becomes suspect: the peer was sent something and is not heard since."""
    if not state.watchful:
        return None
    asked = state.series if state.series and times.last_received < state.series else None
    since = min((when for when in (times.unanswered_since, asked) if when), default=None)
    return None if since is None else max(since, state.suspected) + SILENCE_TIME


def _silent_since(state: TimerState, times: Times) -> int | None:
    """When data was first sent that nothing came back for; after a failed series, from there on."""
    if not times.unanswered_since:
        return None
    if state.abandoned is None or state.abandoned < times.unanswered_since:
        return times.unanswered_since
    return state.abandoned if times.last_sent > state.abandoned else None


def _keepalive_due(state: TimerState, times: Times, now: int) -> int | None:
    if state.keepalive_now:
        return now
    due = []
    if times.unacked_since:
        # One that could not be sent is not tried again at once.
        due.append(max(times.unacked_since, state.keepalive_tried) + KEEPALIVE_TIMEOUT)
    if state.interval:
        newest = max(times.last_sent, times.last_received, state.keepalive_tried)
        due.append(newest + state.interval)
    return min(due, default=None)
