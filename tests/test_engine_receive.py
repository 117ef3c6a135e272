"""From the outer sockets to the link: every check of a data message."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.engine_lab import SECOND, Lab, checksums_right, loopback_udp, udp
from tunnel.engine import EventKind

pytestmark = pytest.mark.datapath

NEAR, FAR, OTHER = "10.0.0.1", "10.0.0.2", "10.0.0.3"
NEAR6, FAR6 = "fd00::1", "fd00::2"
REPLY = udp(FAR, NEAR, b"back")
LAST = udp(OTHER, NEAR, b"last")
REJECT_AFTER_MESSAGES = 2**64 - 2**13 - 1


def drops_of(lab: Lab) -> dict[str, int]:
    """Return drop counters after everything sent so far was handled, and nothing was delivered."""
    last = lab.peer("10.0.0.3/32")
    last.send(LAST)
    assert lab.read() == LAST
    quiet = ("tx_", "rx_datagrams", "rx_packets", "rx_bytes", "rx_units", "rx_keepalives")
    return {k: v for k, v in lab.counters().items() if not k.startswith(quiet)}


# ---- before decryption ----


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "rx_unknown_type"),
        (b"\4\0\0", "rx_unknown_type"),
        (struct.pack("<I", 0) + bytes(60), "rx_unknown_type"),
        (struct.pack("<I", 5) + bytes(60), "rx_unknown_type"),
        (b"\4\0\0\1" + bytes(60), "rx_unknown_type"),  # the three bytes behind the type are zero
        (struct.pack("<I", 4) + bytes(27), "rx_bad_size"),
        (struct.pack("<III", 4, 0x7FFF, 0) + bytes(40), "rx_unknown_index"),
        (struct.pack("<I", 1) + bytes(143), "rx_bad_size"),
        (struct.pack("<I", 1) + bytes(145), "rx_bad_size"),
        (struct.pack("<I", 2) + bytes(87), "rx_bad_size"),
        (struct.pack("<I", 3) + bytes(59), "rx_bad_size"),
    ],
)
def test_datagrams_that_are_not_ours(datagram: bytes, reason: str) -> None:
    with Lab() as lab:
        lab.peer("10.0.0.2/32").raw(datagram)
        assert drops_of(lab) == {reason: 1}


def test_a_flipped_bit_anywhere_is_refused() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")
        message = peer.message(REPLY)
        for at in (8, 16, 20, len(message) - 1):
            peer.raw(message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :])
        assert drops_of(lab) == {"rx_auth_failed": 4}
        assert lab.engine.peer_info(peer.id).last_received == 0


def test_of_a_batch_only_the_packet_with_a_flipped_bit_is_refused() -> None:
    """At every place of a batch of unequal packets, which the kernels open side by side."""
    numbers = random.Random(1)
    sizes = [numbers.choice((0, 1, 15, 16, 100, 255, 256, 257, 700, 1360)) for _ in range(24)]
    packets = [udp(FAR, NEAR, numbers.randbytes(size)) for size in sizes]
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")
        for place in range(len(packets)):
            messages = [peer.message(packet) for packet in packets]
            bit = numbers.randrange(8 * 8, 8 * len(messages[place]))
            flipped = bytearray(messages[place])
            flipped[bit // 8] ^= 1 << bit % 8
            messages[place] = bytes(flipped)
            lab.engine.stop()  # so that all wait when the worker looks
            for message in messages:
                peer.raw(message)
            lab.engine.start()
            others = packets[:place] + packets[place + 1 :]
            assert [lab.read() for _ in others] == others
            assert lab.idle()
            refused = lab.counters()
            assert refused.get("rx_auth_failed", 0) + refused.get("rx_key_expired", 0) == place + 1
        assert "rx_replayed" not in lab.counters()


def test_keys_expire_for_receiving_after_180_seconds() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")
        lab.engine.advance_clock(179 * SECOND)
        peer.send(REPLY)
        assert lab.read() == REPLY
        lab.engine.advance_clock(SECOND)
        peer.send(REPLY)
        assert drops_of(lab) == {"rx_key_expired": 1}


def test_counters_end_before_they_could_wrap() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")
        peer.send(REPLY, counter=REJECT_AFTER_MESSAGES)
        peer.send(REPLY, counter=2**64 - 1)
        assert drops_of(lab) == {"rx_key_expired": 2}
        peer.send(REPLY, counter=REJECT_AFTER_MESSAGES - 1)
        assert lab.read() == REPLY


# ---- replay ----


def test_replays_are_refused_in_and_behind_the_window() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")
        for counter in (8128, 0, 1):  # a distance of 8128 is taken
            peer.send(REPLY, counter=counter)
            assert lab.read() == REPLY
        peer.send(REPLY, counter=8129)
        lab.read()
        for counter in (8129, 8128, 0, 1):
            peer.send(REPLY, counter=counter)
        peer.send(REPLY, counter=20000)
        lab.read()
        peer.send(REPLY, counter=20000 - 8129)  # new, but too far behind
        assert drops_of(lab) == {"rx_replayed": 5}


def test_a_forgery_does_not_move_the_window() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")
        forged = bytearray(peer.message(REPLY, counter=1 << 40))
        forged[-1] ^= 1
        peer.raw(bytes(forged))
        peer.send(REPLY, counter=0)
        assert lab.read() == REPLY


# ---- the inner packet ----


def test_the_inner_source_must_be_the_peers_in_the_device_wide_table() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.0/8")
        lab.peer("10.9.0.0/16")  # a longer prefix of another peer
        for source in ("10.9.0.1", "11.0.0.1", FAR6):
            peer.send(udp(source, NEAR6 if ":" in source else NEAR))
        assert drops_of(lab) == {"rx_source_refused": 3}
        peer.send(udp("10.8.0.1", NEAR))
        assert lab.read() == udp("10.8.0.1", NEAR)


def _with_length(packet: bytes, length: int) -> bytes:
    at = 2 if packet[0] >> 4 == 4 else 4
    return packet[:at] + struct.pack("!H", length) + packet[at + 2 :]


@pytest.mark.parametrize(
    "packet",
    [
        bytes(1),
        bytes(40),
        b"\x45" + bytes(18),
        b"\x55" + REPLY[1:],
        b"\x44" + REPLY[1:],
        b"\x4f" + REPLY[1:],
        _with_length(REPLY, len(REPLY) + 17),
        _with_length(REPLY, 19),
        _with_length(udp(FAR6, NEAR6), 65496),
        _with_length(udp(FAR6, NEAR6), 65535),
        udp(FAR6, NEAR6)[:39],
    ],
)
def test_malformed_inner_packets(packet: bytes) -> None:
    with Lab(mtu=1280) as lab:
        peer = lab.peer("10.0.0.2/32", "fd00::2/128")
        peer.send(packet, pad=False)
        assert drops_of(lab) == {"rx_inner_malformed": 1}
        assert lab.engine.peer_info(peer.id).last_received  # it was authentic


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize("size", [0, 1, 5, 900])
@pytest.mark.parametrize(("source", "destination"), [(FAR, NEAR), (FAR6, NEAR6)])
def test_padding_is_trimmed_and_not_needed(
    source: str, destination: str, size: int, pad: bool
) -> None:
    with Lab() as lab:
        packet = udp(source, destination, bytes(size))
        lab.peer("10.0.0.2/32", "fd00::2/128").send(packet, pad=pad)
        assert lab.read() == packet


def test_keepalives_deliver_nothing() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")
        peer.send(b"")
        assert drops_of(lab) == {}
        info = lab.engine.peer_info(peer.id)
        assert info.last_received
        assert not info.unacked_since


# RFC 6040, figure 4: rows inner Not-ECT, ECT(0), ECT(1), CE; columns outer in the same order.
NOT_ECT, ECT1, ECT0, CE = range(4)
FOLDED = {
    NOT_ECT: {NOT_ECT: NOT_ECT, ECT0: NOT_ECT, ECT1: NOT_ECT, CE: None},
    ECT0: {NOT_ECT: ECT0, ECT0: ECT0, ECT1: ECT1, CE: CE},
    ECT1: {NOT_ECT: ECT1, ECT0: ECT1, ECT1: ECT1, CE: CE},
    CE: {NOT_ECT: CE, ECT0: CE, ECT1: CE, CE: CE},
}


@pytest.mark.parametrize(("source", "destination"), [(FAR, NEAR), (FAR6, NEAR6)])
@pytest.mark.parametrize("outside", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("inner", FOLDED)
@pytest.mark.parametrize("outer", FOLDED)
def test_congestion_marks_are_folded_in(
    outer: int, inner: int, outside: str, source: str, destination: str
) -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32", "fd00::2/128", address=outside)
        peer.raw(peer.message(udp(source, destination, b"x", ecn=inner)), ecn=outer)
        folded = FOLDED[inner][outer]
        if folded is None:
            assert drops_of(lab) == {"rx_ecn_dropped": 1}
        else:
            packet = lab.read()
            assert packet == udp(source, destination, b"x", ecn=folded)
            assert checksums_right(packet)


# ---- roaming ----


def test_authenticated_data_moves_the_endpoint() -> None:
    with Lab() as lab:
        peer, place = lab.peer("10.0.0.2/32"), lab.peer(address="::1")
        message = peer.message(REPLY)
        place.raw(message)
        assert lab.read() == REPLY
        event = lab.wait_event(EventKind.ENDPOINT)
        assert event.peer == peer.id
        assert event.endpoint is not None
        assert event.endpoint.address == ip_address("::1")
        assert event.endpoint.port == place.endpoint.port
        assert event.endpoint.source == ip_address("::1")
        lab.link.send(udp(NEAR, FAR))
        assert place.raw_receive()[0][:4] == b"\4\0\0\0"


def test_another_path_does_not_move_the_endpoint() -> None:
    """Two paths are open while one is proven: both are heard, one is sent on, as Python says."""
    with Lab() as lab, loopback_udp() as second:
        lab.engine.attach_outer(0, 1, second.fileno(), -1)
        peer, place = lab.peer("10.0.0.2/32"), lab.peer()
        place.socket.sendto(peer.message(REPLY), second.getsockname())
        assert lab.read() == REPLY
        lab.settle()
        info = lab.engine.peer_info(peer.id)
        assert info.endpoint == peer.endpoint
        assert EventKind.ENDPOINT not in lab.events()
        lab.engine.set_endpoint(peer.id, replace(peer.endpoint, path=1))
        place.socket.sendto(peer.message(REPLY), second.getsockname())
        assert lab.read() == REPLY
        moved = lab.wait_event(EventKind.ENDPOINT).endpoint
        assert moved is not None
        assert (moved.port, moved.path) == (place.endpoint.port, 1)
        lab.link.send(udp(NEAR, FAR))
        message, source = place.socket.recvfrom(2000)
        assert message[:4] == b"\4\0\0\0"
        assert source == second.getsockname()


@pytest.mark.parametrize("fault", ["replayed", "forged", "expired", "cookie reply"])
def test_nothing_else_moves_the_endpoint(fault: str) -> None:
    with Lab() as lab:
        peer, place = lab.peer("10.0.0.2/32"), lab.peer(address="::1")
        message = peer.message(REPLY)
        if fault == "replayed":
            peer.raw(message)
            lab.read()
        elif fault == "forged":
            message = message[:-1] + bytes([message[-1] ^ 1])
        elif fault == "expired":
            lab.engine.advance_clock(180 * SECOND)
        else:
            message = struct.pack("<I", 3) + bytes(60)
        place.raw(message)
        drops_of(lab)
        endpoint = lab.engine.peer_info(peer.id).endpoint
        assert endpoint is not None
        assert (endpoint.address, endpoint.port) == (peer.endpoint.address, peer.endpoint.port)
        assert EventKind.ENDPOINT not in lab.events()


# ---- timers' requests ----


def test_the_initiator_asks_for_keys_once_in_the_last_minute() -> None:
    with Lab() as lab:
        for initiator in (True, False):
            peer = lab.peer("10.0.0.2/32", install=False)
            peer.install(initiator=initiator)
            peer.send(REPLY)
            lab.read()
            lab.engine.advance_clock(164 * SECOND)
            peer.send(REPLY)
            lab.read()
            lab.settle()
            assert EventKind.HANDSHAKE_NEEDED not in lab.events()
            lab.engine.advance_clock(SECOND)
            for _ in range(2):
                peer.send(REPLY)
                lab.read()
            lab.settle()
            assert lab.events() == ([EventKind.HANDSHAKE_NEEDED] if initiator else [])
