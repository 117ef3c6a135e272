"""Another path under the device: peers learn it at once, and nothing of the old one is kept."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from providers.wireguard.peer import Phase
from tests.wireguard_world import World, ready


def test_a_new_path_is_made_known_at_once():
    world, a, b = ready()
    a.move("10.5.5.5")
    a.device.moves.forced(0, world.clock.now)
    assert len(a.sent(1)) == 1  # by its new place
    world.run(1)
    assert b.info(a).endpoint.address == ip_address("10.5.5.5")
    packet = b.send(a)
    world.run(1)
    assert a.received[-1] == packet


def test_a_new_path_resets_a_series_that_waits():
    world = World()
    a, b = world.pair()
    a.online = False
    a.send(b)
    world.run(2)
    a.online = True
    a.device.moves.forced(0, world.clock.now)
    world.run(1)
    assert a.peer(b).phase is Phase.UP


def test_a_path_that_changes_in_steps_costs_no_retry():
    """Peers drop an initiation that comes within 20 ms of another: they would be quiet for 5 s."""
    world = World()
    a, b = world.pair()
    a.send(b)
    for _ in range(5):
        a.device.moves.forced(0, world.clock.now)
        world.run(0.005)
    world.run(0.5)
    assert a.peer(b).phase is Phase.UP
    assert a.device.counts["handshake_unsolicited"] == 0
    assert b.device.counts["handshake_flooded"] == 0
    assert b.device.counts["handshake_replayed"] == 0


def test_a_new_path_stirs_nobody_that_was_not_talked_to():
    world = World()
    a, _ = world.pair()
    a.device.moves.forced(0, world.clock.now)
    world.run(10)
    assert world.network.sent == []


def test_a_new_path_forgets_the_local_address_of_the_old_one():
    world, a, b = ready()
    peer = a.peer(b)
    here = replace(a.info(b).endpoint, source=ip_address("10.0.0.1"), source_interface=2)
    a.engine.set_endpoint(peer.id, here)
    a.device.moves.forced(0, world.clock.now)
    assert a.info(b).endpoint.source is None
    assert a.info(b).endpoint.source_interface == 0


def test_a_retry_forgets_the_local_address():
    world, a, b = ready()
    here = replace(a.info(b).endpoint, source=ip_address("10.0.0.1"), source_interface=2)
    a.engine.set_endpoint(a.peer(b).id, here)
    b.online = False
    a.device.connect(world.clock.now, b.public)
    world.run(5)  # the limit of 5 s since the first handshake
    assert len(a.sent(1)) == 2
    assert a.info(b).endpoint == here
    world.run(6)
    assert len(a.sent(1)) == 3
    assert a.info(b).endpoint.source is None


def test_without_a_socket_it_keeps_trying_and_says_so():
    world = World()
    a, b = world.pair()
    a.online = False
    a.send(b)
    world.run(12)
    assert "cannot be sent" in a.peer(b).reason(world.clock.now, has_identity=True)
    a.online = True
    world.run(5)
    assert a.peer(b).phase is Phase.UP
