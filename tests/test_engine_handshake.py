"""Handshake messages: what reaches Python, and what mac1, mac2, load and the limiter keep away."""

from __future__ import annotations

import os
import struct
from ipaddress import ip_network

import pytest

from tests.engine_lab import SECOND, FarPeer, Lab, cookie_for, handshake
from tunnel.engine import EventKind

pytestmark = pytest.mark.datapath

PUBLIC = bytes(range(32))
SECRET = bytes(range(100, 132))
SLOTS = 64


def ready(lab: Lab, address: str = "127.0.0.1") -> FarPeer:
    lab.engine.set_identity(PUBLIC)
    lab.engine.set_cookie_secret(SECRET)
    return lab.peer(address=address)


def received(lab: Lab, count: int) -> dict[str, int]:
    """Return the counters once so many datagrams were handled."""
    while lab.counters().get("rx_datagrams", 0) < count:
        pass
    return lab.counters()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("kind", [1, 2])
def test_messages_for_our_key_reach_python(kind: int, address: str) -> None:
    with Lab() as lab:
        peer = ready(lab, address)
        message = handshake(kind, PUBLIC)
        peer.raw(message)
        event = lab.wait_event(EventKind.MESSAGE)
        assert event.data == message
        assert event.peer is None
        assert event.endpoint is not None
        assert (event.endpoint.address, event.endpoint.port) == (
            peer.endpoint.address,
            peer.endpoint.port,
        )
        assert event.endpoint.source == peer.endpoint.address  # the same host
        assert lab.counters()["rx_handshakes"] == 1


def test_cookie_replies_reach_python() -> None:
    with Lab() as lab:
        message = struct.pack("<I", 3) + os.urandom(60)
        ready(lab).raw(message)
        assert lab.wait_event(EventKind.MESSAGE).data == message


@pytest.mark.parametrize("kind", [1, 2])
def test_mac1_is_checked_before_python_hears_of_a_message(kind: int) -> None:
    with Lab() as lab:
        peer = ready(lab)
        good = handshake(kind, PUBLIC)
        bad = [handshake(kind, bytes(32))]
        for at in (4, len(good) - 33, len(good) - 32, len(good) - 17):
            bad.append(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        for message in bad:
            peer.raw(message)
        assert received(lab, len(bad))["rx_mac1_invalid"] == len(bad)
        lab.engine.set_identity(None)
        peer.raw(good)
        assert received(lab, len(bad) + 1)["rx_mac1_invalid"] == len(bad) + 1
        assert lab.events() == []


def fill_past_an_eighth(lab: Lab, peer: FarPeer) -> None:
    """Bring the engine under load: more than an eighth of the ring's slots hold messages."""
    for _ in range(SLOTS // 8 + 1):
        peer.raw(handshake(1, PUBLIC))
    counters = received(lab, SLOTS // 8 + 1)
    assert counters["rx_handshakes"] == SLOTS // 8 + 1
    assert "rx_cookie_wanted" not in counters


def test_under_load_a_message_without_mac2_asks_for_a_cookie() -> None:
    with Lab() as lab:
        peer = ready(lab)
        fill_past_an_eighth(lab, peer)
        message = handshake(1, PUBLIC)
        peer.raw(message)
        wrong = handshake(2, PUBLIC, cookie=bytes(16))
        peer.raw(wrong)
        assert received(lab, 11)["rx_cookie_wanted"] == 2
        events = lab.engine.read_events()
        assert [event.kind for event in events] == [EventKind.MESSAGE] * 9 + [
            EventKind.COOKIE_WANTED
        ] * 2
        assert [event.data for event in events[-2:]] == [message, wrong]


def test_load_sticks_for_a_second_after_the_ring_is_read() -> None:
    with Lab() as lab:
        peer = ready(lab)
        fill_past_an_eighth(lab, peer)
        peer.raw(handshake(1, PUBLIC))
        received(lab, 10)
        lab.engine.read_events()
        peer.raw(handshake(1, PUBLIC))
        assert received(lab, 11)["rx_cookie_wanted"] == 2
        lab.engine.advance_clock(SECOND)
        peer.raw(handshake(1, PUBLIC))
        assert received(lab, 12)["rx_handshakes"] == 10


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_valid_mac2_passes_and_the_limiter_bounds_it(address: str) -> None:
    with Lab() as lab:
        peer = ready(lab, address)
        fill_past_an_eighth(lab, peer)
        cookie = cookie_for(SECRET, peer.endpoint.address, peer.endpoint.port)
        lab.engine.stop()  # so that all come at one moment
        for _ in range(8):
            peer.raw(handshake(1, PUBLIC, cookie=cookie))
        lab.engine.start()
        counters = received(lab, 17)
        assert counters["rx_handshakes"] == 9 + 5  # the burst
        assert counters["rx_rate_limited"] == 3
        lab.engine.advance_clock(SECOND // 20)
        for _ in range(2):
            peer.raw(handshake(1, PUBLIC, cookie=cookie))
        counters = received(lab, 19)
        assert counters["rx_handshakes"] >= 9 + 6  # 20 a second
        assert counters["rx_handshakes"] + counters["rx_rate_limited"] == 19


def test_a_cookie_is_for_one_address_and_port() -> None:
    with Lab() as lab:
        peer, other = ready(lab), lab.peer()
        fill_past_an_eighth(lab, peer)
        cookie = cookie_for(SECRET, peer.endpoint.address, peer.endpoint.port)
        other.raw(handshake(1, PUBLIC, cookie=cookie))
        assert received(lab, 10)["rx_cookie_wanted"] == 1


def test_without_load_mac2_is_ignored() -> None:
    with Lab() as lab:
        peer = ready(lab)
        peer.raw(handshake(1, PUBLIC, cookie=bytes(16)))
        assert lab.wait_event(EventKind.MESSAGE)


def test_one_address_that_wants_cookies_leaves_room_for_others() -> None:
    with Lab() as lab:
        flooder, other = ready(lab), lab.peer(address="127.0.0.2")
        fill_past_an_eighth(lab, flooder)
        lab.engine.stop()
        for _ in range(SLOTS):
            flooder.raw(handshake(1, PUBLIC))
        honest = handshake(1, PUBLIC)
        other.raw(honest)
        lab.engine.start()
        counters = received(lab, SLOTS // 8 + 2 + SLOTS)
        assert counters["rx_rate_limited"] == SLOTS // 8 + 1 + SLOTS - SLOTS // 2 - 5  # the burst
        assert honest in [event.data for event in lab.engine.read_events()]


def test_a_full_ring_drops_and_counts_but_control_events_get_through() -> None:
    with Lab() as lab:
        peer = ready(lab)
        fill_past_an_eighth(lab, peer)
        others = [lab.peer(address=f"127.0.0.{number}") for number in range(2, 6)]
        lab.engine.stop()
        for one in (peer, *others):
            for _ in range(SLOTS // 2):
                one.raw(handshake(1, PUBLIC))  # these want cookies: three quarters of the ring
        lab.engine.start()
        wanted = received(lab, SLOTS // 8 + 1 + SLOTS * 5 // 2)
        for _ in range(SLOTS):
            peer.raw(struct.pack("<I", 3) + bytes(60))  # no room for these past the half
        counters = received(lab, SLOTS // 8 + 1 + SLOTS * 7 // 2)
        assert counters["rx_handshakes"] + counters["rx_cookie_wanted"] == SLOTS * 3 // 4
        assert counters["rx_ring_full"] == wanted["rx_ring_full"] + SLOTS
        lab.engine.idle(peer.id)
        lab.engine.allow(peer.id, ip_network("10.0.0.2/32"))
        peer.send(b"")
        event = lab.wait_event(EventKind.ACTIVE)
        assert event.peer == peer.id
