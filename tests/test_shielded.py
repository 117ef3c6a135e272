"""A policy of another package may raise, answer nonsense, or not at all: nothing is permitted."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.loops import PATIENCE
from tests.test_binding import WLAN as WIFI, WWAN as CELLULAR
from tunnel.policy.binding import BindingPolicy
from tunnel.policy.interface import Interface
from tunnel.policy.path import PathStatus
from tunnel.policy.shielded import Shielded


@dataclass
class Odd:
    """Answers what it is told to."""

    answer: Any

    def decide(self, interfaces: Sequence[Interface]) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def refusal(self, interface: Interface) -> Any:
        return self.decide(())

    def __str__(self) -> str:
        raise ValueError("no name")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (ValueError("boom"), "failed: ValueError('boom')"),
        (SystemExit(7), "failed: SystemExit(7)"),
        (None, "answered None, which is no Path"),
        (42, "answered 42, which is no Path"),
        (
            BindingPolicy().decide([replace(CELLULAR, index=99)]),
            "chose 'wwan0', which is not there",
        ),
    ],
)
def test_its_faults_permit_nothing_and_are_named(answer: Any, why: str) -> None:
    policy = Shielded("odd", Odd(answer))
    path = policy.decide([WIFI, CELLULAR])
    assert (path.status, path.interfaces, path.bound) == (PathStatus.UNSATISFIED, (), True)
    assert path.reason.startswith(f"no permitted interface: policy odd {why}")
    assert isinstance(policy.refusal(WIFI), str)
    assert str(policy) == "policy odd"


def test_what_it_answers_rightly_stands() -> None:
    path = BindingPolicy().decide([CELLULAR, WIFI])
    assert Shielded("odd", Odd(path)).decide([WIFI, CELLULAR]) == path


class Slow(Odd):
    """Answers when it is let, and counts how often it was asked."""

    def __init__(self, answer: Any) -> None:
        super().__init__(answer)
        self.begun, self.let, self.asked = threading.Event(), threading.Event(), 0

    def decide(self, interfaces: Sequence[Interface]) -> Any:
        self.asked += 1
        self.begun.set()
        assert self.let.wait(PATIENCE)
        return super().decide(interfaces)


def test_one_that_does_not_answer_permits_nothing_and_is_not_asked_on_top() -> None:
    slow = Slow(BindingPolicy().decide([WIFI]))
    policy = Shielded("slow", slow, patience=0.01)
    path = policy.decide([WIFI])
    assert (path.status, path.interfaces, path.bound) == (PathStatus.UNSATISFIED, (), True)
    assert path.reason.endswith("policy slow gave no answer for 0.01 s")
    assert policy.decide([WIFI]) == path
    assert "gave no answer" in policy.refusal(WIFI)
    assert str(policy) == "policy slow"
    assert slow.begun.wait(PATIENCE)
    assert slow.asked == 1
    slow.let.set()
    deadline = time.monotonic() + PATIENCE
    while policy.decide([WIFI]) == path:
        assert time.monotonic() < deadline
