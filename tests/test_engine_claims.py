"""What the userspace stack claims goes out of the engine's port, all else to the link."""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
)
from scapy.packet import Raw

from tests.engine_lab import WAIT, Lab, tcp, udp
from tunnel.engine import LINK_USO, LINK_VNET_HDR, EngineError

pytestmark = pytest.mark.datapath

NEAR, FAR = "10.0.0.1", "10.0.0.2"
NEAR6, FAR6 = "fd00::1", "fd00::2"
FULL = LINK_VNET_HDR | LINK_USO


@contextmanager
def lab_with_port(flags: int = 0) -> Iterator[tuple[Lab, socket.socket]]:
    """Yield an engine and the stack's end of its port, with TCP 80, UDP 53 and echo 7 claimed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(WAIT)
    with ours, theirs, Lab(link_flags=flags) as lab:
        lab.engine.attach_port(theirs.fileno(), flags)
        for protocol, port in ((6, 80), (17, 53), (1, 7)):
            lab.engine.claim(protocol, port)
        yield lab, ours


def four(payload: object) -> bytes:
    return bytes(IP(src=FAR, dst=NEAR) / payload)


def six(payload: object) -> bytes:
    return bytes(IPv6(src=FAR6, dst=NEAR6) / payload)


OURS = IP(src=NEAR, dst=FAR) / TCP(sport=80, dport=9)
OURS_UDP = IP(src=NEAR, dst=FAR) / UDP(sport=53, dport=9) / Raw(b"x" * 40)
OURS6 = IPv6(src=NEAR6, dst=FAR6) / TCP(sport=80, dport=9)
THEIRS = IP(src=NEAR, dst=FAR) / TCP(sport=81, dport=9)
LATER = IP(src=NEAR, dst=FAR, frag=4) / Raw(b"\0P" * 9)
PIECES = fragment(IP(src=FAR, dst=NEAR, id=3) / UDP(sport=9, dport=53) / Raw(b"y" * 800), 400)

TO_STACK = {
    "tcp": tcp(FAR, NEAR, b"hello", ports=(9, 80)),
    "tcp over ipv6": tcp(FAR6, NEAR6, b"hello", ports=(9, 80)),
    "udp": udp(FAR, NEAR, b"hello", ports=(9, 53)),
    "first fragment": bytes(PIECES[0]),
    "echo reply": four(ICMP(type=0, id=7)),
    "echo reply over ipv6": six(ICMPv6EchoReply(id=7)),
    "unreachable": four(ICMP(type=3, code=3) / OURS),
    "unreachable, datagram": four(ICMP(type=3, code=3) / OURS_UDP),
    "time exceeded": four(ICMP(type=11) / OURS),
    "unreachable over ipv6": six(ICMPv6DestUnreach() / OURS6),
    "too big": six(ICMPv6PacketTooBig(mtu=1280) / OURS6),
    "about our echo": four(ICMP(type=3, code=1) / IP(src=NEAR, dst=FAR) / ICMP(type=8, id=7)),
}
TO_KERNEL = {
    "another port": tcp(FAR, NEAR, b"hello", ports=(80, 81)),
    "another protocol": udp(FAR, NEAR, b"hello", ports=(9, 80)),
    "echo request": four(ICMP(type=8, id=7)),
    "echo request over ipv6": six(ICMPv6EchoRequest(id=7)),
    "another identifier": four(ICMP(type=0, id=8)),
    "unreachable for another": four(ICMP(type=3, code=3) / THEIRS),
    "quote cut short": four(ICMP(type=3, code=3) / Raw(bytes(OURS)[:27])),
    "quote of a later fragment": four(ICMP(type=3) / LATER),
    "another transport": four(Raw(b"z" * 40)),
}  # fmt: skip


@pytest.mark.parametrize("name", TO_STACK)
def test_claimed_packets_go_to_the_stack(name: str) -> None:
    with lab_with_port() as (lab, port):
        lab.peer("10.0.0.2/32", "fd00::2/128").send(TO_STACK[name])
        assert port.recv(70_000) == TO_STACK[name]
        lab.settle()
        assert lab.idle()


@pytest.mark.parametrize("name", TO_KERNEL)
def test_all_else_goes_to_the_link(name: str) -> None:
    with lab_with_port() as (lab, port):
        lab.peer("10.0.0.2/32", "fd00::2/128").send(TO_KERNEL[name])
        assert lab.read() == TO_KERNEL[name]
        lab.settle()
        assert not select.select([port], [], [], 0)[0]


def test_later_fragments_go_to_both() -> None:
    with lab_with_port() as (lab, port):
        lab.peer("10.0.0.2/32").send(bytes(PIECES[1]))
        assert port.recv(70_000) == lab.read() == bytes(PIECES[1])


@pytest.mark.shows("coalesced TCP")
def test_what_is_claimed_leaves_coalesced() -> None:
    with lab_with_port(FULL) as (lab, port):
        peer = lab.peer("10.0.0.2/32")
        lab.engine.stop()
        for i in range(40):
            peer.send(tcp(FAR, NEAR, bytes([i]) * 1000, seq=1 + 1000 * i, ports=(9, 80)))
        lab.engine.start()
        sizes = []
        while sum(sizes) < 40_000:
            unit = port.recv(70_000)
            _, kind, _, size, _, _ = struct.unpack_from("=BBHHHH", unit)
            assert (kind, size) == (1, 1000)
            sizes.append(len(unit) - 50)
        assert len(sizes) <= 3  # a unit a batch of the worker


def test_what_the_stack_sends_is_cut_and_sealed_at_full_size() -> None:
    with lab_with_port(FULL) as (lab, port):
        peer = lab.peer("10.0.0.2/32")
        packet = bytearray(tcp(NEAR, FAR, bytes(range(250)) * 260, ports=(80, 9)))
        packet[36:38] = b"\0\0"  # the engine adds the pseudo-header's sum up with the rest
        struct.pack_into("!H", packet, 36, _pseudo(len(packet) - 20))
        port.send(struct.pack("=BBHHHH", 1, 1, 40, 1360, 20, 16) + packet)
        size = 0
        while size < 65_000:
            size += len(_inner(peer.receive().packet)) - 40
        assert size == 65_000
        assert lab.counters()["tx_packets"] == 48


def _pseudo(length: int) -> int:
    total = sum(struct.unpack("!4H", socket.inet_aton(NEAR) + socket.inet_aton(FAR))) + 6 + length
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _inner(padded: bytes) -> bytes:
    return padded[: struct.unpack_from("!H", padded, 2)[0]]


def test_an_unreachable_answer_goes_to_who_asked() -> None:
    with lab_with_port() as (lab, port):
        port.send(tcp(NEAR, "192.0.2.1", b"", ports=(80, 9)))
        answer = IP(port.recv(70_000))
        assert (answer[ICMP].type, answer[ICMP].code) == (3, 1)
        assert lab.idle()


def test_claims_are_made_once_and_given_back() -> None:
    with lab_with_port() as (lab, port):
        with pytest.raises(EngineError) as taken:
            lab.engine.claim(6, 80)
        assert taken.value.errno == errno.EEXIST
        with pytest.raises(EngineError) as absent:
            lab.engine.unclaim(6, 81)
        assert absent.value.errno == errno.ENOENT
        for protocol, number in ((58, 1), (0, 1), (6, 65_536)):
            with pytest.raises(ValueError, match="range"):
                lab.engine.claim(protocol, number)
        lab.engine.unclaim(6, 80)
        peer = lab.peer("10.0.0.2/32")
        peer.send(TO_STACK["tcp"])
        assert lab.read() == TO_STACK["tcp"]
        lab.engine.claim(6, 80)
        peer.send(TO_STACK["tcp"])
        assert port.recv(70_000) == TO_STACK["tcp"]


def test_without_a_port_claims_change_nothing() -> None:
    with lab_with_port() as (lab, _):
        lab.engine.detach_port()
        lab.peer("10.0.0.2/32").send(TO_STACK["tcp"])
        assert lab.read() == TO_STACK["tcp"]


def test_a_stack_that_goes_away_takes_its_port_along() -> None:
    with lab_with_port() as (lab, port):
        peer = lab.peer("10.0.0.2/32")
        port.close()
        peer.send(TO_STACK["tcp"])  # finds nobody, or the link once the port has gone
        peer.send(TO_KERNEL["another port"])
        came = lab.read()
        assert (lab.read() if came == TO_STACK["tcp"] else came) == TO_KERNEL["another port"]


def test_the_port_works_without_a_link() -> None:
    with lab_with_port() as (lab, port):
        lab.engine.detach_link(0)
        peer = lab.peer("10.0.0.2/32")
        peer.send(TO_STACK["udp"])
        assert port.recv(70_000) == TO_STACK["udp"]
        port.send(udp(NEAR, FAR, b"back", ports=(53, 9)))
        assert peer.receive().packet.startswith(udp(NEAR, FAR, b"back", ports=(53, 9)))
