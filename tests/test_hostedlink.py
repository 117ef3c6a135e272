"""What the stack's thread sends while it has the worker's turns, and how it gives them back."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterator

import pytest

from tests.engine_lab import WAIT, FarPeer, Lab, checksum_of, checksums_right, tcp, udp
from tunnel._core import lib
from tunnel.engine import LINK_VNET_HDR
from tunnel.netstack.aio.hostedlink import HostedLink
from tunnel.netstack.aio.unitlink import Unit

NEAR, FAR, ELSEWHERE = "10.0.0.1", "10.0.0.2", "10.9.9.9"
NEAR6, FAR6 = "fd00::1", "fd00::2"
DATA = bytes(i % 251 for i in range(9000))
THIN = 1000  # packets that came singly, of which eight are enough


@contextlib.contextmanager
def hosting() -> Iterator[tuple[Lab, FarPeer, HostedLink]]:
    """Run an engine whose turns the calling thread has."""
    with Lab(link_flags=LINK_VNET_HDR) as lab:
        peer = lab.peer(f"{FAR}/32", f"{FAR6}/128")
        link = HostedLink(lab.link.fileno(), LINK_VNET_HDR, lab.engine)
        for _ in range(THIN):
            peer.send(udp(FAR, NEAR, b"thin"))
            read(link)
            if lib.tc_host_keep(lab.engine.handle, 1):
                break
        assert lib.tc_host_keep(lab.engine.handle, 1)
        yield lab, peer, link
        link.close()


def read(link: HostedLink) -> list[bytes]:
    """Return the packets that come next."""
    while not (units := link.read()):
        assert select.select([link.readable_fd], [], [], WAIT)[0]
    return [bytes(view) for view, _ in units]


def parts(packet: bytes, segment: int) -> Unit:
    """Return a packet as the stack gives it: in two places, its checksum left open."""
    transport = 20 if packet[0] >> 4 == 4 else 40
    kind = packet[9] if transport == 20 else packet[6]
    above = transport + (packet[transport + 12] >> 4) * 4 if kind == 6 else transport + 8
    field = 16 if kind == 6 else 6
    header = bytearray(packet[:above])
    addresses = packet[12:20] if transport == 20 else packet[8:40]
    length = len(packet) - transport
    pseudo = 0xFFFF - checksum_of(addresses + bytes([0, kind]) + length.to_bytes(2, "big"))
    header[transport + field : transport + field + 2] = pseudo.to_bytes(2, "big")
    return header, memoryview(packet)[above:], segment, transport, field


@pytest.mark.parametrize(("source", "destination"), [(NEAR, FAR), (NEAR6, FAR6)])
@pytest.mark.parametrize("make", [tcp, udp])
@pytest.mark.parametrize("bulk", [False, True])
def test_units_are_cut(make: type, source: str, destination: str, bulk: bool) -> None:
    """Each packet is what the stream says at its place; bulk gives the turns back."""
    with hosting() as (lab, peer, link):
        head = len(make(source, destination))
        data = DATA if bulk else DATA[:3000]
        unit = parts(make(source, destination, data), 1000)
        assert link.write([unit, unit]) == 2
        assert lib.tc_host_keep(lab.engine.handle, 1) != bulk
        for _ in range(2):
            for offset in range(0, len(data), 1000):
                packet = peer.receive().packet[: head + 1000]
                assert checksums_right(packet)
                assert packet[head:] == data[offset:][:1000]
        assert lab.counters()["tx_units"] == 2


def test_many_small_units_stay_in_order() -> None:
    with hosting() as (lab, peer, link):
        packets = [tcp(NEAR, FAR, bytes([i]) * 20, seq=i + 1) for i in range(100)]
        assert link.write([parts(packet, 0) for packet in packets]) == len(packets)
        assert lib.tc_host_keep(lab.engine.handle, 1)
        for packet in packets:
            assert peer.receive().packet[: len(packet)] == packet


def test_what_no_peer_takes_is_answered_with_its_beginning() -> None:
    with hosting() as (_, _, link):
        packet = tcp(NEAR, ELSEWHERE, DATA[:3000])
        header, payload, *rest = parts(packet, 1000)
        assert link.write([(header, payload, *rest)]) == 1
        [answer] = read(link)
        assert answer[9] == 1  # ICMP
        quoted = answer[28:]
        assert quoted == bytes(header + payload)[: len(quoted)]
        assert len(quoted) > len(header)


def test_without_the_turns_units_go_by_the_link() -> None:
    with hosting() as (lab, peer, link):
        link.close()
        assert link.write([parts(tcp(NEAR, FAR, DATA), 1000)]) == 1
        assert [peer.receive().packet[40:1040] for _ in range(9)] == [
            DATA[i * 1000 :][:1000] for i in range(9)
        ]
        assert not lib.tc_host_keep(lab.engine.handle, 1)
