"""tunneld as a command: reload, hooks, the background, exit codes, --check. See world.py."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import pytest

from tests.netns.command import BIN, start_tunneld, tunnelctl
from tests.netns.world import (
    FAR,
    PORT,
    World,
    everything_through_the_tunnel,
    wg,
)

pytestmark = pytest.mark.root


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
    tunneld.expect("ready")
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
        "2 usage": ([tunneld, "--socks5", "127.0.0.1:1080"], 2, "--socks5 needs --config"),
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
    assert re.search(r"rule \d+ \(IPv4\): from all oif wwan0 lookup \d+", done.stdout)
    assert world.private not in done.stdout
    assert world.leftovers() == []
