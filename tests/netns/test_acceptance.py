"""What happens to a tunneld that is treated roughly: see world.py for the network."""

from __future__ import annotations

import itertools
import subprocess
import time
from pathlib import Path

import pytest

from tests.netns.command import BIN, PATIENCE, Program, tunnelctl
from tests.netns.conftest import address
from tests.netns.world import (
    FAR,
    INNER,
    PORT,
    World,
    everything_through_the_tunnel,
    wg,
)

pytestmark = pytest.mark.root

FAR_AWAY = "198.51.100.7"  # reached only through the tunnel


def until_it_pings(world: World, target: str = INNER) -> None:
    deadline = time.monotonic() + PATIENCE
    while not world.ping(target, count=1, check=False):
        assert time.monotonic() < deadline, world.client.ip("route show table all")


def test_an_interface_that_was_down_gets_its_routes_and_addresses_back(world: World) -> None:
    everything_through_the_tunnel(world)
    world.server.ip(f"addr add {FAR_AWAY}/32 dev lo")
    tunneld = world.start("--bind", "cellular")
    tunneld.expect("connected")
    assert world.ping(FAR_AWAY)
    world.client.ip(f"link set {world.interface} down")
    assert "fd09::2" not in world.client.ip(f"-6 addr show {world.interface}")
    world.client.ip(f"link set {world.interface} up")
    until_it_pings(world, FAR_AWAY)
    assert "fd09::2" in world.client.ip(f"-6 addr show {world.interface}")
    assert tunneld.end() == 0
    assert world.leftovers() == []


def test_streams_that_are_closed_hurt_nobody(world: World) -> None:
    command = f'exec "{BIN}/tunneld" --config "{world.config}" <&- 2>&- >&-'
    tunneld = Program(world.client, "bash", "-c", command)
    until_it_pings(world)
    tunnelctl(world.client, "down", world.interface)
    assert tunneld.wait() == 0
    assert world.leftovers() == []


def test_ipv6_that_is_switched_off_is_named(world: World) -> None:
    world.client.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
    world.client.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
    tunneld = world.start("--bind", "cellular")
    assert tunneld.wait() == 1
    assert "disable_ipv6=0" in tunneld.lines[-1]
    assert world.leftovers() == []
    lines = world.config.read_text().replace(", fd09::2/64", "").replace(", fd09::/64", "")
    world.config.write_text(lines)
    tunneld = world.start("--bind", "cellular")
    tunneld.expect("connected")
    assert world.ping()
    assert tunneld.end() == 0
    assert world.leftovers() == []


def test_a_route_that_its_prefix_left_behind_stops_nothing(world: World) -> None:
    # What a network leaves when it renumbers: IPv6 keeps the default route of the old prefix.
    world.client.ip("-6 addr flush dev wwan0 scope global")
    assert "default via fd00:2::1" in world.client.ip("-6 route show dev wwan0")
    tunneld = world.start("--bind", "cellular")
    tunneld.expect("connected")
    assert world.ping()
    assert world.outer("wlan0") == 0
    assert tunneld.end() == 0
    assert world.leftovers() == []


def test_a_path_without_the_endpoints_ip_version_is_told(world: World) -> None:
    world.client.ip("-4 addr flush dev wwan0")  # as with a carrier that has IPv6 only
    tunneld = world.start("--bind", "cellular")
    tunneld.expect(f"waiting for an answer from {FAR}:{PORT}, but wwan0 has no IPv4 route")
    assert tunnelctl(world.client, "status", world.interface)["path"]["status"] == "satisfied"
    address(world.client, "wwan0", 2, 200)
    tunneld.expect("connected")
    assert world.outer("wlan0") == 0
    assert tunneld.end() == 0


@pytest.mark.parametrize("binding", [(), ("--bind", "cellular")], ids=["unbound", "bound"])
def test_the_same_configuration_again_costs_no_packet(
    world: World, tmp_path: Path, binding: tuple[str, ...]
) -> None:
    """`wg syncconf` always names port, mark and allowed IPs; nothing may be taken away for that.

    With the mark taken off for a moment the tunnel's own packets would go round in the tunnel.
    """
    everything_through_the_tunnel(world)
    tunneld = world.start(*binding)
    tunneld.expect("connected")
    same = tmp_path / "same.conf"
    port = wg(f"show {world.interface} listen-port")
    lines = [line for line in world.config.read_text().splitlines() if "Address" not in line]
    same.write_text("\n".join([lines[0], f"ListenPort = {port}", *lines[1:], ""]))
    before = tunnelctl(world.client, "stats", world.interface)["counters"]
    pings = world.client.start(f"ping -q -i 0.005 -c 400 {INNER}", stdout=subprocess.PIPE)
    while pings.poll() is None:
        world.client.run(f"wg syncconf {world.interface} {same}")
    assert b" 0% packet loss" in pings.communicate()[0]
    after = tunnelctl(world.client, "stats", world.interface)["counters"]
    assert after["tx_packets"] - before["tx_packets"] <= 400
    assert after["tx_no_socket"] == before["tx_no_socket"]
    assert tunneld.end() == 0
    assert world.leftovers() == []


def test_another_mark_does_not_send_the_tunnel_into_itself(world: World) -> None:
    everything_through_the_tunnel(world)
    tunneld = world.start()
    tunneld.expect("connected")
    pings = world.client.start(f"ping -q -i 0.005 -c 300 {INNER}", stdout=subprocess.PIPE)
    for mark in itertools.cycle((0x99, 0, 0x77)):
        world.client.run(f"wg set {world.interface} fwmark {mark}")
        if pings.poll() is not None:
            break
    counters = tunnelctl(world.client, "stats", world.interface)["counters"]
    assert counters["tx_packets"] <= 300
    world.client.run(f"wg set {world.interface} fwmark 0x99")
    assert "fwmark 0x99" in world.client.ip("rule")
    assert wg(f"show {world.interface} fwmark") == "0x99"
    assert world.ping()
    world.client.run(f"wg set {world.interface} fwmark 0")
    assert wg(f"show {world.interface} fwmark") != "off"  # the default route needs one
    assert world.ping()
    assert tunneld.end() == 0
    assert world.leftovers() == []
