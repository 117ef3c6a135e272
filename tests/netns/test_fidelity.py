"""Whatever enters one end's interface leaves the other's, byte for byte and in its flow's order.

    packet socket -> tunnel of host 1 ---- tunnel of host 2 -> packet socket

Bursts of packets that are joined on the way, in part: segments in sequence between others with
gaps, odd flags, options, sizes, marks and wrong checksums; datagrams with and without one;
fragments; options and extension headers; super-segments of odd sizes. Host 1 finds each burst as a
whole, however fast the machine is. A super-packet that arrives is cut here, by code of the test's
own. Only IPv4's identification may differ.
"""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from tests.engine_lab import checksum_of
from tests.interop.hosts import MTU, NO_OFFLOADS, SUBJECT, Host, connect, star

pytestmark = [pytest.mark.root, pytest.mark.datapath]

BURSTS = 30
QUIET = 2.0  # seconds without a packet after which the rest is lost
SOL_PACKET, PACKET_VNET_HDR, ETH_P_ALL, PACKET_HOST = 263, 15, 3, 0
VNET = struct.Struct("=BBHHHH")
TCP4, UDP_L4, TCP6 = 1, 5, 4
ODD_FLAGS = (0x18, 0x30, 0x50, 0x90, 0x11, 0x00)  # PSH, URG, ECE, CWR, FIN, and no ACK
Numbers = random.Random


def ip(numbers: Numbers, ends: tuple[bytes, bytes], protocol: int, data: bytes) -> bytes:
    """Return an IP packet around data; now and then with marks, options or a wrong checksum."""
    mark = numbers.choice((0, 1, 2, 3, 0xB8, 0xBA)) if numbers.random() < 0.1 else 0
    life = 63 if numbers.random() < 0.03 else 64
    if len(ends[0]) == 16:
        if numbers.random() < 0.03:
            data, protocol = bytes((protocol, 0, 1, 4, 0, 0, 0, 0)) + data, 60
        head = struct.pack("!IHBB", 6 << 28 | mark << 20, len(data), protocol, life)
        return head + b"".join(ends) + data
    options = b"\x94\4\0\0" if numbers.random() < 0.03 else b""
    place = numbers.choice((0x2000, 185)) if numbers.random() < 0.03 else 0x4000
    size = 20 + len(options)
    head = struct.pack(
        "!BBHHHBB", 0x40 | size // 4, mark, size + len(data), 7, place, life, protocol
    )
    total = checksum_of(head + bytes(2) + b"".join(ends) + options)
    total ^= 0x101 if numbers.random() < 0.02 else 0
    return head + struct.pack("!H", total) + b"".join(ends) + options + data


def summed(ends: tuple[bytes, bytes], protocol: int, data: bytearray, wrong: bool) -> bytes:
    """Fill in a transport header's checksum."""
    at = 16 if protocol == 6 else 6
    pseudo = b"".join(ends) + struct.pack("!II", len(data), protocol)
    total = checksum_of(pseudo + data) or (0 if protocol == 6 else 0xFFFF)
    struct.pack_into("!H", data, at, total ^ (0x101 if wrong else 0))
    return bytes(data)


def burst(numbers: Numbers, ends: tuple[bytes, bytes]) -> Iterator[bytes]:
    """Yield the packets of a few flows."""
    base = numbers.choice((1, 7, 100, 536, 1000, MTU - 80))
    streams = defaultdict(lambda: numbers.choice((1, 2**32 - 999)))
    protocol = numbers.choice((6, 6, 17))
    for _ in range(numbers.randrange(2, 40)):
        data = numbers.randbytes(
            base if numbers.random() < 0.85 else numbers.choice((0, 1, base // 2))
        )
        wrong, odd = numbers.random() < 0.03, numbers.random()
        port = 1001 if numbers.random() < 0.1 else 1000
        if protocol == 6:
            flags = numbers.choice(ODD_FLAGS) if odd < 0.15 else 0x10
            reserved = numbers.choice((1, 2, 8)) if odd > 0.97 else 0
            urgent = 5 if flags == 0x30 or 0.95 < odd < 0.97 else 0
            stamp = struct.pack("!BBBBII", 1, 1, 8, 10, 1, 3 if odd > 0.99 else 2)
            head = struct.pack("!HHIIBBHHH", port, 80, streams[port] % 2**32, 1, 8 << 4 | reserved,
                               flags, 500, 0, urgent)  # fmt: skip
            streams[port] += len(data) + (9 if 0.15 < odd < 0.25 else 0)  # lost on the way to us
            yield ip(numbers, ends, 6, summed(ends, 6, bytearray(head + stamp + data), wrong))
        else:
            datagram = bytearray(struct.pack("!HHHH", port, 9, 8 + len(data), 0) + data)
            none = odd < 0.1
            yield ip(
                numbers, ends, 17, bytes(datagram) if none else summed(ends, 17, datagram, wrong)
            )


def super_segment(numbers: Numbers, ends: tuple[bytes, bytes]) -> bytes:
    """Return a large packet with its virtio_net_hdr, as a program's own segments come."""
    four, tcp = len(ends[0]) == 4, numbers.random() < 0.6
    size, count = numbers.choice((3, 333, 777, 1001)), numbers.randrange(2, 50)
    data = numbers.randbytes(size * count + numbers.randrange(size))
    if tcp:
        flags = numbers.choice((0x10, 0x18, 0x19, 0x38))
        head = struct.pack("!HHIIBBHHH", 2000, 80, 2**32 - 999, 1, 5 << 4, flags, 9, 0, 0)
    else:
        head = struct.pack("!HHHH", 2000, 9, 8 + len(data), 0)
    protocol, at = (6, 16) if tcp else (17, 6)
    body = bytearray(head + data)
    pseudo = b"".join(ends) + struct.pack("!II", len(body), protocol)
    struct.pack_into("!H", body, at, 0xFFFF - checksum_of(pseudo))
    calm = Numbers(2)  # no fragment or extension header: such are not super-segments
    calm.random = lambda: 1.0  # type: ignore[method-assign]
    kind = UDP_L4 if not tcp else TCP4 if four else TCP6
    below = 20 if four else 40
    return VNET.pack(1, kind, below + len(head), size, below, at) + ip(
        calm, ends, protocol, bytes(body)
    )


def cut(unit: bytes) -> list[bytes]:
    """Return the packets of a unit with its virtio_net_hdr, checksums complete."""
    needs, kind, headers, size, start, at = VNET.unpack_from(unit)
    packet = unit[VNET.size :]
    if not kind:
        if needs & 1:
            part = bytearray(packet)
            struct.pack_into("!H", part, start + at, checksum_of(packet[start:]) or 0xFFFF)
            packet = bytes(part)
        return [packet]
    headers = start + (packet[start + 12] >> 4) * 4 if at == 16 else start + 8
    four, pieces = start == 20, range(headers, len(packet), size)
    parts = []
    for number, where in enumerate(pieces):
        part = bytearray(packet[:headers] + packet[where : where + size])
        struct.pack_into("!H", part, 2 if four else 4, len(part) - (0 if four else 40))
        if at == 16:
            sequence = struct.unpack_from("!I", part, start + 4)[0] + number * size
            struct.pack_into("!I", part, start + 4, sequence % 2**32)
            part[start + 13] &= ~9 if number < len(pieces) - 1 else 0xFF
        else:
            struct.pack_into("!H", part, start + 4, len(part) - start)
        part[start + at : start + at + 2] = bytes(2)
        if four:
            part[10:12] = bytes(2)
            struct.pack_into("!H", part, 10, checksum_of(bytes(part[:20])))
        ends = (bytes(part[12:20]), b"") if four else (bytes(part[8:40]), b"")
        summed_part = summed(ends, 6 if at == 16 else 17, part[start:], wrong=False)
        parts.append(bytes(part[:start]) + summed_part)
    return parts


def flows(packets: list[bytes]) -> dict[bytes, list[bytes]]:
    """Return packets by flow, in order, without what of IPv4's header may differ."""
    found = defaultdict(list)
    for packet in packets:
        four = packet[0] >> 4 == 4
        start, protocol = (20, packet[9]) if four else (40, packet[6])
        whole = not four or (packet[0] == 0x45 and not packet[6] & 0x3F and not packet[7])
        ports = packet[start : start + 4] if whole and protocol in (6, 17) else b""
        right = four and checksum_of(packet[: (packet[0] & 15) * 4]) == 0
        shown = packet[:4] + packet[6:10] + (b"" if right else packet[10:12]) + packet[12:]
        found[bytes((packet[0] >> 4, protocol)) + ports].append(shown if four else packet)
    return dict(found)


@contextmanager
def held(host: Host) -> Iterator[None]:
    """Let a tunnel find all at once that is sent into it meanwhile."""
    process = host.daemon.process
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def packet_socket(host: Host, *, vnet: bool) -> socket.socket:
    with host.space.entered():
        one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        one.setsockopt(SOL_PACKET, PACKET_VNET_HDR, int(vnet))
        one.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        return one


@pytest.mark.parametrize(
    "subject",
    [
        SUBJECT,
        *(
            pytest.param(name, marks=pytest.mark.long, id=shown)
            for name, shown in (("tunneld --without tun-uso", "no USO"), (NO_OFFLOADS, "nothing"))
        ),
    ],
)
def test_what_goes_in_comes_out(subject: str) -> None:
    if os.geteuid():
        pytest.skip("needs root: network namespaces cannot be made")
    numbers, joined = Numbers(5), 0
    with star(subject, subject) as (near, far):
        connect(near, far)
        near.reaches(far)
        for host in (near, far):  # neither kernel is to answer
            chain = f"type filter hook input priority 0; iifname {host.interface} drop;"
            host.space.run(["nft", f"table inet quiet {{ chain i {{ {chain} }}; }}"])
        with (
            packet_socket(near, vnet=False) as plain,
            packet_socket(near, vnet=True) as large,
            packet_socket(far, vnet=True) as out,
        ):
            out.bind((far.interface, ETH_P_ALL))
            for _ in range(BURSTS):
                six = numbers.random() < 0.5
                inner = (near.inner6, far.inner6) if six else (near.inner, far.inner)
                ends = (ip_address(inner[0]).packed, ip_address(inner[1]).packed)
                to = (near.interface, 0x86DD if six else 0x0800)
                if numbers.random() < 0.2:
                    units = [super_segment(numbers, ends) for _ in range(3)]
                    wanted = [packet for unit in units for packet in cut(unit)]
                    send: Callable[..., object] = large.sendto
                else:
                    units = wanted = list(burst(numbers, ends))
                    send = plain.sendto
                with held(near):
                    for unit in units:
                        send(unit, to)
                came: list[bytes] = []
                while len(came) < len(wanted) and select.select([out], [], [], QUIET)[0]:
                    unit, sender = out.recvfrom(70_000)
                    if sender[2] == PACKET_HOST:
                        parts = cut(unit)
                        joined += len(parts) > 1 and units is wanted
                        came += parts
                assert flows(came) == flows(wanted)
    assert joined or subject == NO_OFFLOADS
