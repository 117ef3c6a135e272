"""What is left of connections: small, bounded, answering, and making room where that is safe."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP

from tests.netstack.wire import FAR, NEAR, SECOND, World
from tunnel.netstack.timewait import MOST

V4 = IP(src=FAR, dst=NEAR)
STAMP = ("Timestamp", (1000, 0))


def finished(world: World, port: int = 9) -> tuple[int, int]:
    """Let a client connect and us close first; return (our next, its next) sequence numbers."""
    base = {"sport": port, "dport": 80}
    (answer,) = world.give(V4 / TCP(**base, seq=100, flags="S", options=[STAMP]))
    ours = answer[TCP].seq + 1
    world.give(V4 / TCP(**base, seq=101, ack=ours, flags="A", options=[STAMP]))
    socket = world.stack.take_events()[-1][0]
    socket.close(world.now)
    world.sent()
    answers = world.give(V4 / TCP(**base, seq=101, ack=ours + 1, flags="FA", options=[STAMP]))
    assert answers[-1][TCP].ack == 102
    assert not world.stack.tcp.sockets
    return ours + 1, 102


@pytest.fixture
def world() -> World:
    made = World()
    made.stack.listen(None, 80)
    return made


def test_a_late_fin_is_acknowledged_again_and_starts_the_wait_anew(world: World) -> None:
    ours, theirs = finished(world)
    world.later(50 * SECOND)
    fin = V4 / TCP(sport=9, dport=80, seq=theirs - 1, ack=ours, flags="FA", options=[STAMP])
    (answer,) = world.give(fin)
    assert (answer[TCP].seq, answer[TCP].ack, answer[TCP].flags) == (ours, theirs, "A")
    world.later(50 * SECOND)
    assert len(world.stack.tcp.time_wait) == 1
    world.later(11 * SECOND)
    assert len(world.stack.tcp.time_wait) == 0
    (reset,) = world.give(fin)
    assert "R" in reset[TCP].flags


def test_a_reset_ends_nothing(world: World) -> None:
    """RFC 1337."""
    _, theirs = finished(world)
    assert world.give(V4 / TCP(sport=9, dport=80, seq=theirs, flags="R")) == []
    assert len(world.stack.tcp.time_wait) == 1


@pytest.mark.parametrize(
    ("sequence", "stamp", "opens"),
    [(5_000_000, 1000, True), (50, 1001, True), (50, 1000, False), (5_000_000, 999, False)],
    ids=["higher sequence", "later stamp", "neither", "older stamp"],
)
def test_a_new_connection_of_the_same_name(
    world: World, sequence: int, stamp: int, opens: bool
) -> None:
    """RFC 6191, section 2."""
    ours, theirs = finished(world)
    syn = TCP(sport=9, dport=80, seq=sequence, flags="S", options=[("Timestamp", (stamp, 0))])
    (answer,) = world.give(V4 / syn)
    if opens:
        assert (answer[TCP].flags, answer[TCP].ack) == ("SA", sequence + 1)
        assert (answer[TCP].seq - ours) & 0xFFFFFFFF < 1 << 31  # RFC 9293, section 3.4.1
    else:
        assert (answer[TCP].flags, answer[TCP].ack) == ("A", theirs)


def test_the_oldest_go_early(world: World) -> None:
    for port in range(1, 40):
        finished(world, port)
    table = world.stack.tcp.time_wait
    (first, *_), remnant = table._remnants, next(iter(table._remnants.values()))
    for i in range(MOST):
        table.add(i.to_bytes(12, "big"), remnant)
    assert len(table) == MOST
    assert table.get(first) is None
