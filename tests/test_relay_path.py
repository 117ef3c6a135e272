"""What a simulated path does to datagrams: path.c in virtual time."""

from __future__ import annotations

import random
from statistics import mean

import pytest

from tests.relay_path import VirtualLink
from tools.relaylib.settings import Link

MANY = 20_000


def share_within(found: int, of: int, share: float) -> bool:
    """Whether a count is within five standard deviations of what a share promises."""
    return abs(found - of * share) <= 5 * (of * share * (1 - share)) ** 0.5


def fates(link: Link, seed: int = 1, count: int = MANY, every: float = 0.1) -> list[list[float]]:
    virtual = VirtualLink(link, seed)
    return [virtual.enter(number * every) for number in range(count)]


@pytest.mark.parametrize("percent", [0.1, 1, 10, 30])
def test_the_share_that_is_lost_is_as_asked(percent: float) -> None:
    virtual = VirtualLink(Link(loss=percent))
    lost = sum(not virtual.enter(number) for number in range(MANY))
    assert share_within(lost, MANY, percent / 100)
    assert virtual.link.lost == lost


def test_all_or_nothing_can_be_lost() -> None:
    assert not any(fates(Link(loss=100), count=1000))
    assert all(fates(Link(loss=0), count=1000))


def test_a_seed_repeats_every_decision() -> None:
    link = Link(delay=20, jitter=5, loss=5, reorder=5, duplicate=5, rate=200)
    assert fates(link, seed=7, count=2000) == fates(link, seed=7, count=2000)
    assert fates(link, seed=7, count=2000) != fates(link, seed=8, count=2000)


def test_the_same_datagrams_are_lost_whatever_else_is_asked_for() -> None:
    plain = [bool(fate) for fate in fates(Link(loss=5), count=2000)]
    other = [
        bool(fate) for fate in fates(Link(loss=5, delay=9, duplicate=30, corrupt=9), count=2000)
    ]
    assert plain == other


def test_the_delay_is_added() -> None:
    assert VirtualLink(Link(delay=25)).enter(100) == [pytest.approx(125)]


@pytest.mark.parametrize("every", [0.01, 1, 100])
def test_jitter_wanders_about_the_delay_and_keeps_the_order(every: float) -> None:
    virtual = VirtualLink(Link(delay=25, jitter=8))
    dues = [virtual.enter(number * every)[0] for number in range(MANY)]
    assert dues == sorted(dues)
    delays = [due - number * every for number, due in enumerate(dues)]
    assert min(delays) >= 17 - 1e-6
    assert max(delays) <= 33 + 1e-6
    if every > 0.01:  # long enough to have seen all
        assert max(delays) - min(delays) > 14
        assert mean(delays) == pytest.approx(25, abs=0.3)


def test_a_link_sends_at_its_rate() -> None:
    """1,500 bytes at 100 Mbit/s are 0.12 ms: of a burst, each leaves so long after the last."""
    virtual = VirtualLink(Link(rate=100, delay=25, queue=1e9))
    dues = [virtual.enter(5)[0] for _ in range(1000)]
    assert dues == pytest.approx([30 + 0.12 * (number + 1) for number in range(1000)])


def test_headers_count_for_the_rate() -> None:
    virtual = VirtualLink(Link(rate=8))
    virtual.link.header = 28
    assert virtual.enter(0, 972) == [pytest.approx(1)]


def test_a_link_that_was_idle_sends_at_once() -> None:
    virtual = VirtualLink(Link(rate=12))
    assert virtual.enter(0) == [pytest.approx(1)]
    assert virtual.enter(50) == [pytest.approx(51)]


def test_the_queue_is_bounded_in_bytes_and_drains() -> None:
    virtual = VirtualLink(Link(rate=12, queue=15_000))  # one datagram a millisecond
    assert [len(virtual.enter(0)) for _ in range(12)] == [1] * 10 + [0, 0]
    assert virtual.link.queue_highest == 15_000
    assert virtual.link.dropped == 2
    assert [len(virtual.enter(3.5)) for _ in range(4)] == [1, 1, 1, 0]
    assert virtual.link.dropped == 3


def test_the_queue_has_an_average_over_time() -> None:
    """Ten datagrams at once, gone after 10 ms: 7,500 bytes on average, half of it over 20 ms."""
    for end, average in ((10, 7_500), (20, 3_750), (5, 11_250)):
        virtual = VirtualLink(Link(rate=12, queue=15_000))
        for _ in range(10):
            virtual.enter(0)
        virtual.enter(end)
        span = virtual.link.seen - virtual.link.first
        assert virtual.link.area / span == pytest.approx(average)


def test_duplicates_come_in_their_turn() -> None:
    virtual = VirtualLink(Link(duplicate=10, rate=100, queue=1e9))
    found = [virtual.enter(number) for number in range(MANY)]
    twice = [fate for fate in found if len(fate) == 2]
    assert share_within(len(twice), MANY, 0.1)
    assert virtual.link.duplicated == len(twice)
    assert all(second == pytest.approx(first + 0.12) for first, second in twice)


def test_only_what_was_chosen_to_is_overtaken() -> None:
    held = 0
    for number, (due,) in enumerate(fates(Link(delay=25, reorder=10), every=0.1)):
        plain = number * 0.1 + 25
        assert plain - 1e-6 <= due <= plain + 25 / 2 + 5
        held += due > plain + 1e-6
    assert share_within(held, MANY, 0.1)


def test_corruption_turns_one_bit_anywhere() -> None:
    virtual = VirtualLink(Link(corrupt=10))
    bits = [bit for number in range(MANY) if (bit := virtual.fate(number, 100)[1]) >= 0]
    assert share_within(len(bits), MANY, 0.1)
    assert len(set(bits)) > 600
    assert 0 <= min(bits) <= max(bits) < 800
    assert VirtualLink(Link(corrupt=100)).fate(0, 0)[1] == -1  # nothing there to turn


class NaiveLink:
    """A queue that is a list: what has not been sent whole counts with what is left of it."""

    def __init__(self, rate: float, queue: float) -> None:
        self.bytes_a_ms, self.queue = rate * 125, queue
        self.waiting: list[tuple[float, float]] = []  # when each begins and ends to be sent

    def enter(self, at: float, size: int) -> list[float]:
        self.waiting = [span for span in self.waiting if span[1] > at]
        left = sum((end - max(begin, at)) * self.bytes_a_ms for begin, end in self.waiting)
        if left + size > self.queue + 1e-6:
            return []
        begin = self.waiting[-1][1] if self.waiting else at
        self.waiting.append((begin, begin + size / self.bytes_a_ms))
        return [self.waiting[-1][1]]


@pytest.mark.parametrize("seed", range(5))
def test_the_link_is_as_a_naive_one(seed: int) -> None:
    chance = random.Random(seed)
    rate, queue = chance.uniform(1, 50), chance.uniform(3_000, 60_000)
    virtual, naive = VirtualLink(Link(rate=rate, queue=queue)), NaiveLink(rate, queue)
    at, dropped = 0.0, 0
    for _ in range(3000):
        at += chance.choice([0, 0, chance.expovariate(rate / 6)])
        size = chance.choice([28, 100, 1500])
        found = virtual.enter(at, size)
        assert found == pytest.approx(naive.enter(at, size))
        dropped += not found
    assert dropped == virtual.link.dropped > 0
