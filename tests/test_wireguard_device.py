"""Devices against each other over a network in virtual time: sessions, roaming, refusals."""

from __future__ import annotations

import base64
from dataclasses import replace
from ipaddress import ip_address

import pytest

from providers.wireguard.change import PeerChange
from providers.wireguard.messages import HANDSHAKE_DS, parse
from providers.wireguard.peer import Phase
from tests.vectors import load_vectors
from tests.wireguard_world import PORT, World, replay
from tunnel import Endpoint, Event, EventKind, Secret

PSK = bytes(range(32))


def connected(**kw) -> tuple[World, object, object]:
    world = World()
    a, b = world.pair(**kw)
    a.send(b)
    world.run(1)
    assert a.peer(b).phase is Phase.UP
    assert b.peer(a).phase is Phase.UP
    return world, a, b


@pytest.mark.parametrize("psk", [None, PSK], ids=["no psk", "psk"])
def test_the_first_packet_brings_a_session_up_and_arrives(psk):
    world = World()
    a, b = world.pair(psk=psk)
    packet = a.send(b)
    world.run(1)
    assert b.received == [packet]
    kinds = [datagram.data[0] for datagram in world.network.sent]
    assert kinds == [1, 2, 4]
    reply = b.send(a)
    world.run(1)
    assert a.received == [reply]
    assert len(world.network.sent) == 4  # no handshake for it


def test_everything_staged_leaves_in_order_after_the_response():
    world = World()
    a, b = world.pair()
    packets = [a.send(b) for _ in range(5)]
    world.run(1)
    assert b.received == packets


def test_a_handshake_without_traffic_is_confirmed_by_a_keepalive():
    world = World()
    a, b = world.pair()
    a.device.connect(world.clock.now, b.public)
    world.run(1)
    assert [len(d.data) for d in world.network.sent] == [148, 92, 32]
    assert b.peer(a).phase is Phase.UP


def test_the_responder_sends_nothing_under_a_session_that_is_not_confirmed():
    world = World()
    a, b = world.pair()
    a.device.connect(world.clock.now, b.public)
    world.run(0.015)  # the initiation arrived, the response is on its way
    b.send(a)
    assert b.sent(4) == []
    world.run(1)
    assert len(b.sent(4)) == 1


def test_handshakes_leave_with_their_ds_byte():
    world, _, _ = connected()
    assert [d.ds for d in world.network.sent if d.data[0] in (1, 2)] == [HANDSHAKE_DS] * 2


def test_rtt_is_the_handshakes_round_trip():
    world = World(delay=(30_000_000, 30_000_000))
    a, b = world.pair()
    a.send(b)
    world.run(1)
    assert a.peer(b).rtt == 60_000_000
    assert b.peer(a).rtt is None


def test_both_may_begin_at_the_same_moment():
    world = World()
    a, b = world.pair()
    packets = a.send(b), b.send(a)
    world.run(1)
    assert (b.received, a.received) == ([packets[0]], [packets[1]])
    more = a.send(b), b.send(a)
    world.run(1)
    assert (b.received[1:], a.received[1:]) == ([more[0]], [more[1]])
    assert len(a.sent(1)) + len(b.sent(1)) == 2


# ---- refusals: peers, indices and counters of refused messages ----


def snapshot(node, other) -> tuple:
    peer = node.peer(other)
    return (
        node.info(other),
        peer.handshake.received_timestamp,
        peer.handshake.outstanding,
        peer.phase,
        peer.rtt,
    )


def test_a_replayed_initiation_changes_nothing_and_moves_nobody():
    world, a, b = connected()
    world.run(1)
    before = snapshot(b, a)
    replay(b, a.sent(1)[0].data)
    assert snapshot(b, a) == before
    assert b.device.counts["handshake_replayed"] == 1
    assert len(b.sent(2)) == 1


def test_a_replayed_response_changes_nothing_and_moves_nobody():
    _, a, b = connected()
    before = snapshot(a, b)
    replay(a, b.sent(2)[0].data)
    assert snapshot(a, b) == before
    assert a.device.counts["handshake_unsolicited"] == 1


def test_a_response_to_an_initiation_that_was_given_up_is_refused():
    world = World(delay=(10**12, 10**12))
    a, b = world.pair()
    a.send(b)
    world.run(200)
    assert a.peer(b).phase is Phase.FAILED
    assert a.peer(b).handshake.outstanding is None
    assert len(a.device._indices) == 0


# Parts of both messages: type, and the position of a byte of it. Sender indices are left out: they
# are not part of the handshake, and who has altered one has only made a session that nobody uses.
PARTS = {
    "initiation's ephemeral": (1, 8),
    "initiation's static": (1, 40),
    "initiation's timestamp": (1, 115),
    "response's receiver": (2, 8),
    "response's ephemeral": (2, 12),
    "response's empty": (2, 59),
}


@pytest.mark.parametrize(("kind", "position"), PARTS.values(), ids=PARTS.keys())
def test_altered_messages_are_refused_by_mac1_and_without_it(kind, position):
    world = World()
    a, b = world.pair()
    a.send(b)
    if kind == 2:
        world.run(0.015)
    source, target = (a, b) if kind == 1 else (b, a)
    altered = bytearray(source.sent(kind)[0].data)
    altered[position] ^= 1
    before = snapshot(target, source)
    replay(target, bytes(altered))
    assert target.engine.dropped == 1
    # Now as somebody who knows the receiver's public key, and so can make a mac1.
    replay(target, source.peer(target).jar.sign(bytes(altered), world.clock.now))
    assert snapshot(target, source) == before
    assert sum(target.device.counts.values()) == 1


def test_an_initiation_of_a_stranger_gets_no_answer():
    world, _, b = connected()
    stranger = world.node("10.0.0.3")
    stranger.add(b)
    stranger.send(b)
    world.run(1)
    assert b.device.counts["handshake_unknown_peer"] == 1
    assert len(b.sent(2)) == 1


def test_messages_are_refused_without_a_private_key():
    world, a, b = connected()
    message, source = a.sent(1)[0].data, Endpoint(ip_address("10.0.0.1"), PORT)
    b.configure(private_key=Secret(bytes(32)))
    b.device.handle_event(Event(EventKind.MESSAGE, data=message, endpoint=source), world.clock.now)
    assert b.device.counts["handshake_invalid"] == 1
    wanted = Event(EventKind.COOKIE_WANTED, data=message, endpoint=source)
    b.device.handle_event(wanted, world.clock.now)
    assert b.sent(3) == []


def test_an_initiation_of_a_low_order_peer_is_not_answered_and_nothing_is_sent_to_it():
    world = World()
    a = world.node("10.0.0.1")
    points = [base64.b64decode(p) for p in load_vectors("low_order_points.json")["points"]]
    for point in points:
        a.configure(
            PeerChange(point, endpoint=(ip_address("10.0.0.9"), PORT), persistent_keepalive=5)
        )
        a.device.connect(world.clock.now, point)
    world.run(100)
    assert world.network.sent == []
    peer = a.device.peers.by_key[points[0]]
    assert "low-order" in peer.reason(world.clock.now, has_identity=True)


def test_indices_are_unique_even_when_the_random_numbers_are_not():
    world = World()
    a, b = world.pair()
    draws = iter([7, 7, 7, 8, 8, 9, 10, 11, 12])
    a.device._indices._draw = lambda: next(draws)
    a.send(b)
    world.run(1)
    c = world.node("10.0.0.3")
    a.add(c)
    c.add(a)
    a.send(c)
    world.run(1)
    assert [parse(d.data).sender for d in a.sent(1)] == [7, 8]


def test_indices_are_32_bit_and_random():
    world = World()
    a, b = world.pair()
    drawn = {a.device._indices.take(a.peer(b)) for _ in range(64)}
    assert len(drawn) == 64
    assert all(0 <= index < 2**32 for index in drawn)
    assert len({index >> 28 for index in drawn}) > 8


def test_an_index_that_the_engine_has_already_gives_no_session_and_no_harm():
    world = World()
    a, b = world.pair()
    a.send(b)
    (initiation,) = a.sent(1)
    other = a.engine.add_peer()
    a.engine.install(other, parse(initiation.data).sender, 1, bytes(32), bytes(32), True)
    world.run(1)
    assert a.device.counts["handshake_not_installed"] == 1
    world.run(6)  # the next attempt has another index
    assert a.peer(b).phase is Phase.UP


# ---- roaming ----


def test_handshakes_move_the_endpoint_and_keep_the_local_address():
    world = World()
    a, b = world.pair()
    a.send(b)
    (initiation,) = a.sent(1)
    source = Endpoint(
        ip_address("10.7.7.7"), 1234, source=ip_address("10.0.0.2"), source_interface=3
    )
    b.engine.deliver(initiation.data, source)
    b.pump()
    assert b.info(a).endpoint == source


def test_a_response_moves_the_endpoint():
    world = World()
    a, b = world.pair()
    a.send(b)
    b.move("10.0.0.77")
    world.network.attach((ip_address("10.0.0.2"), PORT), b._in)  # still hears the old address
    world.run(1)
    assert a.info(b).endpoint.address == ip_address("10.0.0.77")


def test_a_refused_initiation_does_not_move_the_endpoint():
    world = World()
    a, b = world.pair()
    a.send(b)
    message = parse(a.sent(1)[0].data)
    bad = replace(message, timestamp=bytes(28))
    replay(b, a.peer(b).jar.sign(bad.pack(), world.clock.now))
    assert b.info(a).endpoint.address == ip_address("10.0.0.1")


def test_a_cookie_reply_never_moves_an_endpoint():
    world = World()
    a, b = world.pair()
    b.engine.under_load = True
    a.send(b)
    world.run(0.011)
    (reply,) = b.sent(3)
    calls = len([c for c in a.engine.calls if c[0] == "set_endpoint"])
    replay(a, reply.data, "10.6.6.6")
    assert len([c for c in a.engine.calls if c[0] == "set_endpoint"]) == calls
    assert a.info(b).endpoint.address == ip_address("10.0.0.2")
    assert a.peer(b).jar._cookie is not None  # though it was taken


# ---- a lossy network ----


@pytest.mark.parametrize("seed", range(8))
def test_packets_get_through_loss_duplication_and_reordering(seed):
    world = World(seed=seed, loss=0.2, duplicate=0.2, delay=(1_000_000, 400_000_000))
    a, b = world.pair(psk=PSK if seed % 2 else None)
    for _ in range(300):
        a.send(b)
        b.send(a)
        world.run(1)
    for node in (a, b):
        assert len(set(node.received)) == len(node.received)
        assert len(node.received) > 200
    handshakes = len(a.sent(1)) + len(b.sent(1))
    assert handshakes < 40


@pytest.mark.parametrize("seed", range(4))
def test_a_network_that_is_dead_for_a_while(seed):
    world = World(seed=seed)
    a, b = world.pair()
    a.send(b)
    world.run(1)
    world.network.loss = 1.0
    for _ in range(100):
        a.send(b)
        world.run(1)
    world.network.loss = 0.0
    b.engine.delivered.clear()
    for _ in range(30):
        a.send(b)
        world.run(1)
    assert len(b.received) >= 24


def test_scapy_dissects_what_two_devices_say_under_load():
    wireguard = pytest.importorskip("scapy.contrib.wireguard")
    world = World()
    a, b = world.pair()
    b.engine.under_load = True
    a.send(b)
    world.run(20)
    layers = {1: "Initiation", 2: "Response", 3: "CookieReply", 4: "Transport"}
    seen = set()
    indices = {}
    for datagram in world.network.sent:
        packet = wireguard.Wireguard(datagram.data)
        assert packet.message_type == datagram.data[0]
        assert packet.reserved_zero == 0
        layer = packet[getattr(wireguard, f"Wireguard{layers[packet.message_type]}")]
        assert bytes(packet) == datagram.data
        seen.add(packet.message_type)
        if packet.message_type in (1, 2):
            indices[layer.sender_index] = datagram.source
        if packet.message_type in (2, 3, 4):
            assert indices[layer.receiver_index] == datagram.destination
    assert seen == {1, 2, 3, 4}
