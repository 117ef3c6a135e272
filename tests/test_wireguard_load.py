"""Cookies between devices: a responder under load, and an initiator that answers it."""

from __future__ import annotations

from tests.wireguard_world import World, key_pair, replay


def test_under_load_a_cookie_is_asked_for_and_then_answered():
    world = World()
    a, b = world.pair()
    b.engine.under_load = True
    packet = a.send(b)
    world.run(20)
    assert len(b.sent(3)) == 1
    assert b.received == [packet]
    first, second = a.sent(1)[:2]
    assert first.data[-16:] == bytes(16)
    assert second.data[-16:] != bytes(16)


def test_a_response_under_load_is_answered_with_a_cookie_too():
    world = World()
    a, b = world.pair()
    a.engine.under_load = True
    packet = a.send(b)
    world.run(30)
    assert len(a.sent(3)) == 1
    assert b.received == [packet]


def test_a_cookie_reply_is_taken_once():
    world = World()
    a, b = world.pair()
    b.engine.under_load = True
    a.send(b)
    world.run(0.1)
    (reply,) = b.sent(3)
    replay(a, reply.data)
    assert a.device.counts["cookie_refused"] == 1


def test_the_cookie_secret_is_the_engines_too_and_rotates():
    world = World()
    a, b = world.pair()
    given = [c for c in b.engine.calls if c[0] == "set_cookie_secret"]
    assert len(given) == 1
    b.engine.under_load = True
    a.send(b)
    world.run(100)
    secret = b.engine._cookie_secret
    assert secret == bytes(b.device._issuer.secret)
    world.run(100)
    assert b.engine._cookie_secret != secret
    assert b.engine._cookie_secret == bytes(b.device._issuer.secret)


def test_cookie_replies_follow_the_private_key():
    world = World()
    a, b = world.pair()
    private, b.public = key_pair(70)
    b.configure(private_key=private)
    a.add(b)
    b.engine.under_load = True
    packet = a.send(b)
    world.run(20)
    assert b.received == [packet]
    assert a.device.counts["cookie_refused"] == 0
