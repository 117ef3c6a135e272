"""The connected socket of a real tunnel: where it is bound, and what ends it."""

from __future__ import annotations

import pytest

from tests.netns.command import tunnelctl
from tests.netns.world import FAR, INNER, PORT, World, wg

pytestmark = pytest.mark.root


def sent(world: World, by: str) -> int:
    """Return the tunnel's packets over an interface while the inside is pinged."""
    before = world.outer(by)
    assert world.ping(INNER)
    return world.outer(by) - before


def settles(world: World, *ends: str) -> bool:
    """Whether the sockets come to be connected so while there is traffic."""
    tries = (world.ping(count=1, check=False) and world.connected() == [*ends] for _ in range(40))
    return any(tries)


def test_it_is_where_the_others_are(world: World) -> None:
    tunneld = world.start("--bind", "cellular")
    tunneld.expect("connected")
    assert world.connected() == ["10.2.0.2%wwan0"]
    assert sent(world, "wwan0") >= 3
    assert tunnelctl(world.client, "stats", world.interface)["counters"]["tx_connected"] >= 3
    # To the other network: the old one hears no more of us.
    heard = world.outer("wwan0")
    tunnelctl(world.client, "set", "--bind", "wifi", world.interface)
    assert settles(world, "10.1.0.2%wlan0")
    assert sent(world, "wlan0") >= 3
    assert world.outer("wwan0") == heard
    # Our address is another one now: nothing of the old one is left, and the tunnel goes on.
    world.client.ip("addr del 10.1.0.2/24 dev wlan0")
    world.client.ip("addr add 10.1.0.7/24 dev wlan0")
    world.client.ip("route replace default via 10.1.0.1 dev wlan0 metric 100")
    assert settles(world, "10.1.0.7%wlan0")
    # Another peer comes: there is nobody to single out.
    wg(f"set {world.interface} peer {wg('genkey')} allowed-ips 10.9.0.77/32")
    assert world.connected() == []
    assert sent(world, "wlan0") >= 3
    assert wg(f"show {world.interface} endpoints").count(f"{FAR}:{PORT}") == 1
    assert tunneld.end() == 0


def test_it_can_be_switched_off(world: World) -> None:
    tunneld = world.start("--bind", "cellular", "--without", "connected-udp")
    tunneld.expect("connected")
    assert sent(world, "wwan0") >= 3
    assert world.connected() == []
    assert tunneld.end() == 0
