"""What the engine writes into its link: packets joined into super-packets, or one by one."""

from __future__ import annotations

import socket
import struct

import pytest

from tests.engine_lab import FarPeer, Lab, tcp, udp
from tunnel.engine import LINK_USO, LINK_VNET_HDR, NO_COALESCE_TCP, NO_COALESCE_UDP, NO_UDP_GRO

pytestmark = pytest.mark.datapath

NEAR, FAR = "10.0.0.1", "10.0.0.2"
NEAR6, FAR6 = "fd00::1", "fd00::2"
REPLY = udp(FAR, NEAR, b"back")


def segments(count: int, size: int = 100, **changes: dict[str, object]) -> list[bytes]:
    packets = []
    for i in range(count):
        fields: dict[str, object] = {"seq": 1000 + i * size, "flags": 0x10}
        fields |= changes.get(f"at{i}", {})
        packets.append(tcp(FAR, NEAR, bytes([i]) * size, **fields))  # type: ignore[arg-type]
    return packets


def deliver(lab: Lab, packets: list[bytes], *, headers: int = 40) -> list[tuple[int, int, bytes]]:
    """Deliver packets in one batch; return (gso type, gso size, packet) of each write."""
    peer = lab.peer("10.0.0.2/32", "fd00::2/128")
    lab.engine.stop()  # so that all wait when the worker looks
    for packet in packets:
        peer.send(packet)
    lab.engine.start()
    payload = b"".join(packet[headers:] for packet in packets)
    units: list[tuple[int, int, bytes]] = []
    while sum(len(packet) - headers for _, _, packet in units) < len(payload):
        unit = lab.read()
        flags, kind, header, size, start, offset = struct.unpack_from("=BBHHHH", unit)
        packet = unit[10:]
        if kind:
            assert flags == 1
            assert start + offset + 2 <= header <= len(packet)
        units.append((kind, size, packet))
    return units


FULL = LINK_VNET_HDR | LINK_USO


@pytest.mark.shows("coalesced TCP")
def test_segments_in_sequence_leave_as_one() -> None:
    with Lab(link_flags=FULL) as lab:
        packets = segments(10, at9={"flags": 0x18})
        ((kind, size, packet),) = deliver(lab, packets)
        assert (kind, size) == (1, 100)
        assert packet[40:] == b"".join(one[40:] for one in packets)
        assert packet[33] == 0x18
        assert struct.unpack_from("!H", packet, 2)[0] == len(packet)
        assert lab.counters()["rx_coalesced"] == 10


BAD_SUM = bytearray(segments(4)[2])
BAD_SUM[36] ^= 1
BAD_HEADER_SUM = bytearray(segments(4)[2])
BAD_HEADER_SUM[10] ^= 1


@pytest.mark.shows("coalesced TCP")
@pytest.mark.parametrize(
    ("third", "writes"),
    [
        (None, 1),
        ({"seq": 9}, 3),
        ({"flags": 0x11}, 3),
        ({"flags": 0x50}, 3),
        ({"flags": 0x18}, 2),
        ({"opts": b"\1\1\1\1"}, 3),
        ({"ports": (7, 10)}, 3),
        ({"urp": 1}, 3),
        ({"flags": 0x30}, 3),
        (bytes(BAD_SUM), 3),
        (bytes(BAD_HEADER_SUM), 3),
    ],
)
def test_only_what_fits_is_joined(third: object, writes: int) -> None:
    with Lab(link_flags=FULL) as lab:
        packets = segments(4, at2=third if isinstance(third, dict) else {})
        if isinstance(third, bytes):
            packets[2] = third
        units = deliver(lab, packets)
        assert len(units) == writes
        if isinstance(third, bytes):
            assert units[1] == (0, 0, third)  # as it came: what was wrong stays wrong
        first = next(unit for unit in units if unit[0])
        assert first[2][40:240] == packets[0][40:] + packets[1][40:]


@pytest.mark.shows("coalesced UDP")
def test_udp_of_one_size_leaves_as_one_where_the_link_knows_it() -> None:
    packets = [udp(FAR6, NEAR6, bytes([i]) * 50) for i in range(5)] + [udp(FAR6, NEAR6, b"short")]
    payload = b"".join(packet[48:] for packet in packets)
    for link_flags, flags, writes in (
        (FULL, 0, 1),
        (LINK_VNET_HDR, 0, 6),
        (FULL, NO_COALESCE_UDP, 6),
    ):
        with Lab(link_flags=link_flags, flags=flags) as lab:
            units = deliver(lab, packets, headers=48)
            assert len(units) == writes
            assert units[0][:2] == ((5, 50) if writes == 1 else (0, 0))
            assert b"".join(unit[48:] for _, _, unit in units) == payload


@pytest.mark.parametrize(
    ("link_flags", "flags"), [(FULL, NO_COALESCE_TCP), (FULL, NO_COALESCE_TCP | NO_UDP_GRO), (0, 0)]
)
def test_coalescing_can_be_forced_off(link_flags: int, flags: int) -> None:
    with Lab(link_flags=link_flags, flags=flags) as lab:
        peer = lab.peer("10.0.0.2/32")
        packets = segments(5)
        for packet in packets:
            peer.send(packet)
        for packet in packets:
            assert lab.read()[10 if link_flags else 0 :] == packet


def test_flows_do_not_mix_and_keep_their_order() -> None:
    with Lab(link_flags=FULL) as lab:
        packets = []
        for i in range(6):
            for port in range(12):  # more flows than are open at a time
                packets.append(tcp(FAR, NEAR, bytes(50), seq=i * 50, ports=(port + 1, 80)))
        seen: dict[int, int] = {}
        for _, _, packet in deliver(lab, packets):
            port, _, seq = struct.unpack_from("!HHI", packet, 20)
            assert seen.get(port, 0) == seq
            seen[port] = seq + len(packet) - 40
        assert set(seen.values()) == {300}


def test_a_full_link_drops_and_counts() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")
        for _ in range(400):
            peer.send(udp(FAR, NEAR, bytes(1200)))
        while not lab.counters().get("rx_link_busy"):
            peer.send(udp(FAR, NEAR, bytes(1200)))
        counters = lab.counters()
        assert counters["rx_packets"] + counters["rx_link_busy"] == counters["rx_datagrams"]


def overfill(lab: Lab, peer: FarPeer) -> list[bytes]:
    """Send more than the kernel holds for a link that nobody reads."""
    packets = [udp(FAR, NEAR, i.to_bytes(1200, "big")) for i in range(400)]
    for i, packet in enumerate(packets, start=1):
        peer.send(packet)
        while not i % 50 and lab.counters().get("rx_packets", 0) < i:
            pass  # a busy machine may not have begun with them
    return packets


def test_what_a_full_link_does_not_take_at_once_comes_later_and_in_order() -> None:
    with Lab() as lab:
        packets = overfill(lab, lab.peer("10.0.0.2/32"))
        assert [lab.read() for _ in packets] == packets
        assert not lab.counters().get("rx_link_busy")


def test_what_waits_for_a_link_goes_with_it() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")
        packets = overfill(lab, peer)
        lab.engine.detach_link(0)
        held = 0
        while not lab.idle():
            lab.read()
            held += 1
        assert held < len(packets), "the kernel held them all"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            lab.engine.attach_link(0, theirs.fileno(), 0, 1420)
            peer.send(REPLY)
            assert ours.recv(65536) == REPLY
            lab.engine.detach_link(0)


def test_without_a_link_packets_are_counted() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")
        lab.engine.detach_link(0)
        peer.send(REPLY)
        while lab.counters().get("rx_no_link") != 1:
            pass
