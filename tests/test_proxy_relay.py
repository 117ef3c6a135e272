"""Two connections joined: tunnel/proxy/relay.py."""

from __future__ import annotations

import pytest

from tests.proxy_door import Noted
from tunnel.proxy.relay import CHUNK, FEW, End, join


def joined(unit: int | None = None) -> tuple[End, Noted, End, Noted]:
    """Return two ends that carry to each other, each behind its transport."""
    ends = End(), End()
    transports = Noted(), Noted(unit)
    for end, transport in zip(ends, transports, strict=True):
        end.connection_made(transport)
    join(*ends)
    return ends[0], transports[0], ends[1], transports[1]


def test_what_comes_of_one_goes_to_the_other() -> None:
    one, here, other, there = joined()
    one.data_received(b"there")
    other.data_received(b"and back")
    assert (here.told, there.told) == ([b"and back"], [b"there"])


def test_each_direction_ends_by_itself_and_the_second_end_closes_both() -> None:
    one, here, other, there = joined()
    assert one.eof_received()
    assert (here.told, there.told) == ([], ["write_eof"])
    other.data_received(b"more")
    assert other.eof_received()
    assert (here.told, there.told) == ([b"more", "close"], ["write_eof", "close"])


def test_an_end_is_not_passed_on_to_who_is_about_to_close() -> None:
    one, _, _, there = joined()
    there.close()
    assert one.eof_received()
    assert there.told == ["close"]


def test_who_reads_slowly_holds_up_its_sender_and_nobody_else() -> None:
    one, here, _, there = joined()
    one.pause_writing()
    assert (here.told, there.told) == ([], ["pause_reading"])
    one.resume_writing()
    assert (here.told, there.told) == ([], ["pause_reading", "resume_reading"])


@pytest.mark.parametrize("closes", [True, False])
def test_a_sender_that_has_ended_is_not_read_from_again(*, closes: bool) -> None:
    one, _, other, there = joined()
    one.pause_writing()
    there.told.clear()
    if closes:
        there.close()
    else:
        other.eof_received()
    one.resume_writing()
    assert there.told == ["close"] * closes


@pytest.mark.parametrize(
    ("ended", "error", "told"),
    [
        (True, None, ["write_eof", "close"]),
        (True, OSError(), ["write_eof", "abort"]),
        (False, None, ["abort"]),  # nobody said that what came is whole
        (False, OSError(), ["abort"]),
    ],
)
def test_how_one_is_lost_is_how_the_other_ends(
    *, ended: bool, error: OSError | None, told: list[str]
) -> None:
    one, here, _, there = joined()
    if ended:
        one.eof_received()
    one.connection_lost(error)
    one.connection_lost(error)
    assert (here.told, there.told) == ([], told)


def test_as_much_is_read_at_once_as_leaves_at_once() -> None:
    assert End().read_size() == FEW
    one, _, other, _ = joined(unit=1000)
    assert (one.read_size(), other.read_size()) == (1000, CHUNK)
    assert (len(one.get_buffer(-1)), len(other.get_buffer(-1))) == (1000, CHUNK)
    assert len(End().get_buffer(-1)) == CHUNK


def receive(end: End, data: bytes) -> object:
    """Have an end receive as event loops do; return the memory that was used."""
    buffer = end.get_buffer(-1)
    buffer[: len(data)] = data
    end.buffer_updated(len(data))
    return buffer.obj


def test_little_is_copied_out_of_memory_that_all_share() -> None:
    one, here, other, there = joined()
    few = bytes(CHUNK // 2 - 1)
    assert receive(one, few) is receive(other, b"more")
    assert (here.told, there.told) == ([b"more"], [few])


def test_much_is_sent_from_where_it_lies() -> None:
    one, _, other, there = joined()
    much = b"\1" * (CHUNK // 2)
    memory = receive(one, much)
    (sent,) = there.told
    assert isinstance(sent, memoryview)
    assert sent.obj is memory
    assert sent.readonly
    assert receive(other, b"\2" * CHUNK) is not memory  # it may wait to be sent
    assert sent == much


def test_what_nobody_takes_yet_is_not_given_away() -> None:
    end = End()
    assert receive(end, bytes(CHUNK)) is receive(end, bytes(CHUNK))
