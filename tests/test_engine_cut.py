"""Super-segments and open checksums of a link with vnet_hdr, cut into packets."""

from __future__ import annotations

import socket
import struct

import pytest

from tests.engine_lab import SECOND, Lab, checksum_of, checksums_right, tcp, udp
from tunnel.engine import LINK_VNET_HDR, NO_UDP_SEGMENT, EventKind

pytestmark = pytest.mark.datapath

NEAR, FAR = "10.0.0.1", "10.0.0.2"
NEAR6, FAR6 = "fd00::1", "fd00::2"
PACKET = udp(NEAR, FAR, b"out")


def unit(packet: bytes, kind: int, size: int, start: int, offset: int) -> bytes:
    """Return a super-segment as a TUN gives it: the checksum field holds the pseudo-header's."""
    header = start + (packet[start + 12] >> 4) * 4 if offset == 16 else start + 8
    return struct.pack("=BBHHHH", 1, kind, header, size, start, offset) + packet


@pytest.mark.shows("UDP_SEGMENT")
@pytest.mark.parametrize("flags", [0, NO_UDP_SEGMENT])
@pytest.mark.parametrize(("source", "destination", "start"), [(NEAR, FAR, 20), (NEAR6, FAR6, 40)])
def test_tcp_super_segments_are_cut(source: str, destination: str, start: int, flags: int) -> None:
    payload = bytes(i % 251 for i in range(10 * 1000 + 1))
    with Lab(link_flags=LINK_VNET_HDR, flags=flags) as lab:
        peer = lab.peer("10.0.0.2/32", "fd00::2/128")
        whole = tcp(
            source, destination, payload, seq=2**32 - 1500, flags=0x80 | 0x19, opts=bytes(4)
        )
        lab.link.send(unit(whole, 1 if start == 20 else 4, 1000, start, 16))
        for i in range(11):
            size = min(1000, len(payload) - i * 1000)
            packet = peer.receive().packet[: start + 24 + size]
            assert checksums_right(packet)
            assert packet[start + 24 :] == payload[i * 1000 :][:size]
            assert (
                struct.unpack_from("!I", packet, start + 4)[0] == (2**32 - 1500 + i * 1000) % 2**32
            )
            # CWR only first, FIN and PSH only last
            assert packet[start + 13] == (0x90 if i == 0 else 0x19 if i == 10 else 0x10)
            if start == 20:
                assert struct.unpack_from("!HH", packet, 2) == (len(packet), i)
            else:
                assert struct.unpack_from("!H", packet, 4)[0] == len(packet) - 40
        counters = lab.counters()
        assert counters["tx_packets"] == 11
        assert counters["tx_messages"] == (1 if flags == 0 else 11)


@pytest.mark.parametrize(("source", "destination", "start"), [(NEAR, FAR, 20), (NEAR6, FAR6, 40)])
def test_udp_super_segments_are_cut(source: str, destination: str, start: int) -> None:
    with Lab(link_flags=LINK_VNET_HDR) as lab:
        peer = lab.peer("10.0.0.2/32", "fd00::2/128")
        payload = bytes(i % 251 for i in range(250))
        lab.link.send(unit(udp(source, destination, payload), 5, 100, start, 6))
        for i in range(3):
            size = min(100, 250 - i * 100)
            packet = peer.receive().packet[: start + 8 + size]
            assert checksums_right(packet)
            assert packet[start + 8 :] == payload[i * 100 :][:size]
            assert struct.unpack_from("!H", packet, start + 4)[0] == 8 + size


def test_open_checksums_are_completed() -> None:
    with Lab(link_flags=LINK_VNET_HDR) as lab:
        peer = lab.peer("10.0.0.2/32")
        packet = bytearray(udp(NEAR, FAR, b"abc"))
        pseudo = bytes(packet[12:20]) + struct.pack("!HH", 17, len(packet) - 20)
        struct.pack_into("!H", packet, 26, 0xFFFF - checksum_of(pseudo))
        lab.link.send(struct.pack("=BBHHHH", 1, 0, 28, 0, 20, 6) + packet)
        got = peer.receive().packet[: len(packet)]
        assert checksums_right(got)
        assert got == udp(NEAR, FAR, b"abc")


SO_NO_CHECK = 11  # a socket without UDP checksums refuses UDP_SEGMENT with EINVAL

SUPER = tcp(NEAR, FAR, bytes(3000))


@pytest.mark.parametrize(
    "header",
    [
        (1, 1, 40, 0, 20, 16),  # no segment size
        (1, 4, 40, 1000, 20, 16),  # IPv6, it says
        (1, 5, 40, 1000, 20, 6),  # UDP, it says
        (1, 3, 40, 1000, 20, 6),  # UDP fragmentation: never offered
        (1, 99, 40, 1000, 20, 16),
        (1, 0, 0, 0, 0, 16),  # checksum field in the IP header
        (1, 0, 0, 0, 20, 0),
        (1, 0, 0, 0, 20, 65535),
        (1, 0, 0, 0, 65535, 65535),
        (1, 0, 0, 0, 3039, 0),
    ],
)
def test_bad_units_of_the_link(header: tuple[int, ...]) -> None:
    with Lab(link_flags=LINK_VNET_HDR) as lab:
        peer = lab.peer("10.0.0.2/32")
        lab.link.send(struct.pack("=BBHHHH", *header) + SUPER)
        lab.link.send(bytes(9))
        lab.link.send(bytes(10))
        lab.link.send(bytes(10) + PACKET)
        assert peer.receive().packet.startswith(PACKET)
        assert lab.counters()["tx_malformed"] == 3


def test_super_segments_are_staged_as_packets() -> None:
    with Lab(link_flags=LINK_VNET_HDR) as lab:
        peer = lab.peer("10.0.0.2/32", install=False)
        lab.link.send(unit(SUPER, 1, 1000, 20, 16))
        lab.wait_event(EventKind.HANDSHAKE_NEEDED)
        assert lab.counters()["tx_staged"] == 3
        peer.install()
        lab.engine.flush(peer.id)
        packets = [peer.receive().packet[:1040] for _ in range(3)]
        assert all(checksums_right(packet) for packet in packets)


@pytest.mark.shows("UDP_SEGMENT")
def test_a_path_that_refuses_udp_segment_gets_plain_datagrams_for_a_while() -> None:
    with Lab(link_flags=LINK_VNET_HDR) as lab:
        peer = lab.peer("10.0.0.2/32")
        lab.outer4.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)

        def refused_after_a_unit() -> int:
            lab.link.send(unit(SUPER, 1, 1000, 20, 16))
            for _ in range(3):
                assert checksums_right(peer.receive().packet[:1040])
            return lab.counters()["tx_segment_refused"]

        assert refused_after_a_unit() == 1
        assert refused_after_a_unit() == 1  # remembered
        lab.engine.advance_clock(10 * SECOND)
        assert refused_after_a_unit() == 2
        lab.engine.set_endpoint(peer.id, peer.endpoint)  # another place, another path
        assert refused_after_a_unit() == 3
        counters = lab.counters()
        assert counters["tx_packets"] == 12
        assert "tx_outer_failed" not in counters
