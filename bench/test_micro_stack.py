"""What a unit, a datagram and a connection cost the whole stack in Python, link and loop left out.

Two stacks hand each other their packets in memory, so each figure is of both ends together but for
the datagrams, which one of them answers.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from tunnel.netstack.endpoint import EventKind
from tunnel.netstack.ip import Outgoing
from tunnel.netstack.settings import Settings
from tunnel.netstack.stack import Stack
from tunnel.netstack.tcpsocket import Place, TcpSocket

MS = 1_000_000
UNITS = 200
CONNECTIONS = 100
UNIT = bytes(60_000)
A, B = ip_address("10.0.0.1").packed, ip_address("10.0.0.2").packed


def whole(out: Outgoing) -> memoryview:
    return memoryview(bytes(out.header) + bytes(out.payload))


class Pair:
    """Two stacks and the time."""

    def __init__(self) -> None:
        settings = Settings(nodelay=True, pacing=False, receive_buffer=1 << 24,
                            receive_most=1 << 24, send_buffer=1 << 24)  # fmt: skip
        self.now = 1000 * MS
        self.a = Stack([A], 1420, secret=bytes(64), settings=settings)
        self.b = Stack([B], 1420, secret=bytes(range(64)), settings=settings)
        self.b.listen(None, 80)

    def exchange(self) -> None:
        """Carry packets until both are silent."""
        quiet = 0
        one, other = self.a, self.b
        while quiet < 2:
            packets = one.packets_to_send(self.now)
            for out in packets:
                other.receive(whole(out), self.now, out.segment)
            quiet = 0 if packets else quiet + 1
            one, other = other, one
        self.now += MS

    def connect(self) -> tuple[TcpSocket, TcpSocket]:
        client = self.a.connect(Place(B, 80), self.now)
        self.exchange()
        accepted = [s for s, e in self.b.take_events() if e.kind is EventKind.ESTABLISHED]
        self.a.take_events()
        return client, accepted[-1]


@pytest.mark.benchmark(group="stack")
def test_unit_sent_received_and_acknowledged(measured: Callable[..., Any]) -> None:
    pair = Pair()
    client, server = pair.connect()
    for _ in range(200):  # until the window is open
        client.write(UNIT)
        pair.exchange()
        server.read(1 << 22)

    def run() -> int:
        got = 0
        for _ in range(UNITS):
            client.write(UNIT)
            pair.exchange()
            got += len(server.read(1 << 22))
        return got

    assert measured(UNITS, run) > 0


@pytest.mark.benchmark(group="stack")
def test_datagram_received_and_answered(measured: Callable[..., Any]) -> None:
    pair = Pair()
    near = pair.a.bind(None, 7)
    pair.b.bind(None, 9).send(bytes(100), Place(A, 7))
    (out,) = pair.b.packets_to_send(pair.now)
    packet = whole(out)

    def run() -> int:
        answered = 0
        for _ in range(UNITS):
            pair.a.receive(packet, pair.now)
            for received in pair.a.take_datagrams():
                near.send(received.data, received.source)
            answered += len(pair.a.packets_to_send(pair.now))
        return answered

    assert measured(UNITS, run) == UNITS


@pytest.mark.benchmark(group="stack")
def test_connection_opened_used_and_closed(measured: Callable[..., Any]) -> None:
    def run() -> int:
        pair = Pair()
        for _ in range(CONNECTIONS):
            client, server = pair.connect()
            client.write(b"x")
            pair.exchange()
            server.write(server.read(10))
            server.close(pair.now)
            pair.exchange()
            client.read(10)
            client.close(pair.now)
            pair.exchange()
        return len(pair.a.tcp.sockets) + len(pair.b.tcp.sockets)

    assert measured(CONNECTIONS, run) == 0
