"""The real command in namespaces, with Debian's wireguard-go as its peer: see world.py."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from bench.implementations import eventually
from tests.netns.command import BIN, start_tunneld, tunnelctl
from tests.netns.conftest import address
from tests.netns.world import (
    FAR,
    INNER,
    INNER6,
    PORT,
    World,
    everything_through_the_tunnel,
    wg,
)
from tools.netlab import Lab

pytestmark = pytest.mark.root


def test_bound_to_cellular_nothing_leaves_on_wifi(world: World) -> None:
    tunneld = world.start("--bind", "cellular")
    line = tunneld.expect("binding cellular")
    assert "leaves only on wwan0 (cellular, by name wwan0, a guess)" in line
    assert "other programs are not restricted (that is --include-all-networks)" in line
    tunneld.expect("connected: handshake complete")
    assert world.ping()
    assert world.ping(INNER6)
    report = tunnelctl(world.client, "status", world.interface)
    assert (report["schema"], report["status"], report["kill_switch"]) == (1, "connected", "off")
    assert (report["path"]["interface"], report["path"]["type"]) == ("wwan0", "cellular")
    assert report["path"]["gateways"] == ["10.2.0.1", "fd00:2::1"]
    (peer,) = report["peers"]
    assert peer["endpoint"] == f"{FAR}:{PORT}"
    assert peer["handshake_age"] < 60
    assert min(peer["rx_bytes"], peer["tx_bytes"]) > 500
    counters = tunnelctl(world.client, "stats", world.interface)["counters"]
    assert all(isinstance(value, int) for value in counters.values())
    assert world.outer("wwan0") > 6
    assert world.outer("wlan0") == 0
    assert tunnelctl(world.client, "down", world.interface)["status"] == "disconnected"
    assert tunneld.wait() == 0
    assert world.leftovers() == []


def test_without_a_binding_the_routes_decide(world: World) -> None:
    """The control of the test above: the same taps see what they must not see there."""
    tunneld = world.start()
    assert "--bind SPEC restricts it" in tunneld.expect("no binding")
    tunneld.expect("connected: handshake complete")
    assert world.ping()
    assert world.outer("wlan0") > 3
    assert world.outer("wwan0") == 0
    assert tunneld.end() == 0
    assert world.leftovers() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_wifi_comes_and_goes_and_nothing_changes(world: World, workers: int) -> None:
    tunneld = world.start("--bind", "cellular", "--workers", str(workers))
    tunneld.expect("connected")
    for _ in range(3):
        world.client.ip("link set wlan0 down")
        assert world.ping(count=1)
        world.client.ip("link set wlan0 up")
        address(world.client, "wlan0", 1, 100)
        assert world.ping(count=1)
    assert world.outer("wlan0") == 0
    assert tunneld.end(signal.SIGINT) == 0
    assert not [line for line in tunneld.lines if "reasserting" in line]
    assert world.leftovers() == []


def test_losing_cellular_stops_the_traffic_and_wifi_stays_silent(world: World) -> None:
    tunneld = world.start("--bind", "cellular")
    tunneld.expect("connected")
    assert world.ping()
    world.client.ip("link set wwan0 down")
    said = tunneld.expect("reasserting: waiting: no permitted interface")
    assert "wwan0 (cellular) is down" in said
    assert not world.ping(count=2, check=False)
    report = tunnelctl(world.client, "status", world.interface)
    assert report["status"] == "reasserting"
    assert report["path"]["status"] == "satisfiable"
    assert report["path"]["interface"] is None
    world.client.ip("link set wwan0 up")
    address(world.client, "wwan0", 2, 200)
    tunneld.expect("connected")
    assert world.ping()
    assert world.outer("wlan0") == 0
    assert tunneld.end() == 0
    assert world.leftovers() == []


def test_the_tunnels_mtu_follows_the_path(world: World) -> None:
    tunneld = world.start("--bind", "cellular")
    tunneld.expect("connected")
    mtu = Path(f"/sys/class/net/{world.interface}/mtu")
    for outer, inner in ((1400, 1320), (1280, 1280), (1500, 1420)):
        world.routers["wwan0"].ip(f"link set down0 mtu {outer}")
        world.client.ip(f"link set wwan0 mtu {outer}")
        tunneld.expect("path: ")
        eventually("the MTU", lambda w=inner: world.client.run(f"cat {mtu}").stdout == f"{w}\n")
        assert world.ping(INNER, count=1)
        # At 1280 the outer packets are fragmented; the far end has to learn that first.
        world.client.run(f"ping -c5 -i0.2 -W2 -M do -s {inner - 28} {INNER}")
    assert tunneld.end() == 0


def test_warnings_of_the_configuration_are_shown(world: World) -> None:
    world.config.chmod(0o644)
    world.config.parent.chmod(0o755)
    tunneld = world.start()
    assert "chmod 600" in tunneld.expect("warning: ")
    tunneld.expect("connected")
    assert tunneld.end() == 0


def test_addresses_that_were_added_later_are_saved_with_the_rest(world: World) -> None:
    world.config.write_text(world.config.read_text().replace("[Peer]", "SaveConfig = true\n[Peer]"))
    tunneld = world.start()
    tunneld.expect("connected")
    world.client.ip(f"addr add 10.9.7.7/32 dev {world.interface}")
    world.client.ip(f"addr del 10.9.0.2/24 dev {world.interface}")
    assert tunneld.end() == 0
    saved = [line for line in world.config.read_text().splitlines() if "Address" in line]
    assert saved == ["Address = fd09::2/64", "Address = 10.9.7.7/32"]


def test_an_interface_that_is_made_again_is_used_again(world: World, lab: Lab) -> None:
    tunneld = world.start("--bind", "if:wwan0")
    tunneld.expect("connected")
    world.client.ip("link del wwan0")
    assert "wwan0 is absent" in tunneld.expect("reasserting")
    cell = world.routers["wwan0"]
    cell.run("nft delete chain netdev tap in")
    lab.link(world.client, "wwan0", cell, "down0")
    world.client.sysctl("net.ipv4.conf.wwan0.rp_filter", 1)
    cell.ip("addr add 10.2.0.1/24 dev down0")
    cell.ip("-6 addr add fd00:2::1/64 dev down0 nodad")
    address(world.client, "wwan0", 2, 200)
    tunneld.expect("connected")
    assert world.ping()
    assert world.outer("wlan0") == 0
    assert tunneld.end() == 0


def test_it_waits_for_a_permitted_interface_and_says_so(world: World) -> None:
    world.client.ip("link set wwan0 down")
    tunneld = world.start("--bind", "cellular")
    assert "leaves nowhere yet" in tunneld.expect("binding cellular")
    assert "wwan0 (cellular) is down" in tunneld.expect("waiting: no permitted interface")
    assert tunnelctl(world.client, "status", world.interface)["status"] == "connecting"
    world.client.ip("link set wwan0 up")
    address(world.client, "wwan0", 2, 200)
    tunneld.expect("connected")
    assert world.ping()
    assert world.outer("wlan0") == 0
    assert tunneld.end() == 0


def test_prohibited_wins_and_a_class_can_be_corrected(world: World) -> None:
    tunneld = world.start(
        "--bind", "cellular,wifi", "--prohibit", "expensive,wwan0", "--classify", "wlan0=cellular"
    )
    line = tunneld.expect("and prohibiting")
    assert "leaves only on wlan0 (cellular, as configured)" in line
    tunneld.expect("connected")
    assert world.ping()
    assert world.outer("wwan0") == 0
    assert tunneld.end() == 0


def test_all_traffic_through_the_tunnel_over_cellular(world: World) -> None:
    everything_through_the_tunnel(world)
    world.server.ip("addr add 198.51.100.7/32 dev lo")
    world.server.ip("-6 addr add 2001:db8:7::7/128 dev lo nodad")
    tunneld = world.start("--bind", "cellular")
    tunneld.expect("connected")
    for target in (INNER, "198.51.100.7", "2001:db8:7::7"):
        assert world.ping(target)
    assert world.outer("wlan0") == 0
    assert world.outer("wwan0") > 9
    assert tunneld.end() == 0
    assert world.leftovers() == []


def test_wg_can_change_mark_and_port_under_a_default_route(world: World) -> None:
    everything_through_the_tunnel(world)
    tunneld = world.start("--bind", "cellular")
    tunneld.expect("connected")
    for mark, shown in (("0x1234", "0x1234"), ("0", "0x74")):
        wg(f"set {world.interface} fwmark {mark} listen-port 4{len(shown)}123")
        rules = [r for r in world.client.ip("rule").splitlines() if "fwmark" in r]
        assert len(rules) == 1
        assert f"not from all fwmark {shown}" in rules[0]
        assert wg(f"show {world.interface} listen-port") == f"4{len(shown)}123"
        # Its own packets must not go into the tunnel: the mark is on the sockets too.
        assert world.ping()
    assert world.outer("wlan0") == 0
    assert tunneld.end() == 0
    assert world.leftovers() == []


def test_two_tunnels_share_a_machine(world: World, tmp_path: Path) -> None:
    everything_through_the_tunnel(world)
    first = world.start("--bind", "cellular")
    first.expect("connected")
    other = tmp_path / f"{world.interface}o.conf"
    other.touch(0o600)
    other.write_text(f"[Interface]\nPrivateKey = {wg('genkey')}\nAddress = 10.66.0.1/24\n")
    second = start_tunneld(world.client, "--config", str(other), "--bind", "wifi")
    second.expect("leaves only on wlan0")
    second.expect("waiting for `wg set`")
    done = world.client.run([str(BIN / "tunnelctl"), "status"], check=False)
    assert (done.returncode, "several tunnels run" in done.stderr) == (2, True)
    assert world.ping()
    assert second.end() == 0
    assert world.ping()
    assert world.outer("wlan0") == 0
    assert first.end() == 0
    assert world.leftovers() == []


def test_what_a_killed_one_left_is_removed_by_the_next(world: World) -> None:
    everything_through_the_tunnel(world)
    tunneld = world.start("--bind", "cellular")
    tunneld.expect("connected")
    assert tunneld.end(signal.SIGKILL) == -signal.SIGKILL
    assert len(world.leftovers()) > 5
    again = world.start("--bind", "cellular")
    again.expect("that a crashed tunneld left")
    again.expect("connected")
    assert world.ping()
    assert again.end() == 0
    assert world.leftovers() == []


@pytest.mark.parametrize("what", ["interface", "socket"])
def test_it_ends_in_order_when_interface_or_socket_is_removed(world: World, what: str) -> None:
    everything_through_the_tunnel(world)
    tunneld = world.start("--bind", "cellular")
    tunneld.expect("connected")
    if what == "interface":
        world.client.ip(f"link del {world.interface}")
    else:
        Path(f"/var/run/wireguard/{world.interface}.sock").unlink()
    assert tunneld.wait() == 0
    assert any("was deleted" in line or "was removed" in line for line in tunneld.lines)
    assert world.leftovers() == []
