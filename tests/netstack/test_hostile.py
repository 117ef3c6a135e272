"""Malformed and hostile segments: nothing raises, memory stays bounded, bytes stay right."""

from __future__ import annotations

from random import Random

import pytest

from tests.netstack.script import OPENED, STATES, Script, play
from tests.netstack.simulator import MS, Application, World
from tunnel.netstack.budget import Pool, RateLimit
from tunnel.netstack.connection import Connection
from tunnel.netstack.receiver import MAX_PIECES
from tunnel.netstack.segment import Options, Segment
from tunnel.netstack.settings import Settings
from tunnel.netstack.states import State


def random_segment(random: Random, near: tuple[int, int]) -> Segment:
    """Anything at all, often close to the connection's own numbers."""

    def number(around: int) -> int:
        spread = random.choice((3, 2_000, 100_000, 1 << 32))
        return (around + random.randrange(-spread, spread)) & 0xFFFFFFFF

    sequence, ack = number(near[0]), number(near[1])
    options = Options(
        mss=random.choice((None, 0, 1, 65535)),
        window_shift=random.choice((None, 0, 14)),
        sack_permitted=random.random() < 0.5,
        timestamp=random.choice((None, (random.randrange(1 << 32), random.randrange(1 << 32)))),
        sack=tuple((number(ack), number(ack)) for _ in range(random.randrange(5))),
        user_timeout=random.choice((None, 0, 65535 * 60)),
    )
    payload = random.randbytes(random.choice((0, 0, 1, 1000, 65_000)))
    return Segment(
        80, 1000, sequence, ack, random.randrange(256), random.choice((0, 1, 500, 65535)),
        options, payload, random.random() < 0.2, urgent=random.choice((0, 1, 65535)),
    )  # fmt: skip


@pytest.mark.parametrize("name", [*STATES, "LISTEN", "SYN-SENT", "CLOSED"])
def test_random_segments_in_every_state(name: str) -> None:
    scripts = {"LISTEN": "0 listen", "SYN-SENT": "0 connect\n0 > S 0", "CLOSED": "0 quiet"}
    for seed in range(15):
        random = Random(seed)
        script = Script()
        script.run(STATES.get(name) or scripts[name])
        connection, now = script.connection, script.now
        for _ in range(60):
            receiver = connection.receiver
            near = (receiver.nxt if receiver else 0, connection.sender.nxt)
            connection.receive(random_segment(random, near), now)
            now += random.randrange(1, 300) * MS
            deadline = connection.next_deadline()
            if deadline is not None and deadline <= now:
                connection.handle_timeout(now)
            for sent in connection.segments_to_send(now):
                assert 0 <= sent.window <= 0xFFFF
                assert 0 <= sent.sequence < 1 << 32
            assert 0 <= connection.urgent <= (1 << 16) + 65_535 + 65_535
            connection.read(1 << 20)
            connection.take_events()


def test_forged_segments_beside_an_exchange_change_no_byte() -> None:
    """An attacker who guesses ports but not positions: nothing of it is seen."""
    for seed in range(10):
        random = Random(seed)
        data = random.randbytes(100_000)
        b = Application()
        world = World(seed, a=Application(data), b=b, path={"loss": 0.02})
        steps = 0
        while world.step():
            steps += 1
            victim = random.choice(world.connections)
            if victim.receiver is None or victim.state is State.TIME_WAIT:
                continue
            far = random.randrange(1 << 29, 1 << 31)
            forged = random_segment(random, (0, 0))._replace(
                sequence=(victim.receiver.nxt + far) & 0xFFFFFFFF,
                acknowledgment=(victim.sender.una - far) & 0xFFFFFFFF,
            )
            victim.receive(forged, world.now)
        assert b.received == data, f"seed {seed}"


def test_pieces_out_of_order_are_bounded() -> None:
    script = play(OPENED)
    connection = script.connection
    for i in range(3 * MAX_PIECES):
        connection.receive(
            Segment(80, 1000, (0xFFFFFE00 + 100 + 2 * i) & 0xFFFFFFFF, 0xFFFFFC01, 0x10, 100,
                    payload=b"x"),
            script.now,
        )  # fmt: skip
    receiver = connection.receiver
    assert receiver is not None
    assert len(receiver._pieces) == MAX_PIECES
    assert connection.readable == 0


def test_what_overlaps_out_of_order_keeps_the_first_copy() -> None:
    script = play(OPENED)
    connection = script.connection
    for start, payload in ((11, b"BBBBB"), (8, b"aaaaaaaaaaa"), (1, b"0123456")):
        sequence = (0xFFFFFE00 + start) & 0xFFFFFFFF
        connection.receive(
            Segment(80, 1000, sequence, 0xFFFFFC01, 0x10, 100, payload=payload), script.now
        )
    assert connection.read(100) == b"0123456aaaBBBBBaaa"


def test_a_writer_that_is_never_drained_holds_its_limit() -> None:
    connection = Connection(1, 2, iss=0, settings=Settings(send_buffer=10_000))
    connection.connect(0)
    assert connection.write(bytes(50_000)) == 9_520  # whole segments
    assert connection.write(bytes(50_000)) == 480
    assert connection.write(b"x") == 0


def test_windows_grow_within_the_budget_of_all() -> None:
    pool = Pool(100_000)
    one, other = pool.budget(), pool.budget()
    assert (one.take(70_000), other.take(70_000), one.take(1)) == (70_000, 30_000, 0)
    one.give_back()
    assert other.take(70_000) == 70_000


def test_a_rate_limit_starts_anew_after_its_interval() -> None:
    limit = RateLimit(2, 10)
    assert [limit.allows(now) for now in (0, 1, 2, 9, 10, 11, 12)] == [
        True, True, False, False, True, True, False,
    ]  # fmt: skip
