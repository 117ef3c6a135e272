"""Handshakes: both sides of it, and each thing for which a message is refused."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from providers.wireguard import noise
from providers.wireguard.handshake import (
    HandshakeError,
    Identity,
    PeerHandshake,
    Refusal,
    consume_initiation,
    consume_response,
    create_initiation,
    create_response,
    tai64n,
)
from providers.wireguard.messages import INITIATION_INTERVAL, PROLOGUE, PROTOCOL_NAME, SECOND
from providers.wireguard.noise import SymmetricState
from tests.vectors import load_vectors
from tunnel import Secret

WALL = 1_700_000_000 * SECOND


class Side:
    """An identity and what it knows of the other."""

    def __init__(self, seed: int) -> None:
        self.identity = Identity(Secret(bytes([seed] * 32)))
        self.now = 0
        self.wall = WALL

    def meet(self, other: Side, psk: bytes = bytes(32)) -> None:
        self.peer = PeerHandshake(other.identity.public)
        self.peer.precompute(self.identity)
        self.peer.preshared = Secret(psk)

    def initiate(self, index: int = 1):
        self.wall += SECOND
        return create_initiation(self.identity, self.peer, index, self.wall, self.now)

    def consume(self, message):
        known = {self.peer.remote_static: self.peer}
        return consume_initiation(self.identity, message, known.get, self.now)

    def state(self):
        peer = self.peer
        return peer.received_timestamp, peer.consumed, peer.outstanding


def pair(psk_a: bytes = bytes(32), psk_b: bytes | None = None) -> tuple[Side, Side]:
    a, b = Side(1), Side(2)
    a.meet(b, psk_a)
    b.meet(a, psk_a if psk_b is None else psk_b)
    return a, b


@pytest.mark.parametrize("psk", [bytes(32), bytes(range(32))], ids=["no psk", "psk"])
def test_both_sides_agree_on_keys(psk):
    a, b = pair(psk)
    response, b_keys = create_response(b.consume(a.initiate(11)), 22)
    a_keys = consume_response(a.identity, a.peer, response)
    assert (a_keys.send, a_keys.receive) == (b_keys.receive, b_keys.send)
    assert a_keys.send != a_keys.receive
    assert (a_keys.local_index, a_keys.remote_index) == (11, 22)
    assert (b_keys.local_index, b_keys.remote_index) == (22, 11)
    assert a_keys.initiator
    assert not b_keys.initiator


def test_another_psk_gives_no_session():
    a, b = pair(bytes([1] * 32), bytes([2] * 32))
    response, _ = create_response(b.consume(a.initiate()), 2)
    with pytest.raises(HandshakeError) as caught:
        consume_response(a.identity, a.peer, response)
    assert caught.value.reason is Refusal.INVALID


def test_each_initiation_has_its_own_ephemeral_and_a_greater_timestamp():
    a, b = pair()
    first, second = a.initiate(1), a.initiate(2)
    assert first.ephemeral != second.ephemeral
    early = b.consume(first).peer.received_timestamp
    b.now += SECOND
    assert b.consume(second).peer.received_timestamp > early


def flip(data: bytes, position: int = 0) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize("part", ["ephemeral", "static", "timestamp"])
def test_an_altered_initiation_changes_nothing(part):
    a, b = pair()
    message = a.initiate()
    before = b.state()
    with pytest.raises(HandshakeError) as caught:
        b.consume(replace(message, **{part: flip(getattr(message, part))}))
    assert caught.value.reason is Refusal.INVALID
    assert b.state() == before
    b.consume(message)  # the real one still passes


@pytest.mark.parametrize("part", ["ephemeral", "empty"])
def test_an_altered_response_leaves_the_initiation_outstanding(part):
    a, b = pair()
    response, _ = create_response(b.consume(a.initiate()), 2)
    with pytest.raises(HandshakeError) as caught:
        consume_response(
            a.identity, a.peer, replace(response, **{part: flip(getattr(response, part))})
        )
    assert caught.value.reason is Refusal.INVALID
    consume_response(a.identity, a.peer, response)


def refusal_of_initiation(b: Side, message) -> Refusal:
    before = b.state()
    with pytest.raises(HandshakeError) as caught:
        b.consume(message)
    assert b.state() == before
    return caught.value.reason


def test_an_initiation_is_taken_once():
    a, b = pair()
    message = a.initiate()
    b.consume(message)
    b.now += 10 * SECOND
    assert refusal_of_initiation(b, message) is Refusal.REPLAYED


def test_an_initiation_older_than_the_newest_is_refused():
    a, b = pair()
    old, new = a.initiate(1), a.initiate(2)
    b.consume(new)
    b.now += 10 * SECOND
    assert refusal_of_initiation(b, old) is Refusal.REPLAYED


@pytest.mark.parametrize(
    ("wait", "taken"),
    [(0, False), (INITIATION_INTERVAL - 1, False), (INITIATION_INTERVAL, True)],
)
def test_one_initiation_in_20_milliseconds(wait, taken):
    a, b = pair()
    first, second = a.initiate(1), a.initiate(2)
    b.consume(first)
    b.now += wait
    if taken:
        b.consume(second)
    else:
        assert refusal_of_initiation(b, second) is Refusal.FLOODED


def test_the_flood_limit_is_20_milliseconds():
    a, b = pair()
    b.consume(a.initiate(1))
    b.now += 19_999_999
    assert refusal_of_initiation(b, a.initiate(2)) is Refusal.FLOODED
    b.now += 1
    b.consume(a.initiate(3))


def test_the_flood_limit_holds_from_the_first_nanosecond_of_the_clock():
    a, b = pair()
    b.now = 0
    b.consume(a.initiate(1))
    assert refusal_of_initiation(b, a.initiate(2)) is Refusal.FLOODED


def test_a_stranger_is_refused():
    a, b = pair()
    stranger = Side(3)
    stranger.meet(b)
    assert refusal_of_initiation(b, stranger.initiate()) is Refusal.UNKNOWN_PEER
    del a


def test_a_message_for_another_responder_is_refused():
    a, _ = pair()
    c = Side(3)
    c.meet(a)
    assert refusal_of_initiation(c, a.initiate()) is Refusal.INVALID


def responded() -> tuple[Side, object]:
    a, b = pair()
    response, _ = create_response(b.consume(a.initiate(5)), 6)
    return a, response


UNSOLICITED = {
    "twice": lambda a, r: (consume_response(a.identity, a.peer, r), r)[1],
    "another index": lambda a, r: replace(r, receiver=4),
    "after giving up": lambda a, r: (a.peer.forget(), r)[1],
    "to an initiation that was replaced": lambda a, r: (a.initiate(9), r)[1],
}


@pytest.mark.parametrize("change", UNSOLICITED.values(), ids=UNSOLICITED.keys())
def test_a_response_is_taken_only_while_its_initiation_is_outstanding(change):
    a, response = responded()
    changed = change(a, response)
    with pytest.raises(HandshakeError) as caught:
        consume_response(a.identity, a.peer, changed)
    assert caught.value.reason is Refusal.UNSOLICITED


def test_a_response_made_for_the_replaced_initiation_is_invalid_under_the_new_index():
    a, response = responded()
    a.initiate(9)
    with pytest.raises(HandshakeError) as caught:
        consume_response(a.identity, a.peer, replace(response, receiver=9))
    assert caught.value.reason is Refusal.INVALID


def low_order_points() -> list[bytes]:
    return [base64.b64decode(p) for p in load_vectors("low_order_points.json")["points"]]


def test_nothing_is_made_for_a_low_order_peer_key():
    a = Side(1)
    for point in low_order_points():
        peer = PeerHandshake(point)
        peer.precompute(a.identity)
        assert peer.static_static is None
        with pytest.raises(HandshakeError) as caught:
            create_initiation(a.identity, peer, 1, WALL, 0)
        assert caught.value.reason is Refusal.LOW_ORDER_PEER
        assert peer.outstanding is None


def test_low_order_ephemerals_are_refused():
    for point in low_order_points():
        a, b = pair()
        message = a.initiate()
        assert refusal_of_initiation(b, replace(message, ephemeral=point)) is Refusal.INVALID
        response, _ = create_response(b.consume(message), 2)
        with pytest.raises(HandshakeError) as caught:
            consume_response(a.identity, a.peer, replace(response, ephemeral=point))
        assert caught.value.reason is Refusal.INVALID


def test_an_initiation_from_a_low_order_static_key_is_refused():
    # A cheat needs no private key for it: the static-static secret would be known to all.
    b = Side(2)
    for point in low_order_points():
        b.peer = PeerHandshake(point)
        b.peer.precompute(b.identity)
        state = noise.start(PROTOCOL_NAME, PROLOGUE, b.identity.public)
        ephemeral = Identity(Secret(bytes([9] * 32))).key
        parts = noise.write_first(
            state, ephemeral, point, b.identity.public, bytes(32), tai64n(WALL, bytes(12))
        )
        message = replace(pair()[0].initiate(), ephemeral=parts[0])
        message = replace(message, static=parts[1], timestamp=parts[2])
        assert refusal_of_initiation(b, message) is Refusal.LOW_ORDER_PEER


def test_the_private_key_is_clamped_and_reported_clamped():
    raw = Secret(bytes([255] * 32))
    identity = Identity(raw)
    assert identity.private.reveal()[0] == 0xF8
    assert identity.private.reveal()[31] == 0x7F
    assert raw.reveal()[0] == 255  # the caller's is untouched


def test_a_new_private_key_needs_new_shared_secrets():
    a, b = pair()
    old = a.peer.static_static
    before = bytes(old)
    a.initiate()
    a.peer.precompute(Identity(Secret(bytes([7] * 32))))
    assert not any(old)
    assert a.peer.static_static != before
    assert a.peer.outstanding is None
    del b


# ---- secrets ----


@pytest.fixture
def wiped_states(monkeypatch):
    """Count the states that were made and the ones that were wiped."""
    made, wiped = [], []
    start, copy, wipe = noise.start, SymmetricState.copy, SymmetricState.wipe
    monkeypatch.setattr(noise, "start", lambda *args: made.append(start(*args)) or made[-1])
    monkeypatch.setattr(SymmetricState, "copy", lambda s: made.append(copy(s)) or made[-1])
    monkeypatch.setattr(SymmetricState, "wipe", lambda s: (wipe(s), wiped.append(s))[0])
    return lambda: [s for s in made if any(s.chain) or any(s._key or b"")]


def test_a_finished_handshake_leaves_no_state(wiped_states):
    a, b = pair()
    response, _ = create_response(b.consume(a.initiate()), 2)
    consume_response(a.identity, a.peer, response)
    assert wiped_states() == []


def test_a_refused_message_leaves_no_state(wiped_states):
    a, b = pair()
    message = a.initiate()
    refusal_of_initiation(b, replace(message, timestamp=flip(message.timestamp)))
    response, _ = create_response(b.consume(message), 2)
    with pytest.raises(HandshakeError):
        consume_response(a.identity, a.peer, replace(response, empty=flip(response.empty)))
    a.peer.forget()
    assert wiped_states() == []


def test_wiping_a_peer_and_an_identity():
    a, _ = pair(bytes([3] * 32))
    a.initiate()
    shared, state, psk = a.peer.static_static, a.peer.outstanding.state, a.peer.preshared
    a.peer.wipe()
    a.identity.wipe()
    assert not any(shared)
    assert not any(state.chain)
    assert not psk
    assert not a.identity.private
    with pytest.raises(ValueError, match="wiped"):
        _ = a.identity.key


def test_session_keys_are_wiped_on_request():
    a, b = pair()
    _, keys = create_response(b.consume(a.initiate()), 2)
    keys.wipe()
    assert not any(keys.send + keys.receive)


# ---- timestamps ----


def test_tai64n_of_a_known_time():
    # 1970-01-01 is 2**62 + 10 s; the nanoseconds are rounded down to a multiple of 2**24.
    assert tai64n(0, bytes(12)).hex() == "400000000000000a" + "00000000"
    assert tai64n(SECOND + (1 << 24) + 5, bytes(12)).hex() == "400000000000000b" + "01000000"


@pytest.mark.parametrize("nanoseconds", [0, 1, (1 << 24) - 1, 1 << 24, 999_999_999])
def test_tai64n_hides_fine_time(nanoseconds):
    label = tai64n(WALL + nanoseconds, bytes(12))
    part = int.from_bytes(label[8:])
    assert part % (1 << 24) == 0
    assert 0 <= nanoseconds - part < 1 << 24


@pytest.mark.parametrize("step", [0, 1, -1, -SECOND, -(10**9) * SECOND, -2 * WALL])
def test_a_wall_clock_that_steps_back_still_gives_greater_labels(step):
    label = tai64n(WALL + 999_999_999, bytes(12))
    wall = WALL + 999_999_999 + step
    for _ in range(200):
        following = tai64n(wall, label)
        assert following > label
        assert int.from_bytes(following[8:]) < SECOND
        label = following


def test_after_a_step_back_the_peer_still_answers():
    a, b = pair()
    b.consume(a.initiate(1))
    a.wall -= 10**6 * SECOND
    b.now += SECOND
    b.consume(a.initiate(2))
