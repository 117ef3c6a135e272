"""Sessions over time: hours in virtual time, each timer of the protocol, idle peers, new paths."""

from __future__ import annotations

import itertools
from ipaddress import ip_address

import pytest

from providers.wireguard.change import PeerChange
from providers.wireguard.messages import REKEY_JITTER, SECOND
from providers.wireguard.peer import Phase
from tests.wireguard_world import PORT, World, key_pair, ready


def gaps(datagrams) -> list[float]:
    times = [datagram.time for datagram in datagrams]
    return [(b - a) / SECOND for a, b in itertools.pairwise(times)]


def test_an_hour_with_traffic_both_ways_is_rekeyed_and_loses_nothing():
    world = World(seed=1, delay=(5_000_000, 40_000_000))
    a, b = world.pair()
    to_b, to_a = [], []
    for _ in range(3600):
        to_b.append(a.send(b))
        to_a.append(b.send(a))
        world.run(1)
    assert sorted(b.received) == sorted(to_b)
    assert sorted(a.received) == sorted(to_a)
    handshakes = a.sent(1) + b.sent(1)
    assert 28 <= len(handshakes) <= 32  # one each 120 s, and at the start maybe two
    assert max(gaps(sorted(handshakes, key=lambda d: d.time))) < 122


def test_only_the_initiator_renews_and_only_when_it_sends():
    world, a, b = ready()
    world.run(125)
    b.send(a)  # the responder's data renews nothing
    world.run(10)
    assert len(a.sent(1)) + len(b.sent(1)) == 1
    a.send(b)
    world.run(1)
    assert len(a.sent(1)) == 2
    assert b.sent(1) == []


def test_the_initiator_renews_on_receive_in_the_last_minute_and_once():
    world, a, b = ready()
    world.run(166)
    b.send(a)
    b.send(a)
    world.run(1)
    assert len(a.sent(1)) == 2


def test_keys_of_180_seconds_are_used_no_more():
    world, a, b = ready()
    world.run(181)
    world.network.loss = 1.0
    sent = len(b.sent(4))
    b.send(a)
    assert len(b.sent(4)) == sent
    assert b.info(a).staged == 1
    assert len(b.sent(1)) == 1  # it asks for new ones instead


# ---- retransmission ----


def test_retries_come_every_5_seconds_and_jitter_with_new_ephemerals_and_timestamps():
    world = World(loss=1.0)
    a, b = world.pair()
    a.send(b)
    world.run(60)
    initiations = a.sent(1)
    assert len(initiations) > 10
    assert all(5.0 <= gap <= 5.0 + REKEY_JITTER / SECOND for gap in gaps(initiations))
    assert len({datagram.data[8:40] for datagram in initiations}) == len(initiations)
    assert len({datagram.data[4:8] for datagram in initiations}) == len(initiations)
    assert len(set(gaps(initiations))) > 1


def test_after_90_seconds_it_gives_up_and_new_traffic_starts_again():
    world = World(loss=1.0)
    a, b = world.pair()
    a.send(b)
    world.run(89)
    assert a.info(b).staged == 1
    world.run(1000)
    assert a.info(b).staged == 0
    assert a.peer(b).phase is Phase.FAILED
    attempts = len(a.sent(1))
    assert 17 <= attempts <= 18
    assert a.sent(1)[-1].time - a.sent(1)[0].time < 90 * SECOND
    world.network.loss = 0.0
    packet = a.send(b)
    world.run(1)
    assert len(a.sent(1)) == attempts + 1
    assert b.received == [packet]


def test_a_failed_series_leaves_nothing_that_wakes_up():
    world = World(loss=1.0)
    a, b = world.pair()
    a.send(b)
    world.run(200)
    assert a.device.next_deadline() is None


def test_silence_after_15_seconds_means_a_new_handshake():
    world, a, b = ready()
    world.run(20)
    b.online = False
    world.network.detach(b.place)
    a.send(b)
    begun = world.clock.now
    world.run(60)
    second = a.sent(1)[1]
    assert 15.0 <= (second.time - begun) / SECOND <= 15.0 + REKEY_JITTER / SECOND


def test_a_session_that_the_peer_lost_is_replaced():
    world, a, b = ready()
    b.engine.erase_keys(b.peer(a).id)  # as after a restart
    lost = a.send(b)
    world.run(20)
    packet = a.send(b)
    world.run(1)
    assert b.received[-1] == packet
    assert lost not in b.received


# ---- keepalives ----


def test_data_that_nothing_is_sent_for_is_answered_after_10_seconds_and_that_is_all():
    world, a, b = ready()
    before = len(world.network.sent)
    world.run(100)
    after = world.network.sent[before:]
    assert [len(datagram.data) for datagram in after] == [32]
    assert after[0].source == b.place
    assert 9.9 <= (after[0].time - a.sent(4)[0].time) / SECOND <= 10.1


def test_no_keepalive_where_data_goes_back_in_time():
    world, a, b = ready()
    before = len(world.network.sent)
    world.run(5)
    b.send(a)
    world.run(9)
    a.send(b)
    world.run(9)
    assert len(world.network.sent) == before + 2
    assert all(len(datagram.data) > 32 for datagram in world.network.sent[before:])


def test_idle_peers_do_not_answer_each_others_keepalives():
    world, a, b = ready()
    b.send(a)
    world.run(60)
    quiet = len(world.network.sent)
    world.run(24 * 3600)
    assert len(world.network.sent) == quiet


def test_a_stream_one_way_is_answered_every_10_seconds():
    world, a, b = ready()
    before = len(b.sent(4))
    for _ in range(100):
        a.send(b)
        world.run(1)
    keepalives = b.sent(4)[before:]
    assert 8 <= len(keepalives) <= 10
    assert {len(datagram.data) for datagram in keepalives} == {32}
    assert len(a.sent(1)) == 1  # it was answered, so nothing seemed dead


@pytest.mark.parametrize("interval", [1, 25, 65535])
def test_persistent_keepalives_begin_at_once_and_keep_their_interval(interval):
    world = World()
    a, b = world.pair()
    a.add(b, persistent_keepalive=interval)
    assert len(a.sent(1)) == 1  # one at once, which needs a session
    world.run(5 * interval + 2)
    keepalives = [d for d in a.sent(4) if len(d.data) == 32]
    assert 4 <= len(keepalives) <= 7
    assert max(gaps(keepalives)) <= interval + 0.2


def test_persistent_keepalives_are_reset_by_any_traffic():
    world, a, b = ready()
    a.add(b, persistent_keepalive=25)
    world.run(1)
    before = len(a.sent(4))
    for _ in range(10):
        world.run(9)
        b.send(a)
    a.pump()
    assert [len(d.data) for d in a.sent(4)[before:] if len(d.data) == 32] == [32] * len(
        a.sent(4)[before:]
    )
    # What left was the answer to data (10 s), never the persistent one (25 s after the last).
    assert all(gap < 24 for gap in gaps(a.sent(4)[before:]))


def test_switching_them_on_under_a_session_sends_one_at_once_and_off_ends_them():
    world, a, b = ready()
    before = len(a.sent(4))
    a.add(b, persistent_keepalive=25)
    assert len(a.sent(4)) == before + 1
    a.add(b, persistent_keepalive=25)  # the same again is nothing new
    assert len(a.sent(4)) == before + 1
    a.add(b, persistent_keepalive=0)
    world.run(100)
    assert len(a.sent(4)) == before + 1


def test_persistent_keepalives_go_on_trying_after_a_failed_series():
    world = World(loss=1.0)
    a, b = world.pair()
    a.add(b, persistent_keepalive=25)
    world.run(400)
    world.network.loss = 0.0
    world.run(60)
    assert a.peer(b).phase is Phase.UP


def test_a_keepalive_for_a_peer_without_endpoint_waits_for_one():
    world = World()
    a, b = world.node("10.0.0.1"), world.node("10.0.0.2")
    a.add(b, endpoint=False, persistent_keepalive=10)
    b.add(a, endpoint=False)
    assert world.run(100) <= 12
    assert world.network.sent == []
    a.add(b)
    world.run(1)
    assert a.peer(b).phase is Phase.UP


# ---- zeroing ----


def test_all_keys_are_erased_540_seconds_after_the_newest():
    world, a, b = ready()
    world.run(538)
    assert a.info(b).keys
    assert b.info(a).keys
    world.run(3)
    assert not a.info(b).keys
    assert not b.info(a).keys
    assert a.peer(b).phase is Phase.RESTING
    packet = a.send(b)
    world.run(1)
    assert b.received[-1] == packet


def test_keys_that_nobody_confirmed_are_erased_too():
    world = World()
    a, b = world.pair()
    a.send(b)
    a.online = False
    world.run(1)
    assert b.info(a).keys
    world.run(541)
    assert not b.info(a).keys


def test_a_suspend_longer_than_the_keys_live_erases_them_at_the_next_look():
    world, a, b = ready()
    world.clock.advance(24 * 3600 * SECOND)
    world.run(0.001)
    assert not a.info(b).keys
    assert not b.info(a).keys


def test_erasing_before_a_suspend():
    world, a, b = ready()
    a.device.connect(world.clock.now, b.public)
    world.run(6)
    a.device.erase_keys(world.clock.now)
    assert not a.info(b).keys
    assert a.peer(b).handshake.outstanding is None
    assert len(a.sent(1)) == 2
    packet = a.send(b)
    world.run(1)
    assert b.received[-1] == packet


# ---- cost ----


def test_idle_peers_cost_nothing():
    world, a, _ = ready()
    world.run(600)  # all timers have run out
    assert a.device.next_deadline() is None
    assert world.run(24 * 3600) == 0


def test_busy_peers_are_looked_at_every_10_seconds_not_at_every_packet():
    world, a, b = ready()
    asked = len([call for call in a.engine.calls if call[0] == "idle"])
    for _ in range(500):
        a.send(b)
        b.send(a)
        world.run(0.1)
    asked = len([call for call in a.engine.calls if call[0] == "idle"]) - asked
    assert asked <= 10


def test_many_idle_peers():
    world = World()
    a = world.node("10.0.0.1")
    for number in range(2, 300):
        a.configure(PeerChange(key_pair(number)[1], endpoint=(ip_address("10.9.0.1"), PORT)))
    assert a.device.next_deadline() is None


def test_thousands_that_are_due_leave_time_for_others():
    """What came due together is done a few peers at a time, and what is new in between."""
    world = World()
    a, b = world.pair()
    points = [key_pair(number)[1] for number in range(3, 103)]
    gone = (ip_address("10.9.0.1"), PORT)
    a.configure(*(PeerChange(p, endpoint=gone, persistent_keepalive=25) for p in points))
    assert 0 < len(a.sent(1)) < 30
    a.send(b)  # has its turn within the thousands
    while a.device.next_deadline() <= world.clock.now:
        before = len(a.sent(1))
        a.device.handle_timeout(world.clock.now)
        a.pump()
        assert len(a.sent(1)) - before < 30
    assert len({d.data for d in a.sent(1)}) == len(points) + 1
    a.device.connect(world.clock.now, *points)
    world.run(0.1)
    assert b.received


# ---- the wall clock ----


def test_a_wall_clock_that_steps_back_does_not_lock_out():
    world, a, b = ready()
    world.clock.wall -= 10**7 * SECOND
    for _ in range(300):
        a.send(b)
        world.run(1)
    assert b.device.counts["handshake_replayed"] == 0
    assert len(a.sent(1)) >= 3


def test_a_peer_that_answers_after_a_silence_has_returned() -> None:
    world, a, b = ready()
    for _ in range(130):  # renewed on the way, as always
        a.send(b)
        b.send(a)
        world.run(1)
    assert len(a.sent(1)) == 2
    assert not a.device.returned
    b.device.erase_keys(world.clock.now)  # it started anew, and says nothing
    a.send(b)
    world.run(8)
    assert not a.device.returned
    world.run(9)
    assert a.device.returned
    assert not b.device.returned


def test_a_peer_that_comes_back_by_itself_has_returned() -> None:
    world, a, b = ready()
    b.device.erase_keys(world.clock.now)
    a.send(b)
    world.run(6)
    b.send(a)
    world.run(1)
    assert a.device.returned
