"""The device against the handshake as the paper writes it: both roles, keys compared."""

from __future__ import annotations

import pytest

from providers.wireguard.change import PeerChange
from providers.wireguard.messages import parse
from tests import wireguard_reference as paper
from tests.wireguard_world import PORT, World, key_pair, replay
from tunnel import Secret

FOREIGN, PUBLIC = key_pair(42)
STATIC = bytes(FOREIGN.reveal())
EPHEMERAL = bytes(key_pair(43)[0].reveal())
PSKS = [bytes(32), bytes(range(32))]


@pytest.fixture(params=PSKS, ids=["no psk", "psk"])
def psk(request) -> bytes:
    return request.param


@pytest.fixture
def node(psk):
    node = World().node("10.0.0.1")
    node.configure(
        PeerChange(
            PUBLIC,
            preshared_key=Secret(psk) if any(psk) else None,
            endpoint=(node.place[0], PORT + 1),
        )
    )
    return node


def session(node, which: str):
    (peer,) = node.engine.peers.values()
    return getattr(peer, which)


def test_the_paper_answers_our_initiation(node, psk) -> None:
    node.device.connect(node.world.clock.now, PUBLIC)
    (initiation,) = node.sent(1)
    answer = paper.respond(STATIC, EPHEMERAL, psk, 77, initiation.data)
    assert answer.peer_static == node.public
    assert initiation.data == paper.with_macs(initiation.data[:-32], PUBLIC)
    seconds, nanoseconds = (
        int.from_bytes(answer.timestamp[:8]),
        int.from_bytes(answer.timestamp[8:]),
    )
    assert seconds == 2**62 + 10 + node.world.clock.wall // 10**9
    assert 0 <= node.world.clock.wall % 10**9 - nanoseconds < 2**24
    replay(node, answer.message)
    current = session(node, "current")
    assert (current.send_key, current.receive_key) == answer.keys
    assert current.remote_index == 77
    assert current.initiator


def test_we_answer_the_papers_initiation(node, psk) -> None:
    timestamp = (2**62 + 10 + 1_700_000_000).to_bytes(8) + bytes(4)
    begun = paper.initiate(STATIC, EPHEMERAL, node.public, 88, timestamp)
    replay(node, begun.message)
    (response,) = node.sent(2)
    assert response.data == paper.with_macs(response.data[:-32], PUBLIC)
    assert parse(response.data).receiver == 88
    result = paper.finish(STATIC, EPHEMERAL, psk, begun, response.data)
    following = session(node, "next")
    assert (following.receive_key, following.send_key) == result.keys
    assert following.remote_index == 88
    assert not following.initiator


def test_the_paper_agrees_with_itself(psk) -> None:
    responder, public = (key_pair(44)[0], key_pair(44)[1])
    begun = paper.initiate(STATIC, EPHEMERAL, public, 1, bytes(12))
    static, ephemeral = bytes(responder.reveal()), bytes(key_pair(45)[0].reveal())
    answer = paper.respond(static, ephemeral, psk, 2, begun.message)
    assert paper.finish(STATIC, EPHEMERAL, psk, begun, answer.message).keys == answer.keys
