"""The real command in namespaces, with Debian's wireguard-go as its peer: see world.py."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import pytest

from bench.implementations import eventually
from tests.netns.command import BIN, start_tunneld, tunnelctl
from tests.netns.conftest import address
from tests.netns.world import FAR, INNER, INNER6, PORT, World, make_world, wg
from tools.netlab import Lab

pytestmark = pytest.mark.root


@pytest.fixture
def world(lab: Lab, tmp_path: Path) -> World:
    return make_world(lab, tmp_path)


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
    assert report["path"]["status"] == "unsatisfied"
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


def test_what_is_read_but_not_done_yet_is_named(world: World) -> None:
    text = world.config.read_text().replace("[Peer]", "DNS = 10.9.0.53\n[Peer]")
    world.config.write_text(text)
    world.config.chmod(0o644)
    world.config.parent.chmod(0o755)
    tunneld = world.start()
    assert "chmod 600" in tunneld.expect("warning: ")
    assert "DNS" in tunneld.expect("warning: ")
    tunneld.expect("connected")
    assert tunneld.end() == 0


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


def everything_through_the_tunnel(world: World) -> None:
    text = world.config.read_text()
    world.config.write_text(re.sub("AllowedIPs.*", "AllowedIPs = 0.0.0.0/0, ::/0", text))


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


def test_a_reload_changes_what_differs_and_a_bad_file_nothing(world: World) -> None:
    tunneld = world.start("--bind", "cellular")
    tunneld.expect("connected")
    good = world.config.read_text()
    other = wg("pubkey", wg("genkey"))
    world.config.write_text(f"{good}[Peer]\nPublicKey = {other}\nAllowedIPs = 10.77.0.0/16\n")
    tunneld.process.send_signal(signal.SIGHUP)
    tunneld.expect("reloaded")
    assert other in wg(f"show {world.interface} peers")
    assert "10.77.0.0/16" in world.client.ip("route")
    world.config.write_text(good + "[Peer]\nPublicKey = nonsense\n")
    tunneld.process.send_signal(signal.SIGHUP)
    assert f"{world.config}:9: PublicKey" in tunneld.expect("reload: ")
    assert tunnelctl(world.client, "reload", world.interface, check=False).returncode == 3
    assert other in wg(f"show {world.interface} peers")
    world.config.write_text(good)
    assert tunnelctl(world.client, "reload", world.interface)["status"] == "connected"
    assert other not in wg(f"show {world.interface} peers")
    assert "10.77.0.0/16" not in world.client.ip("route")
    assert world.ping()
    assert tunneld.end() == 0
    assert not [line for line in tunneld.lines if "reasserting" in line]


def test_hooks_nest_around_the_interface(world: World, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    there = "test -e /sys/class/net/%i && there=yes || there=no"
    hooks = "".join(
        f"{phase} = {there}; echo {phase} $there >>{journal}\n"
        for phase in ("PreUp", "PostUp", "PreDown", "PostDown")
    )
    world.config.write_text(world.config.read_text().replace("[Peer]", hooks + "[Peer]"))
    tunneld = world.start()
    tunneld.expect("connected")
    assert tunneld.end() == 0
    assert journal.read_text().split("\n")[:-1] == [
        "PreUp no", "PostUp yes", "PreDown yes", "PostDown no",
    ]  # fmt: skip


def test_a_hook_that_fails_ends_the_start_and_leaves_nothing(world: World) -> None:
    text = world.config.read_text().replace("[Peer]", "PostUp = exit 3\n[Peer]")
    world.config.write_text(text)
    tunneld = world.start("--bind", "cellular")
    assert tunneld.wait() == 1
    assert "PostUp: 'exit 3': exit code 3" in tunneld.lines[-1]
    assert world.leftovers() == []


def test_a_second_one_of_the_same_name_is_refused(world: World) -> None:
    first = world.start()
    first.expect("connected")
    second = world.start()
    assert second.wait() == 1
    assert f"a tunneld runs for {world.interface} already" in second.lines[-1]
    assert world.ping()
    assert first.end() == 0


def test_a_bare_name_goes_to_the_background_and_takes_nothing_but_the_interface(
    world: World,
) -> None:
    key = Path(f"/var/lib/tunneld/{world.interface}.key")
    before = world.leftovers()
    try:
        done = world.client.run([str(BIN / "tunneld"), world.interface])
        # It has returned: interface and UAPI socket are there.
        public = wg(f"show {world.interface} public-key")
        assert done.stdout == f"{public}\n"
        assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert wg("pubkey", key.read_text()) == public
        assert world.leftovers()[0].startswith(f"link {world.interface}")
        assert world.client.ip(f"-br addr show {world.interface}").split()[2:] == []
        world.client.run(
            f"wg set {world.interface} private-key /dev/stdin peer {world.server_public} "
            f"endpoint {FAR}:{PORT} allowed-ips 10.9.0.0/24",
            input=world.private,
        )
        world.client.ip(f"addr add 10.9.0.2/24 dev {world.interface}")
        world.client.ip(f"link set {world.interface} up mtu 1400")
        assert world.ping()
        tunnelctl(world.client, "down", world.interface)
        assert world.leftovers() == before == []
    finally:
        world.client.run([str(BIN / "tunnelctl"), "down", world.interface], check=False)
        key.unlink(missing_ok=True)


def test_a_bare_name_takes_its_binding_from_its_file(world: World) -> None:
    # `ip netns exec` puts what is in /etc/netns/NAME over /etc, for this namespace alone.
    folder = Path("/etc/netns", world.client.name, "tunneld")
    point = Path("/etc/tunneld")
    made = not point.exists()
    point.mkdir(exist_ok=True)
    folder.mkdir(parents=True)
    (folder / f"{world.interface}.toml").write_text('[binding]\nbind = "cellular"\n')
    try:
        tunneld = start_tunneld(world.client, world.interface, "--ephemeral-key", "--foreground")
        tunneld.expect("leaves only on wwan0")
        tunneld.expect("waiting for `wg set`")
        world.client.run(
            f"wg set {world.interface} private-key /dev/stdin peer {world.server_public} "
            f"endpoint {FAR}:{PORT} allowed-ips 10.9.0.0/24 persistent-keepalive 25",
            input=world.private,
        )
        tunneld.expect("connected")
        assert world.outer("wwan0") > 0
        assert world.outer("wlan0") == 0
        assert tunneld.end() == 0
        assert world.leftovers() == []
    finally:
        shutil.rmtree(folder.parent)
        if made:
            point.rmdir()


def test_exit_codes_are_the_contracts(world: World, tmp_path: Path) -> None:
    tunneld, file = str(BIN / "tunneld"), str(world.config)
    broken = tmp_path / "broken.conf"
    broken.write_text("[Interface]\nPrivateKey = short\n")
    no_tun = f"mount -t tmpfs none /dev/net && exec {tunneld} --config {file}"
    cases = {
        "2 usage": ([tunneld, "--socks5", "127.0.0.1:1080"], 2, "--socks5 is not there yet"),
        "3 configuration": ([tunneld, "--config", str(broken)], 3, "broken.conf:2: PrivateKey"),
        "4 privilege": (
            ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin",
             tunneld, "--config", file],
            4,
            "needs CAP_NET_ADMIN",
        ),
        "5 no device": (["unshare", "-m", "sh", "-c", no_tun], 5, "modprobe tun"),
        "1 failure": ([tunneld, "--config", file], 1, "exists and is not ours"),
    }  # fmt: skip
    for what, (command, code, words) in cases.items():
        if code == 1:
            world.client.ip(f"tuntap add {world.interface} mode tun")
        done = world.client.run(command, check=False)
        assert done.returncode == code, (what, done)
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        assert done.stderr.splitlines()[-1].startswith("tunneld: ")
    world.client.ip(f"link del {world.interface}")
    assert world.leftovers() == []


def test_check_applies_nothing_and_needs_no_privilege(world: World) -> None:
    everything_through_the_tunnel(world)
    world.config.parent.chmod(0o755)
    done = world.client.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", str(BIN / "tunneld"),
         "--config", str(world.config), "--bind", "cellular", "--check"]
    )  # fmt: skip
    assert "leaves only on wwan0" in done.stdout
    assert "present: wlan0 (wifi, by name wlan0, a guess): not used: it is not permitted" in (
        done.stdout
    )
    assert re.search(r"route in table \d+: 0.0.0.0/0 via 10.2.0.1 dev wwan0", done.stdout)
    assert re.search(r"rule \d+ \(IPv4\): oif wwan0 lookup \d+", done.stdout)
    assert world.private not in done.stdout
    assert world.leftovers() == []
