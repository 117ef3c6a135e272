"""The kill switch follows what happens: interfaces are renamed, routes are excluded."""

from __future__ import annotations

import socket

import pytest

from bench.implementations import eventually
from tests.netns.command import tunnelctl
from tests.netns.echo import asked, listening
from tests.netns.world import PORT, World, wg
from tools.netlab import Lab

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("default_routes")]


def test_it_follows_interfaces_that_are_renamed(world: World) -> None:
    client = world.client
    tunneld = world.start("--bind", "cellular", "--include-all-networks")
    tunneld.expect("connected")
    other = f"{world.interface}z"
    client.ip(f"link set {world.interface} name {other}")
    tunneld.expect(f"renamed the tunnel's interface to {other}")
    eventually("the tunnel", lambda: world.ping(count=1, check=False))
    assert tunnelctl(client, "killswitch")["interface"] == world.interface  # of the control socket
    (packet, _) = tunnelctl(client, "explain", "203.0.113.9", world.interface)["packets"]
    assert packet["result"] == f"goes through the tunnel ({other})"
    # A link that is not permitted under its new name: nothing of the tunnel's leaves on it.
    client.ip("link set wwan0 down")
    client.ip("link set wwan0 name wlan9")
    client.ip("link set wlan9 up")
    client.ip("route add default via 10.2.0.1 dev wlan9 metric 9")
    tunneld.expect("waiting: no permitted interface")
    report = tunnelctl(client, "killswitch", world.interface)
    assert report["kill_switch"] == "blocked"
    assert not [rule for rule in report["rules"] if rule["rule"].startswith("server ")]
    client.ip("link set wlan9 down")
    client.ip("link set wlan9 name wwan0")
    client.ip("link set wwan0 up")
    client.ip("route add default via 10.2.0.1 dev wwan0 metric 9")
    eventually("the tunnel", lambda: world.ping(count=1, check=False))
    assert tunneld.end() == 0
    assert world.leftovers() == []


def test_excluded_routes_go_past_it_and_what_is_included_inside_them_does_not(
    world: World,
) -> None:
    client, wifi = world.client, world.routers["wlan0"]
    lines = world.config.read_text()
    keys = dict(line.split(" = ", 1) for line in lines.splitlines() if " = " in line)
    world.config.unlink()
    world.config = world.config.with_suffix(".toml")
    world.config.touch(0o600)
    world.config.write_text(
        f'[interface]\nprivate_key = "{keys["PrivateKey"]}"\naddresses = "10.9.0.2/24"\n'
        f'[[peer]]\npublic_key = "{keys["PublicKey"]}"\nendpoint = "{keys["Endpoint"]}"\n'
        'allowed_ips = ["0.0.0.0/0", "203.0.113.128/25"]\n[routing]\ninclude_all_networks = true\n'
        'excluded_routes = ["203.0.113.0/24", "2001:db8:5::/48"]\n'
    )
    past, inside, far6 = "203.0.113.9", "203.0.113.200", "2001:db8:5::9"
    for one in (past, inside):
        wifi.ip(f"addr add {one}/32 dev lo")
    wifi.ip(f"-6 addr add {far6}/128 dev lo")
    with listening(wifi, 7, past), listening(wifi, 7, inside), listening(wifi, 53, past):
        assert asked(client, inside, 7)  # the control
        assert asked(client, past, 53, socket.SOCK_DGRAM)
        tunneld = world.start("--bind", "cellular")
        tunneld.expect("connected")
        assert asked(client, past, 7)
        assert asked(client, past, 7, socket.SOCK_DGRAM)
        assert client.run(["ping", "-c1", "-W2", far6], check=False).returncode == 0
        assert not asked(client, past, 53, socket.SOCK_DGRAM)
        assert not asked(client, inside, 7)
        with client.entered():
            bold = socket.socket()
        with bold:
            bold.settimeout(0.5)
            bold.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"wlan0")
            with pytest.raises(OSError, match=r"route to host|unreachable|refused|timed out"):
                bold.connect((inside, 7))
        with listening(client, 9), wifi.entered(), socket.socket() as stranger:
            stranger.settimeout(0.5)
            stranger.bind((past, 0))
            with pytest.raises(OSError, match="timed out"):  # what begins there stays outside
                stranger.connect(("10.1.0.2", 9))
        assert world.ping()
    assert tunneld.end() == 0


def test_a_far_end_that_was_left_is_permitted_no_more(world: World, lab: Lab) -> None:
    other = "192.0.2.2"
    lab.namespaces["server"].ip(f"addr add {other}/32 dev lo")
    for number, router in enumerate(world.routers.values(), start=3):
        router.ip(f"route add {other} via 10.{number}.0.2")
    tunneld = world.start("--bind", "cellular", "--include-all-networks")
    tunneld.expect("connected")
    wg(f"set {world.interface} peer {world.server_public} endpoint {other}:{PORT}")
    assert world.ping()
    rules = tunnelctl(world.client, "killswitch", world.interface)["rules"]
    servers = {r["rule"] for r in rules if r["rule"].startswith("server ")}
    assert servers == {f"server {other}", f"server {other}:{PORT} on wwan0"}
    assert tunneld.end() == 0
