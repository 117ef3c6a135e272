"""The timers as a table: state and packet times in, actions and the next look out. Seconds here."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from providers.wireguard.messages import SECOND
from providers.wireguard.timers import Action, TimerState, decide

NEVER = None


@dataclass(frozen=True)
class Packets:
    last_sent: int = 0
    last_received: int = 0
    unanswered_since: int = 0
    unacked_since: int = 0


def ns(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * SECOND)


def packets(**seconds: float) -> Packets:
    return Packets(**{name: ns(value) for name, value in seconds.items()})


def state(**values) -> TimerState:
    plain = {"wanted", "keepalive_now", "attempts", "watchful"}
    return TimerState(**{k: v if k in plain else ns(v) for k, v in values.items()})


QUIET = packets()
JITTER = 0.2
SERIES = {"series": 100, "initiation": 100, "attempts": 1, "jitter": JITTER}
LATE = {"series": 100, "initiation": 188, "attempts": 18, "jitter": JITTER}

# name: state, packets, now, expected actions, expected next look (None: never)
CASES = {
    "nothing at all": (state(), QUIET, 100, [], NEVER),
    # retransmit
    "wanted": (state(wanted=True), QUIET, 100, [Action.INITIATE], None),
    "wanted, 3 s after the last": (state(wanted=True, initiation=97), QUIET, 100, [], 102),
    "wanted, 5 s after the last": (
        state(wanted=True, initiation=95),
        QUIET,
        100,
        [Action.INITIATE],
        None,
    ),
    "no answer yet": (state(**SERIES), QUIET, 105, [], 105.2),
    "no answer in time": (state(**SERIES), QUIET, 105.2, [Action.INITIATE], None),
    "the last attempt": (state(**LATE), QUIET, 193.1, [], 193.2),
    "90 s without an answer": (state(**LATE), QUIET, 193.2, [Action.GIVE_UP], None),
    "looked at late, 90 s are over": (state(**SERIES), QUIET, 190, [Action.GIVE_UP], None),
    # keepalive
    "data came 9 s ago": (state(), packets(unacked_since=91), 100, [], 101),
    "data came 10 s ago": (state(), packets(unacked_since=90), 100, [Action.KEEPALIVE], None),
    "a keepalive that failed waits": (
        state(keepalive_tried=95),
        packets(unacked_since=80),
        100,
        [],
        105,
    ),
    # silence
    "data left 15 s ago": (state(jitter=JITTER), packets(unanswered_since=85), 100, [], 100.2),
    "data left 15.2 s ago": (
        state(jitter=JITTER),
        packets(unanswered_since=84.8),
        100,
        [Action.INITIATE],
        None,
    ),
    # doubt and suspicion, where another path stands by
    "watchful, data left 2.9 s ago": (
        state(watchful=True),
        packets(unanswered_since=97.1),
        100,
        [],
        100.1,
    ),
    "watchful, data left 3 s ago": (
        state(watchful=True),
        packets(unanswered_since=97),
        100,
        [Action.INITIATE],
        None,
    ),
    "watchful, data left 5 s ago, asked 2 s ago": (
        state(watchful=True, series=98, initiation=98, attempts=1),
        packets(unanswered_since=95),
        100,
        [Action.SUSPECT],
        None,
    ),
    "watchful, said 1 s ago": (
        state(watchful=True, series=97, initiation=97, attempts=1, suspected=99),
        packets(unanswered_since=94),
        100,
        [],
        102,
    ),
    "watchful, a first handshake 5 s old": (
        state(watchful=True, series=95, initiation=98, attempts=2),
        QUIET,
        100,
        [Action.SUSPECT],
        None,
    ),
    "watchful, a rekey 5 s old and data that comes": (
        state(watchful=True, series=95, initiation=98, attempts=2),
        packets(last_received=99),
        100,
        [],
        103,
    ),
    "silence while a series runs": (
        state(**SERIES),
        packets(unanswered_since=80),
        102,
        [],
        105.2,
    ),
    "silence that a series failed on": (
        state(abandoned=90),
        packets(unanswered_since=10, last_sent=80),
        100,
        [],
        NEVER,
    ),
    "more data after that": (
        state(abandoned=90),
        packets(unanswered_since=10, last_sent=95),
        100,
        [],
        105,
    ),
    "and no answer to it": (
        state(abandoned=90),
        packets(unanswered_since=10, last_sent=95),
        105,
        [Action.INITIATE],
        None,
    ),
    # zeroing
    "keys of 539 s": (state(keys=100), QUIET, 639, [], 640),
    "keys of 540 s": (state(keys=100), QUIET, 640, [Action.ERASE], None),
    # persistent
    "switched on": (state(interval=25, keepalive_now=True), QUIET, 30, [Action.KEEPALIVE], None),
    "sent 24 s ago": (
        state(interval=25),
        packets(last_sent=76, last_received=60),
        100,
        [],
        101,
    ),
    "received 24 s ago": (
        state(interval=25),
        packets(last_sent=60, last_received=76),
        100,
        [],
        101,
    ),
    "nothing for 25 s": (
        state(interval=25),
        packets(last_sent=75, last_received=70),
        100,
        [Action.KEEPALIVE],
        None,
    ),
    "off": (state(interval=0), packets(last_sent=1, last_received=1), 10_000, [], NEVER),
    "the longest": (state(interval=65535), packets(last_sent=1), 100, [], 65536),
    # several
    "a look at least every 10 s while data moves": (
        state(keys=90, jitter=JITTER),
        packets(unanswered_since=99),
        100,
        [],
        110,
    ),
    "the earliest wins": (
        state(keys=100, interval=7, **SERIES),
        packets(last_sent=100, unacked_since=93),
        100,
        [],
        103,
    ),
    "two at once": (
        state(keys=100, interval=5),
        packets(last_sent=600),
        700,
        [Action.ERASE, Action.KEEPALIVE],
        None,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_decisions(case):
    timers, times, now, actions, deadline = case
    decision = decide(timers, times, ns(now))
    assert list(decision.actions) == actions
    if not actions:
        assert decision.deadline == ns(deadline)


RESTING = {
    "nothing": (state(), QUIET, True),
    "only keys and persistent keepalives": (
        state(keys=90, interval=25),
        packets(last_sent=99),
        True,
    ),
    "a series": (state(**SERIES), QUIET, False),
    "data unanswered": (state(), packets(unanswered_since=99), False),
    "data to be answered": (state(), packets(unacked_since=99), False),
    "a series failed": (state(abandoned=99), packets(unanswered_since=50), True),
}


@pytest.mark.parametrize(("timers", "times", "resting"), RESTING.values(), ids=RESTING.keys())
def test_resting_peers_need_no_look_but_for_zeroing_and_persistent_keepalives(
    timers, times, resting
):
    assert decide(timers, times, ns(100)).resting is resting


# Each action moves its own due time on, or a device would never come to rest.
STEPS = {
    Action.SUSPECT: lambda timers, now: setattr(timers, "suspected", now),
    Action.INITIATE: lambda t, now: t.initiated(now, 0),
    Action.GIVE_UP: lambda t, now: t.given_up(now),
    Action.KEEPALIVE: lambda t, now: t.keepalive_sent(now),
    Action.ERASE: lambda t, now: t.erased(),
}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[3]])
def test_an_action_taken_is_due_no_more(name):
    timers, times, now, actions, _ = CASES[name]
    timers = replace(timers)
    for action in actions:
        STEPS[action](timers, ns(now))
    assert decide(timers, times, ns(now)).actions == ()


def test_a_series_counts_its_attempts_and_a_new_one_begins_at_one():
    timers = TimerState()
    timers.initiated(ns(1), 0)
    timers.initiated(ns(6), 0)
    assert (timers.series, timers.attempts) == (ns(1), 2)
    timers.completed()
    timers.initiated(ns(200), 0)
    assert (timers.series, timers.attempts) == (ns(200), 1)


def test_a_handshake_wanted_during_a_series_is_nothing_new():
    timers = TimerState()
    timers.initiated(ns(1), 0)
    timers.want()
    timers.completed()
    assert not timers.wanted


def test_restart_begins_at_once_whatever_was_under_way():
    timers = state(**SERIES)
    timers.restart()
    assert decide(timers, QUIET, ns(101)).actions == (Action.INITIATE,)


def test_restart_keeps_the_distance_that_peers_ask_for():
    timers = TimerState()
    timers.initiated(ns(100), 0)
    timers.restart()
    assert decide(timers, QUIET, ns(100.05)).actions == ()
    assert decide(timers, QUIET, ns(100.05)).deadline == ns(100.1)
    assert decide(timers, QUIET, ns(100.1)).actions == (Action.INITIATE,)
    timers.completed()  # the first one was answered meanwhile
    assert decide(timers, QUIET, ns(100.1)).actions == ()
