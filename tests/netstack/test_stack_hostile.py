"""Hostile packets: no crash, bounded memory, established connections unharmed.

A connection to an honest peer is open while the flood comes; afterwards bytes still pass both ways.
"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.packet import Packet, Raw

from tests.netstack.wire import FAR, FAR6, MS, NEAR, NEAR6, SECOND, World
from tunnel.netstack.tcpsocket import TcpSocket

V4, V6 = IP(src=FAR, dst=NEAR), IPv6(src=FAR6, dst=NEAR6)
FLOOD = 4_000
LITTLE = 24 << 20  # bytes that a flood may leave behind


class Honest:
    """A peer of the stack's listener that keeps to the rules."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.stack.listen(None, 80, backlog=64)
        self.seq, self.port = 5000, 40_000
        (answer,) = world.give(self.segment(b"", "S"))
        self.ack = answer[TCP].seq + 1
        self.seq += 1
        world.give(self.segment(b"", "A"))
        events = world.stack.take_events()
        self.socket: TcpSocket = events[-1][0]

    def segment(self, data: bytes, flags: str = "PA") -> Packet:
        ack = getattr(self, "ack", 0)
        return V4 / TCP(sport=self.port, dport=80, seq=self.seq, ack=ack, flags=flags) / Raw(data)

    def exchange(self) -> None:
        """Send some bytes, get some bytes."""
        self.world.give(self.segment(b"honest"))
        self.seq += 6
        assert self.socket.read(100) == b"honest"
        self.socket.write(b"answer")
        sent = b"".join(
            bytes(packet[TCP].payload)
            for packet in self.world.later(MS)
            if TCP in packet and packet[TCP].dport == self.port
        )
        assert sent.endswith(b"answer")
        self.ack += 6
        self.world.give(self.segment(b"", "A"))


def chance_bytes(chance: random.Random) -> Iterator[bytes]:
    for _ in range(FLOOD):
        data = bytearray(chance.randbytes(chance.choice((0, 1, 19, 20, 40, 60, 100, 300))))
        if data and chance.random() < 0.9:
            data[0] = chance.choice((0x45, 0x46, 0x60))
        if len(data) > 40 and chance.random() < 0.9:
            size = len(data) - (40 if data[0] == 0x60 else 0)
            at = 4 if data[0] == 0x60 else 2
            data[at : at + 2] = size.to_bytes(2, "big")
            ours = bytes((V6 if data[0] == 0x60 else V4).copy())
            start, end = (8, 40) if data[0] == 0x60 else (12, 20)
            data[start:end] = ours[start:end]
            data[6 if data[0] == 0x60 else 9] = chance.choice((1, 6, 17, 58, 0, 43, 44, 60))
        yield bytes(data)


def mutated(chance: random.Random, honest: Honest) -> Iterator[bytes]:
    kinds = [
        honest.segment(b"x" * 50),
        V4 / TCP(sport=9, dport=80, flags="S", options=[("MSS", 1300), ("SAckOK", b"")]),
        V6 / TCP(sport=9, dport=80, flags="A", options=[("Timestamp", (1, 2))]),
        V4 / UDP(sport=9, dport=53) / Raw(b"x" * 30),
        V4 / ICMP(type=3, code=4, nexthopmtu=600) / honest.segment(b""),
        V6 / ICMPv6PacketTooBig() / V6 / TCP(sport=80, dport=9),
        V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrFragment(m=1) / Raw(b"y" * 64),
        fragment(V4 / UDP() / Raw(bytes(3000)), 1000)[1],
    ]
    templates = [bytes(kind) for kind in kinds]
    own_place = bytes(honest.segment(b""))[12:24]
    while True:
        data = bytearray(chance.choice(templates))
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if bytes(data[12:24]) != own_place:  # what hits the connection itself may be believed
            yield bytes(data[: chance.randrange(len(data))] if chance.random() < 0.2 else data)


@pytest.mark.parametrize("kind", ["random", "mutated"])
def test_garbage(kind: str) -> None:
    world, chance = World(), random.Random(7)
    honest = Honest(world)
    source = chance_bytes(chance) if kind == "random" else mutated(chance, honest)
    tracemalloc.start()
    for _, data in zip(range(FLOOD), source, strict=False):
        world.stack.receive(memoryview(data), world.now)
        if chance.random() < 0.05:
            world.now += MS
            world.stack.handle_timeout(world.now)
            world.stack.packets_to_send(world.now)
            world.stack.take_events()
            world.stack.take_datagrams()
    while world.stack.packets_to_send(world.now):
        pass
    assert tracemalloc.get_traced_memory()[0] < LITTLE
    tracemalloc.stop()
    honest.exchange()


def flood(name: str, chance: random.Random, honest: Honest) -> bytes:
    """Return one packet of a flood."""
    source = f"10.1.{chance.randrange(256)}.{chance.randrange(1, 255)}"
    port = chance.randrange(1, 65536)
    if name == "syn":
        return bytes(IP(src=source, dst=NEAR) / TCP(sport=port, dport=80, flags="S"))
    if name == "ack":
        return bytes(IP(src=source, dst=NEAR) / TCP(sport=port, dport=80, flags="A", ack=port))
    if name == "reset of the connection":
        seq = chance.randrange(1 << 32)
        if seq == honest.seq:
            seq += 1
        return bytes(V4 / TCP(sport=honest.port, dport=80, flags="R", seq=seq))
    if name == "syn into the connection":
        seq = chance.randrange(1 << 32)
        return bytes(V4 / TCP(sport=honest.port, dport=80, flags="S", seq=seq))
    if name == "udp":
        return bytes(IP(src=source, dst=NEAR) / UDP(sport=port, dport=port))
    if name == "echo":
        return bytes(IP(src=source, dst=NEAR) / ICMP() / Raw(bytes(500)))
    if name == "unreachable":
        quote = bytes(IP(src=NEAR, dst=FAR) / TCP(sport=80, dport=honest.port, seq=port))
        return bytes(IP(src=source, dst=NEAR) / ICMP(type=3, code=3) / Raw(quote))
    if name in MORE:
        return bytes(MORE[name](chance, honest, IP(src=source, dst=NEAR), port))
    offset = chance.randrange(1000)
    return bytes(IP(src=source, dst=NEAR, id=port, flags="MF", frag=offset) / Raw(bytes(8 * 100)))


Maker = Callable[[random.Random, Honest, Packet, int], Packet]


def inside(honest: Honest, chance: random.Random) -> int:
    """A sequence number of ours that was never sent, but could be soon."""
    return (honest.ack + chance.randrange(2, 1 << 16)) & 0xFFFFFFFF


#: Floods that need more than a line, given an IP header from anywhere and a port.
MORE: dict[str, Maker] = {
    "overlapping fragments": lambda chance, honest, ip, port: (
        IP(src=FAR, dst=NEAR, id=port % 8, flags="MF", frag=chance.randrange(8))
        / Raw(bytes(8 * chance.randrange(1, 20)))
    ),
    "overlapping fragments of IPv6": lambda chance, honest, ip, port: (
        V6
        / IPv6ExtHdrFragment(id=port % 8, m=1, offset=chance.randrange(8), nh=17)
        / Raw(bytes(8 * chance.randrange(1, 20)))
    ),
    "fragments of the connection": lambda chance, honest, ip, port: fragment(
        V4 / TCP(sport=honest.port, dport=80, seq=honest.seq, ack=honest.ack, flags="PA")
        / Raw(bytes(600)), 256,
    )[chance.randrange(3)],
    "syn over IPv6": lambda chance, honest, ip, port: (
        IPv6(src=f"fd01::{port:x}", dst=NEAR6) / TCP(sport=port, dport=80, flags="S")
    ),
    "syn,ack": lambda chance, honest, ip, port: (
        ip / TCP(sport=port, dport=80, flags="SA", ack=port)
    ),
    "fin": lambda chance, honest, ip, port: ip / TCP(sport=port, dport=80, flags="FA", ack=port),
    "reset of nothing": lambda chance, honest, ip, port: (
        ip / TCP(sport=port, dport=port, flags="R", seq=port)
    ),
    "reset inside the window": lambda chance, honest, ip, port: (
        V4 / TCP(sport=honest.port, dport=80, flags="R", seq=honest.seq + 1 + port % 50_000)
    ),
    "acknowledgments of what was not sent": lambda chance, honest, ip, port: (
        V4 / TCP(sport=honest.port, dport=80, flags="A", seq=honest.seq, ack=inside(honest, chance))
    ),
    "too big, of nothing sent": lambda chance, honest, ip, port: (
        V4
        / ICMP(type=3, code=4, nexthopmtu=68)
        / IP(src=NEAR, dst=FAR)
        / TCP(sport=80, dport=honest.port, seq=inside(honest, chance))
    ),
    "too big, of strangers": lambda chance, honest, ip, port: (
        ip
        / ICMP(type=3, code=4, nexthopmtu=68)
        / IP(src=NEAR, dst=ip.src)
        / TCP(sport=80, dport=port, seq=port)
    ),
    "unreachable, of what was not sent": lambda chance, honest, ip, port: (
        V4
        / ICMP(type=3, code=1)
        / IP(src=NEAR, dst=FAR)
        / TCP(sport=80, dport=honest.port, seq=inside(honest, chance))
    ),
    "time exceeded": lambda chance, honest, ip, port: (
        ip / ICMP(type=11) / IP(src=NEAR, dst=ip.src) / UDP(sport=port, dport=port)
    ),
    "echo replies": lambda chance, honest, ip, port: (
        ip / ICMP(type=0, id=port, seq=port) / Raw(bytes(1000))
    ),
}  # fmt: skip
FLOODS = (
    *MORE, "syn", "ack", "reset of the connection", "syn into the connection", "udp", "echo",
    "unreachable", "fragments",
)  # fmt: skip


@pytest.mark.parametrize("name", FLOODS)
def test_floods(name: str) -> None:
    world, chance = World(), random.Random(11)
    honest = Honest(world)
    packets = [flood(name, chance, honest) for _ in range(300)]
    size = honest.socket.connection.segment_size
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    answers = 0
    for turn in range(FLOOD // 300):
        for data in packets:
            world.stack.receive(memoryview(data), world.now)
        answers += len(world.stack.packets_to_send(world.now))
        world.now += MS
        world.stack.handle_timeout(world.now)
        world.stack.take_events()
        del turn
    assert tracemalloc.get_traced_memory()[0] - before < LITTLE
    tracemalloc.stop()
    if name in ("reset of the connection", "syn into the connection"):
        assert answers <= 1100  # challenges are bounded (RFC 5961, section 7)
    if name.startswith("overlapping"):
        assert world.stack._reassembly.refused >= 8  # all of them, each once
    assert honest.socket.connection.segment_size == size
    honest.exchange()
    world.later(600 * SECOND)
    assert len(world.stack.tcp.sockets) <= 65


def test_a_client_gets_in_while_a_flood_lasts() -> None:
    """SYN cookies: no memory is kept, and who proves its address is accepted."""
    world, chance = World(), random.Random(5)
    honest = Honest(world)
    for _ in range(200):
        world.give(flood("syn", chance, honest))
    assert world.stack.counters["tcp_syn_cookies"] > 100
    offer = [("MSS", 1300), ("SAckOK", b""), ("Timestamp", (50, 0)), ("WScale", 7)]
    late = V4 / TCP(sport=777, dport=80, seq=900, flags="S", options=offer)
    (answer,) = world.give(late)
    count = len(world.stack.tcp.sockets)
    options = dict(answer[TCP].options)
    assert {"MSS", "SAckOK", "Timestamp", "WScale"} <= set(options)
    stamp = ("Timestamp", (51, options["Timestamp"][0]))
    nop = [("NOP", None)] * 2
    ack = answer[TCP].seq + 1
    world.give(V4 / TCP(sport=777, dport=80, seq=901, ack=ack, flags="A", options=[*nop, stamp]))
    assert len(world.stack.tcp.sockets) == count + 1
    ((socket, _),) = world.stack.take_events()
    assert socket.remote.port == 777
    assert socket.connection.segment_size == 1300 - 12
    world.give(
        V4
        / TCP(sport=777, dport=80, seq=901, ack=ack, flags="PA", options=[*nop, stamp])
        / Raw(b"in")
    )
    assert socket.read(10) == b"in"
    socket.write(b"out")
    assert any(bytes(one[TCP].payload) == b"out" for one in world.sent())


@pytest.mark.parametrize("change", ["ack", "seq", "port", "age"])
def test_a_forged_cookie_is_reset(change: str) -> None:
    world, chance = World(), random.Random(5)
    honest = Honest(world)
    for _ in range(200):
        world.give(flood("syn", chance, honest))
    (answer,) = world.give(V4 / TCP(sport=777, dport=80, seq=900, flags="S"))
    ack, seq, port = answer[TCP].seq + 1, 901, 777
    if change == "ack":
        ack ^= 64
    elif change == "seq":
        seq += 1
    elif change == "port":
        port += 1
    else:
        world.now += 129 * SECOND
    (reset,) = world.give(V4 / TCP(sport=port, dport=80, seq=seq, ack=ack, flags="A"))
    assert reset[TCP].flags == "R"
