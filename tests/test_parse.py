"""The packet parser against independent dissectors."""

from __future__ import annotations

import random
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import dpkt
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from tests.packet_samples import captured, scapy_total, scapy_transport
from tunnel.primitives import parse


def outcome(packet: bytes) -> tuple[int, tuple[int, int, bool]] | None:
    try:
        found = parse(packet)
    except ValueError:
        return None
    return found.total, (found.transport, found.transport_offset, found.fragment)


def oracle(packet: bytes) -> tuple[int, tuple[int, int, bool]] | None:
    total, transport = scapy_total(packet), scapy_transport(packet)
    return None if total is None or transport is None else (total, transport)


def check_fields(packet: bytes) -> None:
    """Compare what was found in an accepted packet with scapy and, where simple, dpkt."""
    found = parse(packet)
    layer = (IP if found.version == 4 else IPv6)(packet[: found.total])
    assert str(found.source) == str(ip_address(layer.src))
    assert str(found.destination) == str(ip_address(layer.dst))
    assert found.ds == (layer.tos if found.version == 4 else layer.tc)
    for kind, number in ((TCP, 6), (UDP, 17)):
        if found.transport == number:
            inner = kind(packet[found.transport_offset : found.total])
            assert (found.source_port, found.destination_port) == (inner.sport, inner.dport)
            header = inner.dataofs * 4 if number == 6 else 8
            assert found.payload_offset == found.transport_offset + header
            assert found.tcp_flags == (int(inner.flags) & 0xFF if number == 6 else 0)
    if found.version == 4 and found.transport in (6, 17):
        plain = dpkt.ip.IP(packet[: found.total])
        assert (plain.p, IPv4Address(plain.src)) == (found.transport, found.source)
        if isinstance(plain.data, (dpkt.tcp.TCP, dpkt.udp.UDP)):
            assert (plain.data.sport, plain.data.dport) == (
                found.source_port,
                found.destination_port,
            )
    elif found.version == 6:
        assert IPv6Address(packet[8:24]) == found.source


def test_captures_parse_as_scapy_reads_them() -> None:
    accepted = refused = 0
    for packet in captured():
        expected = oracle(packet)
        assert outcome(packet) == expected, packet.hex()
        if expected is None:
            refused += 1
        else:
            accepted += 1
            check_fields(packet)
    assert accepted > 3000
    assert refused > 100


def test_changed_and_cut_captures_parse_as_scapy_reads_them() -> None:
    rng = random.Random(5)
    samples = sorted({packet[:200] for packet in captured() if len(packet) <= 400})
    for sample in rng.sample(samples, min(len(samples), 1500)):
        changed = bytearray(sample)
        for _ in range(rng.choice((1, 1, 2, 4))):
            changed[rng.randrange(min(len(changed), 64))] = rng.choice(
                (0, 1, 4, 6, 17, 43, 44, 51, 58, 59, 60, 255, rng.randrange(256))
            )
        packet = bytes(changed[: rng.choice((len(changed), rng.randrange(len(changed) + 1)))])
        assert outcome(packet) == oracle(packet), packet.hex()


@pytest.mark.parametrize("payload", [65495, 65496, 65527, 65535])
def test_ipv6_payload_lengths_that_overflowed_elsewhere(payload: int) -> None:
    header = struct.pack("!IHBB", 6 << 28, payload, 59, 64) + bytes(32)
    with pytest.raises(ValueError, match="cut short"):
        parse(header)
    assert parse(header + bytes(payload)).total == 40 + payload
