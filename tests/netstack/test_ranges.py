from __future__ import annotations

from random import Random

from tunnel.netstack.ranges import Ranges


def test_agrees_with_a_set_of_integers() -> None:
    random = Random(2)
    for _ in range(300):
        ranges, naive = Ranges(), set[int]()
        floor = 0
        for _ in range(40):
            start = random.randrange(floor, floor + 100)
            end = start + random.randrange(0, 12)
            fresh = set(range(start, end)) - naive
            assert ranges.add(start, end) == len(fresh)
            naive |= fresh
            if random.random() < 0.1:
                floor += random.randrange(10)
                ranges.remove_below(floor)
                naive = {n for n in naive if n >= floor}
            assert [n for low, high in ranges for n in range(low, high)] == sorted(naive)
            assert ranges.total == len(naive)
            assert ranges.end == (max(naive) + 1 if naive else None)
            probe = random.randrange(floor, floor + 100)
            found = ranges.covering(probe)
            assert (found is not None) == (probe in naive)
            gaps = [n for low, high in ranges.gaps(probe, probe + 20) for n in range(low, high)]
            assert gaps == [n for n in range(probe, probe + 20) if n not in naive]
            assert ranges.covers(probe, probe + 3) == (set(range(probe, probe + 3)) <= naive)


def test_neighbours_merge() -> None:
    ranges = Ranges()
    ranges.add(0, 5)
    ranges.add(10, 15)
    assert ranges.add(5, 10) == 5
    assert list(ranges) == [(0, 15)]
