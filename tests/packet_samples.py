"""IP packets from public captures, and what scapy makes of one."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Iterator

import dpkt
from scapy.layers.inet import IP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    IPv6ExtHdrSegmentRouting,
)
from scapy.layers.ipsec import AH
from scapy.packet import Packet

from tests.vectors import vectors_dir

NO_TRANSPORT = 255
EXTENSIONS_AT_MOST = 8

# (protocol number, offset of the transport header, any fragment)
Transport = tuple[int, int, bool]

_EXTENSIONS = (
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    IPv6ExtHdrSegmentRouting,
    IPv6ExtHdrDestOpt,
)


def captured() -> Iterator[bytes]:
    """Yield the IP packets of all captures and sample frames; many are malformed on purpose."""
    packets = vectors_dir() / "packets"
    for frame in sorted((packets / "lwip").glob("*.bin")):
        yield from _in_frame(frame.read_bytes())
    with tarfile.open(packets / "tcpdump-pcaps.tar.gz") as archive:
        for member in archive:
            if not member.isfile():
                continue
            content = archive.extractfile(member)
            assert content is not None
            capture = dpkt.pcap.Reader(io.BytesIO(content.read()))
            for _, frame in capture:
                if capture.datalink() == dpkt.pcap.DLT_EN10MB:
                    yield from _in_frame(frame)
                elif capture.datalink() == dpkt.pcap.DLT_NULL:
                    yield frame[4:]
                else:
                    yield frame


def _in_frame(frame: bytes) -> Iterator[bytes]:
    at = 12
    while frame[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
        at += 4
    if frame[at : at + 2] in (b"\x08\x00", b"\x86\xdd"):
        yield frame[at + 2 :]


def scapy_total(packet: bytes) -> int | None:
    """Return the packet's total length by scapy's fields, None where they make no sense."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        ip = IP(packet)
        sound = ip.ihl >= 5 and ip.ihl * 4 <= ip.len <= len(packet)
        return ip.len if sound else None
    if version == 6 and len(packet) >= 40:
        total = 40 + IPv6(packet).plen
        return total if total <= len(packet) else None
    return None


def scapy_transport(packet: bytes) -> Transport | None:
    """Return where the transport header is, None where scapy's fields make no sense."""
    total = scapy_total(packet)
    if total is None:
        return None
    if packet[0] >> 4 == 4:
        ip = IP(packet[:total])
        fragment = ip.frag != 0 or "MF" in ip.flags
        at = ip.ihl * 4
        if ip.frag:
            return NO_TRANSPORT, at, True
        return _transport(ip.proto, packet[at:total], at, fragment)
    return _transport6(IPv6(packet[:total]), packet[:total])


def _transport6(layer: Packet, packet: bytes) -> Transport | None:
    protocol, at, fragment = layer.nh, 40, False
    for _ in range(EXTENSIONS_AT_MOST + 1):
        layer = layer.payload
        if protocol == 59:
            return NO_TRANSPORT, at, fragment
        if protocol not in (0, 43, 44, 51, 60):
            return _transport(protocol, packet[at:], at, fragment)
        if len(packet) - at < 8:
            return None
        if isinstance(layer, IPv6ExtHdrFragment):
            size = 8
            fragment = fragment or bool(layer.offset or layer.m)
            if layer.offset:
                return NO_TRANSPORT, at + size, True
        elif isinstance(layer, AH):
            size = (layer.payloadlen + 2) * 4
        elif isinstance(layer, _EXTENSIONS):
            size = (layer.len + 1) * 8
        else:
            raise AssertionError(f"scapy gave {layer!r} for protocol {protocol}")
        if size > len(packet) - at:
            return None
        protocol, at = layer.nh, at + size
    return None


def _transport(protocol: int, data: bytes, at: int, fragment: bool) -> Transport | None:
    smallest = {6: 20, 17: 8, 1: 8, 58: 8}.get(protocol, 0)
    if len(data) < smallest:
        return None
    if protocol == 6 and not 20 <= (data[12] >> 4) * 4 <= len(data):
        return None
    if protocol == 17:
        (length,) = struct.unpack_from("!H", data, 4)
        if length < 8 or (length > len(data) and not fragment):
            return None
    return protocol, at, fragment
