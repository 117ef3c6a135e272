"""Which interface to be on and which one to prove first, in virtual time."""

from __future__ import annotations

from dataclasses import replace

from tests.fake_machine import interface
from tunnel.policy.binding import BindingPolicy, Term
from tunnel.policy.damping import DWELL, RETRY_FIRST, SECOND
from tunnel.policy.interface import Interface, InterfaceType
from tunnel.policy.mover import Mover

WIFI, CELLULAR, WIRED = InterfaceType.WIFI, InterfaceType.CELLULAR, InterfaceType.WIRED
POLICY = BindingPolicy((Term(WIFI), Term(CELLULAR), Term(WIRED)))


WLAN = interface("wlan0", 1, WIFI)
WWAN = interface("wwan0", 2, CELLULAR)
ETH = interface("eth0", 3, WIRED)


class Script:
    """A Mover, what is usable, and the time in seconds."""

    def __init__(self, *usable: Interface) -> None:
        self.policy = POLICY
        self.mover = Mover(POLICY.decide(()))
        self.now = 1000 * SECOND
        self.usable = usable
        self.at(0, *usable)

    def at(self, seconds: float, *usable: Interface) -> None:
        self.now = 1000 * SECOND + round(seconds * SECOND)
        self.usable = usable
        self.mover.update(self.policy.decide(usable), self.now)

    @property
    def used(self) -> str | None:
        return self.mover.path.interface.name if self.mover.path.interface else None

    @property
    def candidate(self) -> str | None:
        return self.mover.candidate.name if self.mover.candidate else None


def on_cellular_with_steady_wifi() -> Script:
    script = Script(WWAN)
    script.at(60, WWAN, WLAN)
    assert (script.used, script.candidate) == ("wwan0", None)
    assert script.mover.next_deadline() == script.now + DWELL
    script.at(75, WWAN, WLAN)
    return script


def test_a_better_one_is_proven_before_it_is_moved_to() -> None:
    script = on_cellular_with_steady_wifi()
    assert (script.used, script.candidate) == ("wwan0", "wlan0")
    assert script.mover.path.reason == "wwan0 stays in use until the far end answers over wlan0"
    script.at(76, WWAN, WLAN)  # something else changed: the proof goes on
    assert (script.used, script.candidate) == ("wwan0", "wlan0")
    script.mover.proven(script.now)
    assert (script.used, script.candidate) == ("wlan0", None)
    assert "permitted by wifi" in script.mover.path.reason
    script.at(77, WWAN, WLAN)
    assert (script.used, script.candidate) == ("wlan0", None)


def test_without_an_answer_it_stays_and_tries_again_later_each_time() -> None:
    script = on_cellular_with_steady_wifi()
    now, pauses = 75.0, []
    for _ in range(7):
        pause = script.mover.refuted(script.now)
        assert (script.used, script.candidate) == ("wwan0", None)
        assert "did not when it was tried" in script.mover.path.reason
        assert script.mover.next_deadline() == script.now + round(pause * SECOND)
        pauses.append(pause)
        script.at(now + pause - 1, WWAN, WLAN)
        assert script.candidate is None
        now += pause
        script.at(now, WWAN, WLAN)
        assert script.candidate == "wlan0"
    assert pauses == [15, 30, 60, 120, 240, 300, 300]
    script.mover.proven(script.now)
    assert script.used == "wlan0"


def test_a_dead_one_is_left_without_a_proof() -> None:
    script = on_cellular_with_steady_wifi()
    script.at(76, WLAN)
    assert (script.used, script.candidate) == ("wlan0", None)
    script.at(77)
    assert (script.used, script.candidate) == (None, None)


def test_a_candidate_that_goes_is_not_tried_any_more() -> None:
    script = on_cellular_with_steady_wifi()
    script.at(76, WWAN)
    assert (script.used, script.candidate) == ("wwan0", None)
    script.at(78, WWAN, WLAN)
    assert script.candidate is None  # it starts again


def test_one_that_was_refused_is_still_better_than_none() -> None:
    script = on_cellular_with_steady_wifi()
    script.mover.refuted(script.now)
    script.at(76, WWAN, WLAN, ETH)
    script.at(80, WLAN, ETH)
    assert script.used == "eth0"
    script.at(81, WLAN)
    assert script.used == "wlan0"


def test_a_silent_one_has_the_others_tried_in_order_and_must_answer_to_be_returned_to() -> None:
    script = Script(WLAN, WWAN, ETH)
    script.at(100, WLAN, WWAN, ETH)
    script.mover.silent(script.now)
    assert (script.used, script.candidate) == ("wlan0", "wwan0")
    assert "nothing comes back over it; trying wwan0" in script.mover.path.reason
    script.mover.silent(script.now)  # said again: nothing new
    script.at(102, WLAN, WWAN, ETH)
    assert (script.used, script.candidate) == ("wlan0", "wwan0")
    script.mover.refuted(script.now)
    assert script.candidate is None
    script.mover.silent(script.now)
    assert script.candidate == "eth0"
    script.mover.proven(script.now)
    assert (script.used, script.candidate) == ("eth0", None)
    # The others wait for their turn; then they are proven, not taken on trust.
    script.at(102 + RETRY_FIRST / SECOND, WLAN, WWAN, ETH)
    assert (script.used, script.candidate) == ("eth0", "wlan0")


def test_with_nothing_else_silence_changes_nothing() -> None:
    script = Script(WLAN)
    script.mover.silent(script.now)
    assert (script.used, script.candidate) == ("wlan0", None)


def test_another_policy_takes_effect_at_once_but_leaves_no_living_path_unproven() -> None:
    script = Script(WLAN, WWAN)
    script.policy = BindingPolicy((Term(CELLULAR), Term(WIFI)))
    script.mover.reset()
    script.at(1, WLAN, WWAN)
    assert (script.used, script.candidate) == ("wlan0", "wwan0")
    script.policy = BindingPolicy((Term(CELLULAR),))
    script.mover.reset()
    script.at(2, WLAN, WWAN)
    assert (script.used, script.candidate) == ("wwan0", None)
    # What is permitted only now need not wait either, though nobody watched it before.
    script.policy = POLICY
    script.mover.reset()
    script.at(3, WLAN, WWAN)
    assert (script.used, script.candidate) == ("wwan0", "wlan0")


def test_a_link_made_again_is_not_the_one_that_was_in_use() -> None:
    script = Script(WLAN, WWAN)
    script.at(60, replace(WLAN, index=9), WWAN)
    assert (script.used, script.candidate) == ("wwan0", None)


def test_unbound_the_routes_decide() -> None:
    script = Script(WWAN)
    script.policy = BindingPolicy()
    for usable in ((WWAN,), (replace(WLAN, metric=-1), WWAN)):
        script.at(60, *usable)
        assert (script.used, script.candidate) == (usable[0].name, None)
    script.mover.silent(script.now)
    assert script.candidate is None
