"""From the link to the outer sockets: routing, errors, padding, keys, staging, sends."""

from __future__ import annotations

import struct

import pytest

from tests.engine_lab import SECOND, Lab, checksum_of, checksums_right, udp
from tunnel.engine import Endpoint, EventKind

pytestmark = pytest.mark.datapath

NEAR, FAR = "10.0.0.1", "10.0.0.2"
NEAR6, FAR6 = "fd00::1", "fd00::2"
PACKET = udp(NEAR, FAR, b"out")


# ---- routing ----


def test_the_longest_prefix_of_the_destination_picks_the_peer() -> None:
    with Lab() as lab:
        wide, narrow = lab.peer("10.0.0.0/8", "::/0"), lab.peer("10.0.0.2/32", "fd00::/64")
        for destination, peer in (
            ("10.0.0.1", wide),
            ("10.0.0.2", narrow),
            ("fd00::9", narrow),
            ("fd01::9", wide),
        ):
            packet = udp(NEAR6 if ":" in destination else NEAR, destination, bytes(40))
            lab.link.send(packet)
            assert peer.receive().packet.startswith(packet)


@pytest.mark.parametrize("packet", [b"\0" * 30, b"\x45" * 10, PACKET[:-1], b"\x60" + bytes(38)])
def test_malformed_packets_of_the_link(packet: bytes) -> None:
    with Lab() as lab:
        peer = lab.peer("0.0.0.0/0", "::/0")
        lab.link.send(packet)
        lab.link.send(PACKET)
        peer.receive()
        assert lab.counters()["tx_malformed"] == 1


# ---- ICMP ----


def error_about(packet: bytes) -> bytes | None:
    """Return what the link gets when a packet has no peer."""
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")
        lab.link.send(packet)
        lab.link.send(PACKET)
        peer.receive()
        counters = lab.counters()
        assert counters["tx_no_peer"] == 1
        answer = None if lab.idle() else lab.read()
        assert counters.get("tx_icmp", 0) == (answer is not None)
        assert counters.get("tx_icmp_suppressed", 0) == (answer is None)
        return answer


def test_no_peer_is_answered_with_host_unreachable() -> None:
    packet = udp(NEAR, "192.0.2.1", bytes(1000))
    answer = error_about(packet)
    assert answer is not None
    assert len(answer) == 576
    assert (answer[9], answer[20], answer[21]) == (1, 3, 1)
    assert answer[12:20] == packet[16:20] + packet[12:16]
    assert answer[28:] == packet[: 576 - 28]
    assert checksum_of(answer[:20]) == checksum_of(answer[20:]) == 0


def test_no_peer_is_answered_with_address_unreachable() -> None:
    packet = udp(NEAR6, "2001:db8::1", bytes(1400))
    answer = error_about(packet)
    assert answer is not None
    assert len(answer) == 1280
    assert (answer[6], answer[40], answer[41]) == (58, 1, 3)
    assert answer[48:] == packet[: 1280 - 48]
    assert checksums_right(answer)


def _icmp(kind: int) -> bytes:
    packet = bytearray(udp(NEAR, "192.0.2.1", bytes(28)))
    packet[9] = 1
    packet[20] = kind
    return bytes(packet)


def _fragment(offset: int) -> bytes:
    packet = bytearray(udp(NEAR, "192.0.2.1", bytes(28)))
    struct.pack_into("!H", packet, 6, 0x2000 | offset)
    return bytes(packet)


def _icmp6(kind: int) -> bytes:
    packet = bytearray(udp(NEAR6, "2001:db8::1", bytes(28)))
    packet[6] = 58
    packet[40] = kind
    return bytes(packet)


@pytest.mark.parametrize(
    ("packet", "answered"),
    [
        (_icmp(8), True),
        (_icmp(3), False),  # about an error
        (_icmp(11), False),
        (_icmp6(128), True),
        (_icmp6(1), False),
        (_fragment(0), True),
        (_fragment(1), False),
        (udp(NEAR, "224.0.0.1"), False),
        (udp(NEAR, "255.255.255.255"), False),
        (udp("0.0.0.0", "192.0.2.1"), False),
        (udp("127.0.0.1", "192.0.2.1"), False),
        (udp(NEAR6, "ff02::1"), False),
        (udp("::", "2001:db8::1"), False),
    ],
)
def test_where_an_error_may_be_sent(packet: bytes, answered: bool) -> None:
    assert (error_about(packet) is not None) == answered


def test_errors_are_limited_in_rate() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")
        for _ in range(100):
            lab.link.send(udp(NEAR, "192.0.2.1"))
            lab.settle()
            if not lab.idle():
                lab.read()
        lab.link.send(PACKET)
        peer.receive()
        counters = lab.counters()
        assert counters["tx_icmp"] + counters["tx_icmp_suppressed"] == 100
        assert counters["tx_icmp_suppressed"] > 0


# ---- padding and marks ----


@pytest.mark.parametrize("mtu", [1280, 1420, 1428])
def test_packets_are_padded_to_16_and_never_past_the_mtu(mtu: int) -> None:
    with Lab(mtu=mtu) as lab:
        peer = lab.peer("10.0.0.2/32")
        for length in (29, 32, 33, mtu - 17, mtu - 1, mtu):
            packet = udp(NEAR, FAR, b"\xff" * (length - 28))
            lab.link.send(packet)
            data = peer.receive()
            expected = min(-(-length // 16) * 16, mtu)
            assert data.size == 32 + expected
            assert data.packet == packet + bytes(expected - length)


@pytest.mark.parametrize("outside", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(("source", "destination"), [(NEAR, FAR), (NEAR6, FAR6)])
def test_congestion_bits_are_copied_out_and_nothing_else(
    source: str, destination: str, outside: str
) -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32", "fd00::2/128", address=outside)
        for ds in (0, 1, 2, 3, 0xB8, 0xBB):
            lab.link.send(udp(source, destination, ecn=ds))
            assert peer.receive().ds == ds & 3


@pytest.mark.parametrize("outside", ["127.0.0.1", "::1"])
def test_handshakes_carry_the_ds_that_python_gives(outside: str) -> None:
    with Lab() as lab:
        peer = lab.peer(address=outside)
        assert lab.engine.send_to_peer(peer.id, b"\1" + bytes(147), 0x88)
        assert peer.raw_receive() == (b"\1" + bytes(147), 0x88)
        assert lab.engine.send(peer.endpoint, b"\2" + bytes(91), 0x88)
        assert peer.raw_receive() == (b"\2" + bytes(91), 0x88)
        for wrong in (b"", bytes(161)):
            with pytest.raises(ValueError, match="send_to_peer"):
                lab.engine.send_to_peer(peer.id, wrong)


# ---- keys ----


def test_keys_expire_for_sending_after_180_seconds() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")
        peer.install(initiator=False)  # a responder's key does not ask for its renewal
        peer.send(b"")
        lab.wait_event(EventKind.KEY_CONFIRMED)
        lab.engine.advance_clock(179 * SECOND)
        lab.link.send(PACKET)
        peer.receive()
        assert EventKind.HANDSHAKE_NEEDED not in lab.events()
        lab.engine.advance_clock(SECOND)
        lab.link.send(PACKET)
        assert lab.wait_event(EventKind.HANDSHAKE_NEEDED).peer == peer.id
        assert not lab.engine.flush(peer.id)
        assert lab.engine.peer_info(peer.id).staged == 1
        assert not peer.waiting()


def test_the_initiator_asks_for_new_keys_after_120_seconds_when_it_sends() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")
        lab.engine.advance_clock(119 * SECOND)
        lab.link.send(PACKET)
        peer.receive()
        lab.settle()
        assert lab.events() == []
        lab.engine.advance_clock(SECOND)
        peer.send(udp(FAR, NEAR))  # receiving is no reason yet
        lab.read()
        lab.settle()
        assert EventKind.HANDSHAKE_NEEDED not in lab.events()
        lab.link.send(PACKET)
        peer.receive()
        lab.wait_event(EventKind.HANDSHAKE_NEEDED)


def test_nonces_count_up_across_batches_keepalives_and_stages() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")
        counters = []
        for _ in range(20):
            lab.link.send(PACKET)
            counters.append(peer.receive().counter)
            assert lab.engine.flush(peer.id)
            counters.append(peer.receive().counter)
        assert counters == list(range(40))


# ---- staging ----


def test_the_newest_128_packets_wait_for_a_key_in_order() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32", install=False)
        packets = [udp(NEAR, FAR, struct.pack("!I", i)) for i in range(200)]
        for packet in packets:
            lab.link.send(packet)
        while lab.counters().get("tx_staged") != 200:
            pass
        assert lab.counters()["tx_stage_overflow"] == 72
        assert lab.engine.peer_info(peer.id).staged == 128
        assert not lab.engine.flush(peer.id)
        peer.install()
        assert lab.engine.flush(peer.id)
        for packet in packets[72:]:
            assert peer.receive().packet[: len(packet)] == packet
        assert lab.engine.peer_info(peer.id).staged == 0
        assert not peer.waiting()  # no keepalive behind data


def test_confirmation_sends_what_a_responder_has_staged() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32", install=False)
        lab.link.send(PACKET)
        lab.wait_event(EventKind.HANDSHAKE_NEEDED)
        peer.install(initiator=False)
        assert not lab.engine.flush(peer.id)
        peer.send(b"")
        assert peer.receive().packet.startswith(PACKET)


def test_staged_packets_can_be_given_up() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32", install=False)
        lab.link.send(PACKET)
        lab.wait_event(EventKind.HANDSHAKE_NEEDED)
        lab.settle()
        lab.engine.drop_staged(peer.id)
        assert lab.counters()["tx_stage_dropped"] == 1
        peer.install()
        assert lab.engine.flush(peer.id)
        assert peer.receive().size == 32


# ---- endpoints and sockets ----


def test_without_an_endpoint_packets_are_counted() -> None:
    with Lab() as lab:
        peer, other = lab.peer("10.0.0.2/32"), lab.peer("10.0.0.3/32")
        lab.engine.set_endpoint(peer.id, None)
        lab.link.send(PACKET)
        lab.link.send(udp(NEAR, "10.0.0.3"))
        other.receive()
        assert lab.counters()["tx_no_endpoint"] == 1
        assert not lab.engine.flush(peer.id)
        assert not lab.engine.send_to_peer(peer.id, bytes(148))


def test_a_path_or_family_without_a_socket_is_counted() -> None:
    with Lab() as lab:
        _, other = lab.peer("10.0.0.2/32", address="::1"), lab.peer("10.0.0.3/32")
        lab.engine.attach_outer(0, 0, lab.outer4.fileno(), -1)
        lab.link.send(PACKET)
        lab.link.send(udp(NEAR, "10.0.0.3"))
        other.receive()
        assert lab.counters()["tx_no_socket"] == 1
        lab.engine.detach_outer(0)
        assert not lab.engine.send(other.endpoint, bytes(92))
        assert lab.counters()["tx_no_socket"] == 2


def test_a_source_address_that_went_away_is_forgotten() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")
        here = peer.endpoint
        gone = Endpoint(here.address, here.port, source=type(here.address)("203.0.113.9"))
        lab.engine.set_endpoint(peer.id, gone)
        lab.link.send(PACKET)
        assert peer.receive().packet.startswith(PACKET)
        assert lab.counters()["tx_source_forgotten"] == 1
        assert lab.engine.peer_info(peer.id).endpoint == here


def test_refused_sends_are_counted_and_reported_once_a_second() -> None:
    with Lab() as lab:
        peer, other = lab.peer("10.0.0.2/32"), lab.peer("10.0.0.3/32")
        lab.engine.set_endpoint(
            peer.id, Endpoint(type(peer.endpoint.address)("255.255.255.255"), 9)
        )
        for _ in range(3):
            lab.link.send(PACKET)
        lab.link.send(udp(NEAR, "10.0.0.3"))
        other.receive()
        assert lab.counters()["tx_outer_denied"] == 3
        failed = [e for e in lab.engine.read_events() if e.kind is EventKind.OUTER_FAILED]
        assert [(event.value, event.path) for event in failed] == [(13, 0)]
