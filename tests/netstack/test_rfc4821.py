"""RFC 4821: the path's segment size found by probing; black holes; RFC 8201 beside it."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from tests.netstack.script import PLAIN, play
from tests.netstack.simulator import MBIT, MS, Application, World
from tunnel.netstack.pathprobe import AGAIN, PathSearch, safer
from tunnel.netstack.rtt import SECOND
from tunnel.netstack.settings import Settings

SELECTIVE = replace(PLAIN, selective=True)
OPENED = """
0   connect
0   > S 0 sackok
10  < SA 0 ack 1 win 60000 mss 1000 sackok
10  > A 1 ack 1
"""


def test_7_6_1_a_search_tries_the_largest_first_and_then_bisects() -> None:
    search = PathSearch(500, 1400, 1400)
    tried = []
    while size := search.candidate(SECOND):
        tried.append(size)
        search.tried = size
        search.settle(passed=size <= 1000)
    assert tried[:3] == [1400, 950, 1175]
    assert 1000 - 16 <= search.low <= 1000
    assert not search.over


def test_7_6_2_what_failed_is_tried_again_after_ten_minutes() -> None:
    search = PathSearch(1000, 1000, 1400)
    assert search.candidate(SECOND) == 0
    assert search.candidate(SECOND + AGAIN - 1) == 0
    assert search.candidate(SECOND + AGAIN) == 1400
    search.tried = 1400
    assert search.settle(passed=True) == 1400
    assert search.over


def test_7_7_the_third_timeout_in_a_row_makes_segments_smaller() -> None:
    script = play(OPENED + """
        20    write 1000
        20    > PA 1:1001 ack 1
        220   > PA 1:1001 ack 1
        620   > PA 1:1001 ack 1
        1420  > A 1:953 ack 1
        1430  < A 1 ack 953 win 60000
        1430  > PA 953:1001 ack 1
        1440  < A 1 ack 1001 win 60000
    """, SELECTIVE)  # fmt: skip
    assert script.connection.segment_size == 952


def test_7_7_there_are_three_safe_sizes() -> None:
    assert [safer(size) for size in (1388, 1208, 952, 504)] == [1208, 952, 504, 504]


def test_7_4_a_probe_leaves_whole_and_its_arrival_makes_segments_larger() -> None:
    script = play(OPENED, SELECTIVE)
    sender = script.connection.sender
    sender._suspect_path()  # nothing in flight: nothing suspected
    assert sender.segment == 1000
    sender._search = PathSearch(500, 1000, 1000)
    sender.resize(500)
    script.run("""
        20    write 50000
        20    > A 1:1001 ack 1 cut 0
        20    > A 1001:5001 ack 1 cut 500
        30    < A 1 ack 5001 win 60000
        30    > A 5001:17001 ack 1 cut 1000
    """)
    assert sender._search is None


def test_7_5_a_lost_probe_is_sent_again_in_pieces_and_reduces_nothing() -> None:
    script = play(OPENED, SELECTIVE)
    sender = script.connection.sender
    sender._search = PathSearch(500, 1000, 1000)
    sender.resize(500)
    window = sender.recovery.control.window
    script.run("""
        20    write 5000
        20    > A 1:1001 ack 1 cut 0
        20    > PA 1001:5001 ack 1 cut 500
        30    < A 1 ack 1 win 60000 sack 1001-5001
        30    > A 1:1001 ack 1 cut 500
        40    < A 1 ack 5001 win 60000
    """)
    assert sender.recovery.control.window >= window
    assert sender._search is not None
    assert sender._search.high == 999


def run(most: int, seed: int, size: int = 3_000_000, **path: float) -> World:
    data = Random(seed).randbytes(size)
    b = Application()
    world = World(seed, a=Application(data), b=b, path={"rate": 20 * MBIT, **path})
    world.paths[0].most = most
    world.run()
    assert b.received == data
    return world


@pytest.mark.parametrize("most", [1348, 1300, 1208, 1000, 600])
def test_a_black_hole_is_left_and_its_size_found(most: int) -> None:
    """A path that drops what is too large and says nothing."""
    world = run(most, 1)
    found = world.connections[0].segment_size
    assert most - 16 <= found <= most or found == 1348


def test_a_path_that_was_only_interrupted_gets_its_size_back() -> None:
    data = bytes(4_000_000)
    world = World(1, a=Application(data), b=Application(keep=False),
                  path={"rate": 20 * MBIT, "delay": 10 * MS})  # fmt: skip
    world.run(seconds=0.5)
    world.paths[0].loss = 1.0
    world.run(seconds=4)
    assert world.connections[0].segment_size < 1348
    world.paths[0].loss = 0.0
    world.run(seconds=10)
    assert world.connections[0].segment_size == 1348


def test_what_icmp_says_is_believed_for_ten_minutes_and_then_tried() -> None:
    data = bytes(1_000_000)
    a = Application(data, closes=False)
    world = World(1, a=a, b=Application(closes=False, keep=False), settings=Settings())
    world.run(seconds=0.1)
    connection = world.connections[0]
    connection.path_segment(1000)
    assert connection.segment_size == 988
    world.run(seconds=300)
    assert connection.segment_size == 988
    world.now += 700 * SECOND
    a.data += data
    world._pump(0)
    world.run(seconds=10)
    assert connection.segment_size == 1348
