"""Two WireGuard devices, or more, on one lossy network in virtual time.

    a = world.node("10.0.0.1")          Device + FakeEngine + an address on the network
    world.befriend(a, b)                each is the other's peer and knows its endpoint
    a.send(b); world.run(seconds=1)     a packet from a's inner address to b's

Inner addresses are 192.168.0.N, N the node's number.
"""

from __future__ import annotations

import itertools
import random
from ipaddress import IPv4Address, IPv4Network, ip_address

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from providers.wireguard.change import DeviceChange, PeerChange
from providers.wireguard.device import Device
from providers.wireguard.messages import SECOND
from providers.wireguard.peer import Peer
from tunnel import Endpoint, Secret
from tunnel.testing import Datagram, FakeEngine, LossyNetwork, VirtualClock

PORT = 51820


def key_pair(seed: int) -> tuple[Secret, bytes]:
    private = Secret(random.Random(seed).randbytes(32))
    private.clamp()
    public = X25519PrivateKey.from_private_bytes(bytes(private.reveal())).public_key()
    return private, public.public_bytes_raw()


def ipv4_packet(source: IPv4Address, destination: IPv4Address, payload: bytes) -> bytes:
    total = (20 + len(payload)).to_bytes(2)
    header = b"\x45\0" + total + bytes(4) + b"\x40\xfd" + bytes(2)
    return header + source.packed + destination.packed + payload


class Node:
    """One end: `inner` is its address in the tunnel, `place` the one on the network."""

    def __init__(self, world: World, number: int, address: str) -> None:
        self.world = world
        self.private, self.public = key_pair(number)
        self.inner = IPv4Address("192.168.0.0") + number
        self.online = True
        self.engine = FakeEngine(world.clock, self._out)
        jitter = random.Random(number)
        self.device = Device(
            self.engine,
            wall=lambda: world.clock.wall,
            draw_jitter=lambda: jitter.randrange(334_000_000),
        )
        self.configure(private_key=self.private)
        self.move(address)
        self._serial = itertools.count()

    def move(self, address: str, port: int = PORT) -> None:
        """Go to another address."""
        if hasattr(self, "place"):
            self.world.network.detach(self.place)
        self.place = (ip_address(address), port)
        self.world.network.attach(self.place, self._in)

    def configure(self, *peers: PeerChange, private_key: Secret | None = None) -> None:
        change = DeviceChange(private_key=private_key, peers=peers)
        self.device.configure(change, self.world.clock.now)

    def add(self, other: Node, *, endpoint: bool = True, psk: bytes | None = None, **kw) -> None:
        self.configure(
            PeerChange(
                other.public,
                endpoint=other.place if endpoint else None,
                preshared_key=None if psk is None else Secret(psk),
                allowed_ips=((True, IPv4Network(other.inner)),),
                **kw,
            )
        )

    def peer(self, other: Node) -> Peer:
        return self.device.peers.by_key[other.public]

    def info(self, other: Node):
        return self.engine.peer_info(self.peer(other).id)

    def packet_for(self, other: Node) -> bytes:
        return ipv4_packet(self.inner, other.inner, next(self._serial).to_bytes(8))

    def send(self, other: Node) -> bytes:
        """Send a packet with a payload of its own; return it."""
        packet = self.packet_for(other)
        self.engine.write(packet)
        self.pump()
        return packet

    def pump(self) -> None:
        """Let the device see what its engine reports."""
        for event in self.engine.read_events():
            self.device.handle_event(event, self.world.clock.now)

    @property
    def received(self) -> list[bytes]:
        return [packet for _, packet in self.engine.delivered]

    def sent(self, kind: int) -> list[Datagram]:
        """What left here, by message type."""
        return [d for d in self.world.network.sent if d.source == self.place and d.data[0] == kind]

    def _out(self, to: Endpoint, data: bytes, ds: int) -> bool:
        if self.online:
            self.world.network.send(self.place, (to.address, to.port), data, ds)
        return self.online

    def _in(self, datagram: Datagram) -> None:
        address, port = datagram.source
        self.engine.deliver(datagram.data, Endpoint(address, port))
        self.pump()


class World:
    """The clock, the network and all nodes."""

    def __init__(self, **network) -> None:
        self.clock = VirtualClock()
        self.network = LossyNetwork(self.clock, **network)
        self.nodes: list[Node] = []

    def node(self, address: str) -> Node:
        node = Node(self, len(self.nodes) + 1, address)
        self.nodes.append(node)
        return node

    def pair(self, **kw) -> tuple[Node, Node]:
        """Return two nodes that know each other."""
        a, b = self.node("10.0.0.1"), self.node("10.0.0.2")
        a.add(b, **kw)
        b.add(a, **kw)
        return a, b

    def next_deadline(self) -> int | None:
        deadlines = [self.network.next_deadline()]
        deadlines += [node.device.next_deadline() for node in self.nodes]
        return min((one for one in deadlines if one is not None), default=None)

    def run(self, seconds: float) -> int:
        """Let time pass; return how often anything woke up."""
        end = self.clock.now + round(seconds * SECOND)
        wakes = 0
        while (deadline := self.next_deadline()) is not None and deadline <= end:
            self.clock.advance_to(deadline)
            self.network.deliver_due()
            for node in self.nodes:
                due = node.device.next_deadline()
                if due is not None and due <= self.clock.now:
                    node.device.handle_timeout(self.clock.now)
                    node.pump()
            wakes += 1
            assert wakes < 1_000_000, "the devices keep waking up"
        self.clock.advance_to(end)
        return wakes


def ready(**kw) -> tuple[World, Node, Node]:
    """Return a world and two nodes in it that have a session."""
    world = World()
    a, b = world.pair(**kw)
    a.send(b)
    world.run(1)
    return world, a, b


def replay(node, data: bytes, address: str = "10.9.9.9") -> None:
    """Deliver bytes from an address of nobody's."""
    node.engine.deliver(data, Endpoint(ip_address(address), PORT))
    node.pump()
