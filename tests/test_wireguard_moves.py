"""From one path to another in virtual time: proofs, what they cost, and silence.

a --path 0, 10.0.0.1-- network -- b, c, each with one path
  --path 1, 10.0.1.1--
"""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from providers.wireguard.messages import SECOND
from providers.wireguard.moves import LEAN_TIME, PROOF_TIME
from providers.wireguard.peer import Phase
from providers.wireguard.status import peer_report
from tests.wireguard_world import PORT, Node, World
from tunnel import Endpoint
from tunnel.testing import Datagram

EVERY = 0.005  # seconds between two packets each way


class Roamer(Node):
    """A node with two paths. What leaves on, or arrives over, a path not in `alive` is lost."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, number, "10.0.0.1")
        self.places = [self.place, (ip_address("10.0.1.1"), PORT)]
        self.alive_out, self.alive_in = {0, 1}, {0, 1}
        for path, place in enumerate(self.places):
            world.network.attach(place, lambda datagram, path=path: self._arrive(datagram, path))

    def _out(self, to: Endpoint, data: bytes, ds: int) -> bool:
        if to.path in self.alive_out:
            self.world.network.send(self.places[to.path], (to.address, to.port), data, ds)
        return True

    def _arrive(self, datagram: Datagram, path: int) -> None:
        if path in self.alive_in:
            address, port = datagram.source
            here = self.places[path][0]
            self.engine.deliver(datagram.data, Endpoint(address, port, path=path, source=here))
            self.pump()

    def left_on(self, path: int, kind: int = 4, since: int = 0) -> int:
        sent = self.world.network.sent
        place = self.places[path]
        return sum(d.source == place and d.data[0] == kind and d.time >= since for d in sent)


class Script:
    def __init__(self, others: int = 1, **network) -> None:
        self.world = World(**network)
        self.a = Roamer(self.world, 1)
        self.world.nodes.append(self.a)
        self.others = [self.world.node(f"10.0.2.{n}") for n in range(1, others + 1)]
        for b in self.others:
            self.a.add(b)
            b.add(self.a)
            self.a.send(b)
        self.b = self.others[0]
        self.world.run(1)
        self.sent: list[tuple[Node, bytes]] = []

    @property
    def moves(self):
        return self.a.device.moves

    @property
    def now(self) -> int:
        return self.world.clock.now

    def prove(self) -> None:
        self.moves.begin_proof(1, self.now)

    def traffic(self, seconds: float, *, up: bool = True, down: bool = True) -> None:
        """Let time pass with a packet each way every 5 ms."""
        for _ in range(round(seconds / EVERY)):
            for one, other in ((self.a, self.b), (self.b, self.a)):
                if up if one is self.a else down:
                    self.sent.append((other, one.send(other)))
            self.world.run(EVERY)

    def lost(self) -> tuple[int, int]:
        """How many of `traffic` did not arrive at b, and at a."""
        self.world.run(0.5)
        got = {node: set(node.received) for node in (self.a, self.b)}
        lost = [node for node, packet in self.sent if packet not in got[node]]
        return lost.count(self.b), lost.count(self.a)


@pytest.mark.parametrize("delay", [(10_000_000, 10_000_000), (1_000_000, 60_000_000)])
def test_a_proven_path_is_moved_to_without_a_loss(delay: tuple[int, int]) -> None:
    script = Script(delay=delay)
    script.traffic(0.1)
    began = script.now
    script.prove()
    assert script.a.left_on(1, kind=1) == 1
    assert script.a.left_on(0, kind=1, since=began) == 0
    assert script.moves.outcome is None
    script.traffic(0.5)
    assert script.moves.outcome is True
    assert script.moves.path == 1
    assert script.a.info(script.b).endpoint.path == 1
    script.moves.confirm()
    script.traffic(0.2)
    moved = script.now
    script.traffic(0.2)
    assert script.a.left_on(0, since=moved) == 0
    assert script.b.info(script.a).endpoint.address == ip_address("10.0.1.1")
    assert script.lost() == (0, 0)
    assert script.a.peer(script.b).phase is Phase.UP


def test_what_a_proof_sends_counts_for_its_peer() -> None:
    script = Script()
    script.prove()
    assert script.a.left_on(1, kind=1) == 1
    left = sum(len(d.data) for d in script.world.network.sent if d.source in script.a.places)
    (peer,) = script.a.device.snapshot().peers
    assert peer.tx_bytes == left
    report = peer_report(script.a.device, script.a.peer(script.b), script.now)
    assert report["tx_bytes"] == left


def test_without_an_answer_the_traffic_stays() -> None:
    script = Script()
    script.a.alive_out = {0}
    script.prove()
    script.traffic(PROOF_TIME / SECOND + 0.1)
    assert script.moves.outcome is False
    assert script.moves.path == 0
    assert script.a.info(script.b).endpoint.path == 0
    assert script.lost() == (0, 0)
    assert script.a.peer(script.b).phase is Phase.UP
    assert script.a.peer(script.b).reason(script.now, has_identity=True) is None


def test_one_lost_message_does_not_refute_a_path() -> None:
    script = Script()
    script.a.alive_in = {0}
    script.prove()
    script.traffic(1)
    script.a.alive_in = {0, 1}
    script.traffic(1)
    assert script.moves.outcome is True


def test_a_path_without_a_way_back_costs_what_one_packet_takes() -> None:
    script = Script()
    script.a.alive_in = {0}
    script.prove()
    script.traffic(PROOF_TIME / SECOND + 0.1)
    assert script.moves.outcome is False
    lost_up, lost_down = script.lost()
    assert lost_up == 0
    # Each initiation draws the peer over until our next packet of data, 5 ms later.
    initiations = script.a.left_on(1, kind=1)
    assert 2 <= initiations <= 4
    assert lost_down <= 2 * initiations


def test_a_quiet_peer_is_brought_back_by_a_keepalive() -> None:
    script = Script()
    script.a.alive_in = {0}
    script.prove()
    script.world.run(1)
    assert script.b.info(script.a).endpoint.address == ip_address("10.0.1.1")
    script.world.run(PROOF_TIME / SECOND)
    assert script.moves.outcome is False
    assert script.b.info(script.a).endpoint.address == ip_address("10.0.0.1")
    script.traffic(0.1, up=False)
    assert script.lost() == (0, 0)


def answer_over_the_old_path(script: Script, times: int) -> None:
    """Let b's next responses go where data that was under way had moved it back to."""
    outlet, left = script.b.engine.outlet, [times]

    def diverted(to: Endpoint, data: bytes, ds: int) -> bool:
        if data[0] == 2 and left[0]:
            left[0] -= 1
            to = Endpoint(script.a.places[0][0], PORT)
        return outlet(to, data, ds)

    script.b.engine.outlet = diverted


def test_an_answer_over_the_old_path_proves_the_way_there_and_the_next_one_both() -> None:
    script = Script()
    script.traffic(0.1)
    answer_over_the_old_path(script, 1)
    script.prove()
    script.traffic(0.03)
    assert script.moves.outcome is None
    assert script.a.info(script.b).endpoint.path == 1  # so that nothing draws b back again
    script.traffic(0.3)
    assert script.moves.outcome is True
    assert script.lost() == (0, 0)


def test_leaning_on_a_path_without_a_way_back_ends_soon() -> None:
    script = Script()
    answer_over_the_old_path(script, 1)
    script.a.alive_in = {0}
    script.prove()
    script.traffic(LEAN_TIME / SECOND + 0.2)
    assert script.moves.outcome is False
    assert script.a.info(script.b).endpoint.path == 0
    before = len(script.a.received)
    script.traffic(0.2)
    assert len(script.a.received) > before + 30


def test_an_answer_to_what_left_before_proves_nothing() -> None:
    script = Script(delay=(50_000_000, 50_000_000))
    script.a.device.erase_keys(script.now)
    script.a.send(script.b)  # an initiation over the old path
    script.a.alive_out = {0}
    script.prove()
    script.world.run(0.09)
    assert script.a.info(script.b).endpoint.path == 0
    script.world.run(6)
    assert script.moves.outcome is False


def test_with_nobody_to_ask_it_just_moves() -> None:
    world = World()
    a = Roamer(world, 1)
    world.nodes.append(a)
    a.add(world.node("10.0.2.1"))
    a.device.moves.begin_proof(1, world.clock.now)
    assert a.device.moves.outcome is True
    world.run(1)
    assert world.network.sent == []
    a.send(world.nodes[1])
    world.run(1)
    assert a.left_on(1, kind=1) == 1


def test_all_peers_move_and_one_that_is_gone_only_takes_time() -> None:
    script = Script(others=3)
    gone = script.others[2]
    script.world.network.detach(gone.place)
    script.prove()
    script.world.run(1)
    assert script.moves.outcome is None
    assert [script.a.info(b).endpoint.path for b in script.others] == [1, 1, 0]
    script.world.run(5)
    assert script.moves.outcome is True
    assert [script.a.info(b).endpoint.path for b in script.others] == [1, 1, 1]


def test_what_overtakes_a_proof_ends_it() -> None:
    script = Script()
    script.a.alive_in = {0}
    script.prove()
    script.traffic(0.5)
    script.moves.forced(0, script.now)
    assert script.moves.outcome is False
    script.a.alive_in = {0, 1}
    script.sent.clear()
    script.traffic(7)
    assert script.moves.path == 0
    assert script.lost() == (0, 0)


def test_a_peer_that_was_asked_for_new_keys_meanwhile_gets_them_later() -> None:
    """The engine asks once; the proof must not swallow it."""
    script = Script()
    script.a.alive_out = {0}
    script.world.run(119)
    script.prove()
    script.traffic(PROOF_TIME / SECOND)
    created = script.a.info(script.b).key_created
    script.traffic(6)
    assert script.moves.outcome is False
    assert script.a.info(script.b).key_created > created
    assert script.lost() == (0, 0)


# ---- silence ----


def test_a_path_that_dies_in_silence_is_suspect_after_5_s() -> None:
    script = Script()
    script.moves.watch(True, script.now)
    script.traffic(0.1)
    script.a.alive_out = script.a.alive_in = {1}
    script.traffic(4.9)
    assert not script.moves.suspect
    script.traffic(0.2)
    assert script.moves.suspect
    script.prove()
    script.traffic(0.3)
    assert script.moves.outcome is True
    assert script.a.info(script.b).endpoint.path == 1
    script.moves.suspect = False
    script.traffic(12)
    assert not script.moves.suspect


def test_the_first_handshake_counts_as_sending() -> None:
    world = World()
    a = Roamer(world, 1)
    world.nodes.append(a)
    b = world.node("10.0.2.1")
    a.add(b)
    a.device.moves.watch(True, world.clock.now)
    a.alive_out = {1}
    a.send(b)
    world.run(4.9)
    assert not a.device.moves.suspect
    world.run(0.2)
    assert a.device.moves.suspect


def test_a_peer_with_nothing_to_say_is_asked_and_not_suspect() -> None:
    script = Script()
    script.moves.watch(True, script.now)
    script.traffic(20, down=False)
    assert not script.moves.suspect
    assert script.lost() == (0, 0)


def test_one_silent_peer_of_two_is_not_the_paths_fault() -> None:
    script = Script(others=2)
    script.moves.watch(True, script.now)
    gone = script.others[1]
    script.world.network.detach(gone.place)
    script.a.send(gone)
    script.traffic(12)
    assert not script.moves.suspect


def test_where_nothing_stands_by_silence_is_nobodys_business() -> None:
    script = Script()
    script.a.alive_out = set()
    script.traffic(20)
    assert not script.moves.suspect
    assert script.a.left_on(0, kind=1) <= 3
