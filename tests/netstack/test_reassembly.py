"""Fragments: put together in any order, refused where they overlap, bounded in number and time."""

from __future__ import annotations

import random
from ipaddress import ip_address
from itertools import pairwise

import pytest

from tests.netstack.wire import FAR, NEAR, SECOND
from tunnel.netstack.ip import UDP, Fragment, Packet
from tunnel.netstack.reassembly import MOST_BYTES, MOST_DATAGRAMS, WAIT, Reassembly

DATA = random.Random(3).randbytes(4000)
A, B = ip_address(FAR).packed, ip_address(NEAR).packed


def piece(start: int, end: int, *, ident: int = 1, more: bool | None = None,
          data: bytes = DATA, version: int = 4) -> Packet:  # fmt: skip
    """Bytes start to end of the datagram DATA as a fragment."""
    body = memoryview(data[start:end])
    last = end >= len(data) if more is None else not more
    return Packet(version, A, B, UDP, 0, body, body, Fragment(ident, start, not last))


def whole(found: Packet | None) -> bytes | None:
    return None if found is None else bytes(found.payload)


@pytest.mark.parametrize("seed", range(20))
def test_any_order_gives_the_datagram_once(seed: int) -> None:
    chance = random.Random(seed)
    edges = sorted({0, len(DATA), *(8 * chance.randrange(1, 500) for _ in range(9))})
    pieces = [piece(a, b) for a, b in pairwise(edges)]
    pieces += chance.choices(pieces[:-1], k=4)  # duplicates
    chance.shuffle(pieces)
    table = Reassembly()
    found = [whole(table.add(one, SECOND)) for one in pieces]
    assert DATA in found
    assert table.refused == 0


REFUSED = {
    "overlap of one byte group": [(0, 16), (8, 24), (16, 4000)],
    "one inside another": [(0, 800), (80, 160), (800, 4000)],
    "the same place, another size": [(0, 24), (0, 16), (24, 4000)],
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("version", [4, 6])
def test_overlap_gives_the_datagram_up(name: str, version: int) -> None:
    """RFC 5722: all of it, those that are still to come included."""
    table = Reassembly()
    for start, end in REFUSED[name]:
        assert table.add(piece(start, end, version=version), SECOND) is None
    for start, end in ((0, 2000), (2000, 4000)):
        assert table.add(piece(start, end, version=version), SECOND) is None
    assert table.refused == 1


@pytest.mark.parametrize(
    "one",
    [
        piece(0, 15, more=True),
        piece(8, 8, more=True),
        Packet(4, A, B, UDP, 0, memoryview(DATA), memoryview(DATA), Fragment(1, 65_528, False)),
    ],
    ids=["not a multiple of eight", "empty", "larger than a packet"],
)
def test_sizes_that_cannot_be_are_refused(one: Packet) -> None:
    table = Reassembly()
    assert table.add(one, SECOND) is None
    assert table.refused == 1


def test_another_end_is_refused() -> None:
    table = Reassembly()
    table.add(piece(2000, 3000, more=False), SECOND)
    assert table.add(piece(3000, 4000), SECOND) is None
    assert table.refused == 1


def test_an_atomic_fragment_stands_alone() -> None:
    """RFC 6946: even where another datagram of that name is under way."""
    table = Reassembly()
    table.add(piece(0, 2000), SECOND)
    assert whole(table.add(piece(0, 100, data=DATA[:100]), SECOND)) == DATA[:100]
    assert whole(table.add(piece(2000, 4000), SECOND)) == DATA


def test_what_is_not_completed_is_given_up_in_time() -> None:
    table = Reassembly()
    table.add(piece(0, 2000), SECOND)
    table.add(piece(2000, 4000, ident=2), 2 * SECOND)
    assert table.next_deadline() == SECOND + WAIT
    assert table.expire(SECOND + WAIT - 1) == []
    (late,) = table.expire(SECOND + WAIT)
    assert late.first is not None
    (late,) = table.expire(2 * SECOND + WAIT)
    assert late.first is None
    assert table.add(piece(2000, 4000), 3 * SECOND + WAIT) is None


def test_a_flood_of_fragments_holds_bounded_memory() -> None:
    table = Reassembly()
    big = bytes(60_000)
    for ident in range(10_000):
        table.add(piece(0, 59_992, ident=ident, data=big, more=True), SECOND)
        assert table._bytes <= MOST_BYTES
        assert len(table._partials) <= MOST_DATAGRAMS
    for offset in range(0, 59_992, 8):
        table.add(piece(offset, offset + 8, ident=-1, data=big, more=True), SECOND)
    assert len(table._partials) <= MOST_DATAGRAMS
