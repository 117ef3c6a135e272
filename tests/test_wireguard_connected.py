"""When a device's only peer has a connected socket. The sockets are real, the engine is a fake."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from providers.wireguard.connected import Connected
from tests.wireguard_world import Node, World
from tunnel import Endpoint, OuterSockets
from tunnel.testing import FakeEngine

HERE, THERE = ip_address("127.0.0.1"), ip_address("127.0.0.2")


class Engine(FakeEngine):
    """One worker, and what it was told about connected sockets."""

    workers = 1
    connected: Endpoint | None = None

    def connect_outer(self, endpoint: Endpoint, fd: int) -> None:
        assert fd >= 0 or self.connected == endpoint
        self.connected = endpoint if fd >= 0 else None


class Settled:
    """A peer that a handshake has just been completed with, and sockets to reach it."""

    def __init__(self) -> None:
        self.world = World()
        self.node, self.far = self.world.pair()
        self.node.engine.__class__ = Engine
        self.engine: Engine = self.node.engine  # type: ignore[assignment]
        self.outer = OuterSockets()
        self.outer.open()
        self.connected = Connected(self.node.device)
        self.handshake()
        self.end = replace(self.node.info(self.far).endpoint, address=THERE, source=HERE)
        self.at(self.end)

    def handshake(self) -> None:
        self.node.device.connect(self.world.clock.now, self.far.public)
        self.world.run(6)

    def at(self, end: Endpoint | None) -> Endpoint | None:
        """Return what the socket is connected to when the peer is there."""
        self.engine.set_endpoint(self.node.peer(self.far).id, end)
        return self.look()

    def look(self) -> Endpoint | None:
        self.connected.look(self.outer)
        return self.engine.connected

    def another(self) -> Node:
        return self.world.node("10.0.0.3")


@pytest.fixture
def settled() -> Iterator[Settled]:
    one = Settled()
    yield one
    one.outer.close()


def test_after_a_handshake_there_is_one_until_the_peer_is_elsewhere(settled: Settled) -> None:
    assert settled.engine.connected == settled.end
    for elsewhere in (
        {"port": 9},
        {"address": HERE},
        {"source": THERE},
        {"source": None},
        {"path": 1},
    ):
        assert settled.at(replace(settled.end, **elsewhere)) is None  # type: ignore[arg-type]
        assert settled.at(settled.end) == settled.end
    assert settled.at(None) is None


def test_a_peer_that_moved_has_none_before_another_handshake(settled: Settled) -> None:
    moved = replace(settled.end, port=4000)
    assert settled.at(moved) is None
    assert settled.look() is None
    settled.engine.set_endpoint(settled.node.peer(settled.far).id, Endpoint(*settled.far.place))
    settled.handshake()
    assert settled.at(moved) == moved


@pytest.mark.parametrize("what", ["keys", "peers", "sockets", "path"])
def test_it_goes_with_what_it_depends_on(settled: Settled, what: str) -> None:
    match what:
        case "keys":
            settled.engine.erase_keys(settled.node.peer(settled.far).id)
        case "peers":
            settled.node.add(settled.another())
        case "sockets":
            settled.outer.withdraw()
        case "path":
            settled.node.device.moves.path = 1
    assert settled.look() is None


def test_what_cannot_be_connected_is_not_tried_again_and_again(settled: Settled) -> None:
    settled.connected.drop()
    away = replace(settled.end, source=ip_address("203.0.113.9"))  # no address of this machine
    settled.connected = Connected(settled.node.device)
    assert settled.at(away) is None
    opened: list[object] = []
    settled.outer.connect = lambda *a: opened.append(a) or 0  # type: ignore[assignment]
    assert settled.look() is None
    assert not opened


def test_none_where_it_is_not_allowed_or_there_are_workers(settled: Settled) -> None:
    settled.connected.drop()
    settled.connected = Connected(settled.node.device, allowed=False)
    assert settled.look() is None
    settled.engine.workers = 2
    settled.connected = Connected(settled.node.device)
    assert settled.look() is None
