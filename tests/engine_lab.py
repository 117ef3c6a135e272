"""A bench for one engine, without root: its link is a seqpacket pair, its far end is Python.

    test <--seqpacket--> Engine <--UDP on loopback--> FarPeer (seals and opens by itself)

A batch of the engine is over when a call that takes its exclusive lock returns; so a test sends
what it examines, then a packet that must arrive, waits for that, makes such a call (`settle`), and
may then read counters that will not change any more. No test needs to sleep.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from dataclasses import dataclass, field
from hashlib import blake2s
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Self

import dpkt

from tunnel.engine import Endpoint, Engine, Event, EventKind, open_, seal
from tunnel.settings import Address

SECOND = 1_000_000_000
WAIT = 10.0  # seconds until a test that waits for something gives up
IP_PKTINFO, IP_RECVTOS = 8, 13


def udp(
    source: str,
    destination: str,
    payload: bytes = b"",
    *,
    ports: tuple[int, int] = (7, 9),
    ecn: int = 0,
) -> bytes:
    """Return an IP packet with a UDP datagram and right checksums."""
    return _ip(
        source, destination, 17, dpkt.udp.UDP(sport=ports[0], dport=ports[1], data=payload), ecn
    )


def tcp(
    source: str,
    destination: str,
    payload: bytes = b"",
    *,
    seq: int = 1,
    flags: int = 0x10,
    ports: tuple[int, int] = (7, 9),
    **fields: Any,
) -> bytes:
    """Return an IP packet with a TCP segment and right checksums."""
    segment = dpkt.tcp.TCP(
        sport=ports[0], dport=ports[1], seq=seq, ack=1, flags=flags, win=500, data=payload, **fields
    )
    segment.off = (20 + len(segment.opts)) // 4
    return _ip(source, destination, 6, segment, 0)


def _ip(source: str, destination: str, protocol: int, data: Any, ecn: int) -> bytes:
    if isinstance(data, dpkt.udp.UDP):
        data.ulen = 8 + len(data.data)
    src, dst = ip_address(source), ip_address(destination)
    if src.version == 4:
        packet = dpkt.ip.IP(src=src.packed, dst=dst.packed, p=protocol, ttl=64, tos=ecn, data=data)
        packet.len = len(packet)
        return bytes(packet)
    pseudo = src.packed + dst.packed + struct.pack("!II", len(data), protocol)
    data.sum = dpkt.in_cksum(pseudo + bytes(data))
    header = struct.pack("!IHBB", 6 << 28 | ecn << 20, len(data), protocol, 64)
    return header + src.packed + dst.packed + bytes(data)


def checksums_right(packet: bytes) -> bool:
    """Whether IP header and transport checksums of an IPv4 or IPv6 packet are right."""
    if packet[0] >> 4 == 4:
        header, protocol, addresses = (packet[0] & 15) * 4, packet[9], packet[12:20]
        if dpkt.in_cksum(packet[:header]) != 0:
            return False
    else:
        header, protocol, addresses = 40, packet[6], packet[8:40]
    data = packet[header:]
    pseudo = addresses + struct.pack("!II", len(data), protocol)
    return bool(dpkt.in_cksum(pseudo + data) == 0)


def checksum_of(data: bytes) -> int:
    """Return the complement of the Internet checksum (RFC 1071): 0 over data that holds its own."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


@dataclass
class Session:
    """One pair of keys, seen from the far end. `near` is the index that the far end writes."""

    near: int
    far: int
    to_near: bytes = field(default_factory=lambda: os.urandom(32))
    to_far: bytes = field(default_factory=lambda: os.urandom(32))
    counter: int = 0


@dataclass
class Data:
    """A data message as the far end got it."""

    counter: int
    receiver: int
    packet: bytes  # with padding
    size: int  # of the datagram
    ds: int


class FarPeer:
    """A peer whose protocol is written out here, independently of the engine."""

    def __init__(self, lab: Lab, address: str) -> None:
        self.lab = lab
        self.socket = loopback_udp(address)
        self.id = lab.engine.add_peer()
        self.sessions: dict[int, Session] = {}
        self.session: Session | None = None
        lab.engine.set_endpoint(self.id, self.endpoint)

    @property
    def endpoint(self) -> Endpoint:
        host, port = self.socket.getsockname()[:2]
        return Endpoint(ip_address(host), port)

    def allow(self, *networks: str) -> Self:
        for network in networks:
            self.lab.engine.allow(self.id, ip_network(network))
        return self

    def install(self, *, initiator: bool = True) -> Session:
        """Give both ends new keys; the engine is the initiator, or the responder."""
        session = Session(near=self.lab.next_index(), far=self.lab.next_index())
        self.lab.engine.install(
            self.id, session.near, session.far, session.to_far, session.to_near, initiator
        )
        self.sessions[session.far] = session
        self.session = session
        return session

    def message(
        self,
        packet: bytes,
        *,
        session: Session | None = None,
        counter: int | None = None,
        pad: bool = True,
    ) -> bytes:
        session = session or self.session
        assert session is not None
        if counter is None:
            counter, session.counter = session.counter, session.counter + 1
        if pad:
            packet += bytes(-len(packet) % 16)
        sealed = seal(session.to_near, counter, packet)
        return struct.pack("<IIQ", 4, session.near, counter) + sealed

    def send(self, packet: bytes, **options: Any) -> None:
        self.raw(self.message(packet, **options))

    def raw(self, datagram: bytes, ecn: int = 0) -> None:
        level, option = (0, 1) if self.socket.family == socket.AF_INET else (41, 67)
        self.socket.setsockopt(level, option, ecn)
        self.socket.sendto(datagram, self.lab.outer_address(self.socket.family))

    def raw_receive(self) -> tuple[bytes, int]:
        data, ancillary, _, _ = self.socket.recvmsg(65536, 256)
        ds = next((c[0] for level, kind, c in ancillary if kind in (1, 67)), 0)
        return data, ds

    def receive(self) -> Data:
        datagram, ds = self.raw_receive()
        kind, receiver, counter = struct.unpack_from("<IIQ", datagram)
        assert kind == 4
        session = self.sessions[receiver]
        packet = open_(session.to_far, counter, datagram[16:])
        return Data(counter, receiver, packet, len(datagram), ds)

    def waiting(self) -> bool:
        return bool(select.select([self.socket], [], [], 0)[0])


def loopback_udp(address: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    one = socket.socket(family, socket.SOCK_DGRAM)
    one.settimeout(WAIT)
    if family == socket.AF_INET:
        one.setsockopt(0, IP_PKTINFO, 1)
        one.setsockopt(0, IP_RECVTOS, 1)
    else:
        one.setsockopt(41, 26, 1)  # IPV6_V6ONLY
        one.setsockopt(41, 49, 1)  # IPV6_RECVPKTINFO
        one.setsockopt(41, 66, 1)  # IPV6_RECVTCLASS
    one.bind((address, 0))
    return one


class Lab:
    """One engine with one worker, its link and its outer sockets; a context manager.

    `without` are the flags of facilities that no engine has for now (see conftest.py).
    """

    without = 0

    def __init__(
        self, *, flags: int = 0, link_flags: int = 0, mtu: int = 1420, ring_slots: int = 64
    ):
        self.engine = Engine(flags=flags | self.without, ring_slots=ring_slots)
        self.mtu = mtu
        self.link, self.inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link.settimeout(WAIT)
        self.outer4, self.outer6 = loopback_udp(), loopback_udp("::1")
        self.engine.attach_link(0, self.inner.fileno(), link_flags, mtu)
        self.engine.attach_outer(0, 0, self.outer4.fileno(), self.outer6.fileno())
        self.engine.start()
        self._index = 0
        self._peers: list[FarPeer] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.engine.close()
        for one in (self.link, self.inner, self.outer4, self.outer6):
            one.close()
        for peer in self._peers:
            peer.socket.close()

    def next_index(self) -> int:
        self._index += 1
        return self._index

    def outer_address(self, family: int) -> Any:
        return (self.outer4 if family == socket.AF_INET else self.outer6).getsockname()

    def peer(self, *networks: str, address: str = "127.0.0.1", install: bool = True) -> FarPeer:
        """Return a new peer with allowed networks and, unless told otherwise, a session."""
        peer = FarPeer(self, address).allow(*networks)
        self._peers.append(peer)
        if install:
            peer.install()
        return peer

    def settle(self) -> None:
        """Return when the engine is between batches."""
        self.engine.set_mtu(self.mtu)

    def read(self) -> bytes:
        return self.link.recv(70000)

    def idle(self) -> bool:
        return not select.select([self.link], [], [], 0)[0]

    def counters(self) -> dict[str, int]:
        """Return the counters that are not 0, once the present batch is over."""
        self.settle()
        return {name: value for name, value in self.engine.counters().items() if value}

    def events(self) -> list[EventKind]:
        return [event.kind for event in self.engine.read_events()]

    def wait_event(self, kind: EventKind) -> Event:
        """Return the next event of a kind; others before it are dropped."""
        while True:
            assert select.select([self.engine.event_fd], [], [], WAIT)[0], f"no {kind} came"
            for event in self.engine.read_events():
                if event.kind is kind:
                    return event


# ---- handshake messages, as far as the engine looks at them ----

SIZES = {1: 148, 2: 92, 3: 64}


def keyed_mac(key: bytes, data: bytes) -> bytes:
    return blake2s(data, digest_size=16, key=key).digest()


def handshake(kind: int, public_key: bytes, *, cookie: bytes | None = None) -> bytes:
    """Return a message of type 1 or 2 with random contents and right macs."""
    body = struct.pack("<I", kind) + os.urandom(SIZES[kind] - 4 - 32)
    mac1 = keyed_mac(blake2s(b"mac1----" + public_key).digest(), body)
    mac2 = keyed_mac(cookie, body + mac1) if cookie else bytes(16)
    return body + mac1 + mac2


def cookie_for(secret: bytes, address: Address, port: int) -> bytes:
    assert isinstance(address, IPv4Address | IPv6Address)
    return keyed_mac(secret, address.packed + struct.pack("!H", port))
