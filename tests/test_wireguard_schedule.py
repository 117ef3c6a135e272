"""The heap of deadlines and the table of indices against naive models."""

from __future__ import annotations

import random

import pytest

from providers.wireguard.indices import IndexTable
from providers.wireguard.messages import ZEROING_TIME
from providers.wireguard.schedule import Schedule


@pytest.mark.parametrize("seed", range(5))
def test_the_schedule_agrees_with_a_dict(seed):
    rng = random.Random(seed)
    schedule, naive = Schedule(), {}
    now = 0
    for _ in range(5000):
        owner = rng.randrange(40)
        choice = rng.random()
        if choice < 0.6:
            deadline = now + rng.randrange(100)
            schedule.set(owner, deadline)
            naive[owner] = deadline
        elif choice < 0.7:
            schedule.set(owner, None)
            naive.pop(owner, None)
        else:
            now += rng.randrange(30)
            due = {one for one, when in naive.items() if when <= now}
            taken = list(schedule.take_due(now, 99))
            assert len(taken) == len(set(taken))
            assert set(taken) == due
            naive = {one: when for one, when in naive.items() if one not in due}
        assert schedule.next() == min(naive.values(), default=None)
        assert len(schedule) == len(naive)


def test_deadlines_that_only_move_later_keep_one_entry():
    schedule = Schedule()
    for deadline in range(10_000):
        schedule.set("owner", deadline)
    assert len(schedule._heap) == 1
    assert schedule.next() == 9999


def test_an_index_is_held_until_its_session_is_gone():
    draws = iter([5, 5, 6, 5, 7, 5])
    table = IndexTable(lambda: next(draws))
    assert table.take("a") == 5
    table.keep(5, 0)
    assert table.take("b") == 6
    table.keep(6, ZEROING_TIME - 1)
    assert table.take("c") == 7
    table.keep(7, ZEROING_TIME)
    assert table.find(5) is None
    assert table.take("d") == 5


def test_a_released_index_may_be_used_again():
    table = IndexTable(lambda: 9)
    assert table.take("a") == 9
    assert table.find(9) == "a"
    table.release(9)
    assert table.find(9) is None
    assert table.take("b") == 9
    assert len(table) == 1
