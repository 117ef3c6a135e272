"""Eight workers at each end: every packet is delivered, once, or its loss is accounted for.

    links a.0-7 --> engine A, a port for each worker ==UDP==> engine B, one port for all --> b.0-7

Loopback may drop datagrams where a socket's buffer is full, so nothing waits for a packet without
end: what is missing once all is quiet is sent again, under a new number of its try.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from tests.engine_lab import IP_PKTINFO, IP_RECVTOS, WAIT, checksum_of, checksums_right, udp
from tunnel.engine import (
    LINK_USO,
    LINK_VNET_HDR,
    NO_COALESCE_TCP,
    NO_COALESCE_UDP,
    NO_UDP_GRO,
    NO_UDP_SEGMENT,
    Endpoint,
    Engine,
    EventKind,
)

pytestmark = pytest.mark.datapath

WORKERS = 8
ADDRESSES = ("10.0.0.1", "10.0.0.2")
PLAIN = NO_UDP_SEGMENT | NO_UDP_GRO | NO_COALESCE_TCP | NO_COALESCE_UDP
ROUNDS, SUPER, SIZE = 40, 6, 400  # packets of a super-segment, bytes of a payload
HEADERS, VNET = 28, struct.Struct("=BBHHHH")
GSO_UDP_L4 = 5
QUIET = 0.2  # seconds without a packet after which what is missing is lost
TRIES = 20
SO_MEMINFO, SK_MEMINFO_DROPS = 55, 8


def payload(number: int, attempt: int) -> bytes:
    head = struct.pack("!II", number, attempt)
    return head + bytes((number + i) % 251 for i in range(SIZE - len(head)))


class Side:
    """One engine; its packets come from `address`. `shared`: one port for all workers."""

    def __init__(self, address: str, other: str, flags: int, link_flags: int, shared: bool) -> None:
        self.address, self.other, self.vnet = address, other, bool(link_flags)
        self.engine = Engine(WORKERS, flags=flags)
        self.links: list[socket.socket] = []
        self.inner: list[socket.socket] = []
        self.outer: list[socket.socket] = []
        port = 0
        for worker in range(WORKERS):
            near, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            one.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
            one.bind(("127.0.0.1", port))
            port = one.getsockname()[1] if shared else 0
            self.engine.attach_link(worker, inner.fileno(), link_flags, 1420)
            self.engine.attach_outer(worker, 0, one.fileno(), -1)
            self.links.append(near)
            self.inner.append(inner)
            self.outer.append(one)
        self.peer = self.engine.add_peer()
        self.engine.allow(self.peer, ip_network(other))
        self.sent, self.came = 0, Counter[tuple[int, int]]()
        self.used = set[int]()  # links that packets came from

    def close(self) -> None:
        self.engine.close()
        for one in (*self.links, *self.inner, *self.outer):
            one.close()

    def meet(self, other: Side) -> None:
        port = other.outer[0].getsockname()[1]
        self.engine.set_endpoint(self.peer, Endpoint(ip_address("127.0.0.1"), port))
        self.engine.start()

    def send(self, worker: int, numbers: list[int], attempt: int) -> None:
        """Send packets as one super-segment where the link knows them, else one by one."""
        payloads = [payload(number, attempt) for number in numbers]
        self.sent += len(numbers)
        ports = (1000 + worker, 9)
        if not self.vnet:
            for one in payloads:
                self.links[worker].send(udp(self.address, self.other, one, ports=ports))
            return
        packet = bytearray(udp(self.address, self.other, b"".join(payloads), ports=ports))
        pseudo = bytes(packet[12:20]) + struct.pack("!HH", 17, len(packet) - 20)
        struct.pack_into("!H", packet, 26, 0xFFFF - checksum_of(pseudo))
        kind, size = (GSO_UDP_L4, SIZE) if len(numbers) > 1 else (0, 0)
        self.links[worker].send(VNET.pack(1, kind, HEADERS, size, 20, 6) + packet)

    def take(self, worker: int) -> None:
        """Take a unit from a link, check it, and note which packets it holds."""
        packet = self.links[worker].recv(70000)
        joined = False
        if self.vnet:
            joined = bool(VNET.unpack_from(packet)[1])
            packet = packet[VNET.size :]
        assert packet[12:20] == b"".join(ip_address(a).packed for a in (self.other, self.address))
        assert joined or checksums_right(packet)
        data = packet[HEADERS:]
        assert len(data) % SIZE == 0
        assert joined or len(data) == SIZE
        for at in range(0, len(data), SIZE):
            number, attempt = struct.unpack_from("!II", data, at)
            assert data[at : at + SIZE] == payload(number, attempt)
            self.came[number, attempt] += 1
        self.used.add(worker)

    def lost(self) -> int:
        """Datagrams and packets that a full socket or link has refused."""
        counters = self.engine.counters()
        drops = [
            struct.unpack("=9I", one.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))[
                SK_MEMINFO_DROPS
            ]
            for one in self.outer
        ]
        return sum(drops) + counters["rx_link_busy"]


@pytest.fixture(params=[(0, LINK_VNET_HDR | LINK_USO), (PLAIN, 0)], ids=["offloads", "none"])
def sides(request: pytest.FixtureRequest) -> Iterator[tuple[Side, Side]]:
    """Two engines with a session that is confirmed."""
    flags, link_flags = request.param
    a = Side(*ADDRESSES, flags, link_flags, shared=False)
    b = Side(*reversed(ADDRESSES), flags, link_flags, shared=True)
    try:
        a.meet(b)
        b.meet(a)
        one, two = os.urandom(32), os.urandom(32)
        b.engine.install(b.peer, 2, 1, one, two, False)
        a.engine.install(a.peer, 1, 2, two, one, True)
        assert a.engine.flush(a.peer)
        assert select.select([b.engine.event_fd], [], [], WAIT)[0]
        assert EventKind.KEY_CONFIRMED in {event.kind for event in b.engine.read_events()}
        yield a, b
    finally:
        a.close()
        b.close()


def receive(sides: tuple[Side, Side], wanted: int) -> None:
    """Take packets until each side has as many more different ones, or nothing comes."""
    links = {link: (side, worker) for side in sides for worker, link in enumerate(side.links)}
    ends = [len(side.came) + wanted for side in sides]
    while any(len(side.came) < end for side, end in zip(sides, ends, strict=True)):
        ready = select.select(list(links), [], [], QUIET)[0]
        if not ready:
            return
        for link in ready:
            side, worker = links[link]
            side.take(worker)


def test_eight_workers_deliver_every_packet_once(sides: tuple[Side, Side]) -> None:
    a, b = sides
    for number in range(0, ROUNDS * WORKERS * SUPER, WORKERS * SUPER):
        for worker in range(WORKERS):
            first = number + worker * SUPER
            for side in sides:
                side.send(worker, list(range(first, first + SUPER)), 0)
        receive(sides, WORKERS * SUPER)
    every = set(range(ROUNDS * WORKERS * SUPER))
    for attempt in range(1, TRIES):
        missing = [sorted(every - {number for number, _ in side.came}) for side in (b, a)]
        if not any(missing):
            break
        for side, numbers in zip((a, b), missing, strict=True):
            for number in numbers[:100]:
                side.send(number % WORKERS, [number], attempt)
        receive(sides, 100)
    receive(sides, 1)  # nothing more may come, but for tries that were only late
    for sender, receiver in ((a, b), (b, a)):
        assert {number for number, _ in receiver.came} == every
        assert set(receiver.came.values()) == {1}, "each packet of each try at most once"
        busy = sender.engine.counters()["tx_outer_busy"]
        assert receiver.came.total() == sender.sent or busy + receiver.lost(), (
            "lost, none knows why"
        )
        counters = receiver.engine.counters()
        assert not counters["rx_replayed"] + counters["rx_auth_failed"], counters
    assert len(b.used) > 1, "more than one worker had something to do"
