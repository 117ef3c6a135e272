"""Flap damping in virtual time: scripts of what is usable when, and which interface is used."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.fake_machine import interface
from tunnel.policy.binding import BindingPolicy, Term
from tunnel.policy.damping import DWELL, HOLD_DOWN, SECOND, Damping
from tunnel.policy.interface import Interface, InterfaceType
from tunnel.policy.path import PathStatus

WIFI, CELLULAR = InterfaceType.WIFI, InterfaceType.CELLULAR
POLICY = BindingPolicy((Term(WIFI), Term(CELLULAR)))


WLAN, WWAN = interface("wlan0", 1, WIFI), interface("wwan0", 2, CELLULAR)
REMADE = replace(WLAN, index=9)
NOTHING: tuple[Interface, ...] = ()


class Script:
    """Feeds a Damping and follows its deadlines, as a session's one timer would."""

    def __init__(self, policy: BindingPolicy = POLICY) -> None:
        self.damping = Damping()
        self.policy = policy
        self.now = 1000 * SECOND
        self.start = self.now
        self.usable: tuple[Interface, ...] = ()
        self.moves: list[tuple[float, str | None]] = []
        self.voluntary: list[int] = []  # when a deadline, not a loss, made it move

    def at(self, seconds: float, *usable: Interface) -> None:
        """Let time pass up to `seconds`, deadlines included, then change what is usable."""
        until = self.start + round(seconds * SECOND)
        while (due := self.damping.next_deadline()) is not None and due <= until:
            self.now = due
            count = len(self.moves)
            self._update()
            self.voluntary += [self.now] * (len(self.moves) - count)
        self.now, self.usable = until, usable
        self._update()

    def _update(self) -> None:
        path = self.damping.update(self.policy.decide(self.usable), self.now)
        used = path.interface.name if path.interface else None
        if not self.moves or self.moves[-1][1] != used:
            self.moves.append(((self.now - self.start) / SECOND, used))
        assert set(path.interfaces) <= set(self.usable)


def test_wifi_that_returns_fails_and_comes_back_costs_one_move() -> None:
    script = Script()
    script.at(0, WWAN)
    script.at(60, WWAN, WLAN)
    script.at(68, WWAN)
    script.at(70, WWAN, WLAN)
    script.at(200, WWAN, WLAN)
    assert script.moves == [(0, "wwan0"), (85, "wlan0")]


def test_a_dead_interface_is_left_at_once() -> None:
    script = Script()
    script.at(0, WWAN, WLAN)
    script.at(1, WWAN)
    assert script.moves == [(0, "wlan0"), (1, "wwan0")]


def test_with_nothing_else_a_fresh_one_is_taken_at_once() -> None:
    script = Script()
    script.at(0, WLAN)
    script.at(10)
    script.at(12, WLAN)
    assert script.moves == [(0, "wlan0"), (10, None), (12, "wlan0")]


def test_a_forced_move_prefers_what_is_steady() -> None:
    better = interface("wlan1", 3, WIFI)
    for age, used in ((2, "wwan0"), (3, "wlan1")):
        script = Script()
        script.at(0, WWAN, WLAN)
        script.at(60 - age, WWAN, WLAN, better)
        script.at(60, WWAN, better)
        assert script.moves[-1] == (60, used)


def test_a_link_made_again_starts_again() -> None:
    script = Script()
    script.at(0, WWAN, WLAN)
    script.at(60, WWAN, REMADE)
    script.at(100, WWAN, REMADE)
    assert script.moves == [(0, "wlan0"), (60, "wwan0"), (75, "wlan0")]


def test_a_waiting_path_says_so() -> None:
    damping = Damping()
    damping.update(POLICY.decide((WWAN,)), 0)
    path = damping.update(POLICY.decide((WWAN, WLAN)), SECOND)
    assert path.reason == "wwan0 stays in use until wlan0 has been usable for 15 s"
    assert [i.name for i in path.interfaces] == ["wwan0", "wlan0"]
    assert damping.next_deadline() == SECOND + DWELL


def test_a_change_of_policy_takes_effect_at_once() -> None:
    script = Script()
    script.at(0, WWAN)
    script.at(60, WWAN, WLAN)
    script.damping.reset()
    script.at(61, WWAN, WLAN)
    assert script.moves == [(0, "wwan0"), (61, "wlan0")]


def test_a_prohibited_interface_is_left_at_once() -> None:
    script = Script()
    script.at(0, WWAN, WLAN)
    script.policy = BindingPolicy((Term(CELLULAR),))
    script.at(1, WWAN, WLAN)
    assert script.moves == [(0, "wlan0"), (1, "wwan0")]


def test_an_avoided_interface_is_left_only_for_one_that_has_proven_itself() -> None:
    script = Script(BindingPolicy(avoided=(Term(CELLULAR),)))
    script.at(0, WWAN)
    script.at(60, WWAN, WLAN)
    script.at(68, WWAN)
    script.at(70, WWAN, WLAN)
    script.at(200, WWAN, WLAN)
    assert script.moves == [(0, "wwan0"), (85, "wlan0")]


def test_unbound_is_not_damped() -> None:
    script = Script(BindingPolicy())
    wlan, wwan = replace(WLAN, metric=1), replace(WWAN, metric=2)
    script.at(0, wwan)
    script.at(1, wwan, wlan)
    assert script.moves == [(0, "wwan0"), (1, "wlan0")]
    assert script.damping.next_deadline() is None


@pytest.mark.parametrize("seed", range(20))
def test_random_flapping_keeps_the_rules(seed: int) -> None:
    """Never on what is not usable; never idle while something is; voluntary moves are rare."""
    chooser = random.Random(seed)
    script = Script()
    time = 0.0
    for _ in range(400):
        usable = [i for i in (WLAN, WWAN) if chooser.random() < 0.7]
        script.at(time, *usable)
        used = script.moves[-1][1]
        assert (used is None) == (not usable)
        assert used in {None, *(i.name for i in usable)}
        time += chooser.choice((0.1, 1.0, 2.9, 8.0, 16.0))
    assert script.voluntary
    assert all(other - one >= DWELL for one, other in pairwise(script.voluntary))
    assert HOLD_DOWN < DWELL
    assert POLICY.decide(NOTHING).status is PathStatus.UNSATISFIED
