"""Moving between Wi-Fi and cellular, with Debian's wireguard-go as the far end: see world.py."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from bench.implementations import eventually
from tests.netns.command import tunnelctl
from tests.netns.conftest import address
from tests.netns.test_policy_resolver import ZONE, serving
from tests.netns.world import FAR, INNER, PORT, World, make_world
from tools.netlab import Lab

pytestmark = pytest.mark.root

INITIATION = 148
"""Bytes."""


@pytest.fixture
def world(lab: Lab, tmp_path: Path) -> World:
    return make_world(lab, tmp_path)


class Pinging:
    """A ping every 5 ms through the tunnel, `count` times; `lost` waits for its end."""

    def __init__(self, world: World, count: int) -> None:
        self.process = world.client.start(
            f"ping -c {count} -i 0.005 -W 2 -n {INNER}",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        for _ in range(3):
            self.process.stdout.readline()

    def lost(self) -> int:
        """Return how many did not come back."""
        text = self.process.communicate(timeout=60)[0]
        sent, received = re.findall(r"(\d+) packets transmitted, (\d+) received", text)[0]
        return int(sent) - int(received)


def used(world: World) -> str | None:
    return tunnelctl(world.client, "status", world.interface)["path"]["interface"]


def down(world: World, interface: str) -> None:
    world.client.ip(f"link set {interface} down")


def up(world: World, interface: str) -> None:
    world.client.ip(f"link set {interface} up")
    number = {"wlan0": 1, "wwan0": 2}[interface]
    address(world.client, interface, number, 100 * number)


def binding(world: World, text: str) -> str:
    """Turn the configuration into TOML with this [binding]; return its path."""
    lines = world.config.read_text().splitlines()
    values = dict(line.split(" = ", 1) for line in lines if " = " in line)
    path = world.config.with_suffix(".toml")
    path.touch(0o600)
    path.write_text(
        f'[interface]\nprivate_key = "{values["PrivateKey"]}"\n'
        f'addresses = "{values["Address"]}"\n[binding]\n{text}\n'
        f'[[peer]]\npublic_key = "{values["PublicKey"]}"\nendpoint = "{values["Endpoint"]}"\n'
        f'allowed_ips = "{values["AllowedIPs"]}"\n'
    )
    world.config = path
    return str(path)


def test_a_better_path_is_proven_first_and_no_packet_is_lost(world: World) -> None:
    binding(world, 'bind = "wifi,cellular"\ndwell = 0.5\nhold_down = 0')
    down(world, "wlan0")
    tunneld = world.start()
    tunneld.expect("connected")
    assert used(world) == "wwan0"
    ping = Pinging(world, 1000)  # long enough to see the old path let go, too
    up(world, "wlan0")
    tunneld.expect("proving wlan0")
    tunneld.expect("moved to wlan0")
    assert ping.lost() == 0
    assert used(world) == "wlan0"
    assert not [line for line in tunneld.lines if "reasserting" in line]
    assert tunneld.end() == 0
    assert world.leftovers() == []


def test_wifi_that_returns_fails_and_comes_back_costs_one_move(world: World) -> None:
    """The times are a tenth of the usual ones: hold-down 0.3 s, dwell 1.5 s."""
    binding(world, 'bind = "wifi,cellular"\nhold_down = 0.3\ndwell = 1.5')
    down(world, "wlan0")
    tunneld = world.start()
    tunneld.expect("connected")
    ping = Pinging(world, 800)
    up(world, "wlan0")
    assert world.ping(count=16)  # 0.8 s
    down(world, "wlan0")
    assert world.ping(count=4)
    up(world, "wlan0")
    tunneld.expect("moved to wlan0")
    assert ping.lost() == 0
    assert tunneld.end() == 0
    assert len([line for line in tunneld.lines if ": moved to" in line]) == 1
    assert not [line for line in tunneld.lines if "reasserting" in line]


def nothing_lost(world: World) -> bool:
    """Whether both ends took all that the other sent.

    The initiation that proves a path is counted as no peer's at this end.
    """
    to_far, from_far = world.missing()
    return to_far <= 0 and to_far % INITIATION == 0 and from_far == 0


@pytest.mark.parametrize("direction", ["up", "down"])
def test_tcp_crosses_a_move_without_a_loss(world: World, direction: str) -> None:
    binding(world, 'bind = "wifi,cellular"\ndwell = 0.5\nhold_down = 0')
    down(world, "wlan0")
    tunneld = world.start()
    tunneld.expect("connected")
    serving = world.server.start("iperf3 -s -1", stdout=subprocess.DEVNULL)
    eventually("iperf3", lambda: ":5201" in world.server.run("ss -tln").stdout)
    # A small window: the far end's receive buffer is small, and is not what is tested.
    words = f"iperf3 -c {INNER} -t 4 -b 20M -w 32K --json{' -R' if direction == 'down' else ''}"
    client = world.client.start(words, stdout=subprocess.PIPE, text=True)
    eventually("data", lambda: world.outer("wwan0") > 100)
    up(world, "wlan0")
    tunneld.expect("moved to wlan0")
    report = json.loads(client.communicate(timeout=30)[0])
    assert serving.wait(10) == 0
    assert report["end"]["sum_received"]["bytes"] > 5e6
    assert world.outer("wlan0") > 100
    # TCP may take for a loss what one path carried past the other: the tunnel's own count tells.
    eventually("all that was sent", lambda: nothing_lost(world))
    # The control: a packet that is lost is missing.
    block(world, "wlan0", "out")
    world.client.run(f"ping -c1 -W0.1 {INNER}", check=False)
    assert not nothing_lost(world)
    assert tunneld.end() == 0


@pytest.mark.parametrize("how", ["carrier", "address", "gone"])
def test_a_path_that_dies_is_left_within_a_second(world: World, how: str) -> None:
    tunneld = world.start("--bind", "wifi,cellular")
    tunneld.expect("connected")
    assert used(world) == "wlan0"
    ping = Pinging(world, 400)
    if how == "carrier":
        world.routers["wlan0"].ip("link set down0 down")
    elif how == "address":
        world.client.ip("addr flush dev wlan0")
    else:
        world.client.ip("link del wlan0")
    eventually("the other path", lambda: used(world) == "wwan0")
    assert ping.lost() < 100  # a second: without answers ping sends one in 10 ms
    assert not [line for line in tunneld.lines if "reasserting" in line]
    assert tunneld.end() == 0


def block(world: World, interface: str, *directions: str) -> None:
    """Lose the tunnel's packets on a path without a word, beyond what the client can see."""
    rules = {
        "out": f"iifname down0 udp dport {PORT} drop",
        "back": f"oifname down0 udp sport {PORT} drop",
    }
    words = "add table ip hole; add chain ip hole f { type filter hook forward priority 0; }; "
    words += "; ".join(f"add rule ip hole f {rules[one]}" for one in directions)
    world.routers[interface].run(["nft", words])


def unblock(world: World, interface: str) -> None:
    world.routers[interface].run("nft delete table ip hole")


def test_a_path_that_dies_in_silence_is_left_within_six_seconds(world: World) -> None:
    binding(world, 'bind = "wifi,cellular"\ndwell = 0.5')
    tunneld = world.start()
    tunneld.expect("connected")
    assert used(world) == "wlan0"
    ping = Pinging(world, 1400)
    block(world, "wlan0", "out", "back")
    tunneld.expect("proving wwan0")
    tunneld.expect("moved to wwan0")
    assert ping.lost() < 600  # six seconds: without answers ping sends one in 10 ms
    assert used(world) == "wwan0"
    reason = tunnelctl(world.client, "status", world.interface)["path"]["reason"]
    assert reason.startswith("wwan0 stays in use until wlan0 answers")
    assert tunneld.end() == 0


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param(("out",), id="no way there"),
        pytest.param(("out", "back"), id="nothing", marks=pytest.mark.long),
    ],
)
def test_a_path_that_does_not_answer_is_not_moved_to(world: World, lost: tuple[str, ...]) -> None:
    binding(world, 'bind = "wifi,cellular"\ndwell = 0.5\nhold_down = 0')
    down(world, "wlan0")
    tunneld = world.start()
    tunneld.expect("connected")
    block(world, "wlan0", *lost)
    ping = Pinging(world, 1200)
    up(world, "wlan0")
    tunneld.expect("proving wlan0")
    said = tunneld.expect("not moving to wlan0: the far end does not answer over it")
    assert "wwan0 stays in use, the next try is in 15 s" in said
    assert ping.lost() == 0
    assert used(world) == "wwan0"
    assert not [line for line in tunneld.lines if "reasserting" in line]
    assert tunneld.end() == 0
    assert world.leftovers() == []


def test_the_policy_of_a_running_tunnel_changes_without_dropping_it(world: World) -> None:
    binding(world, 'bind = "cellular"')
    tunneld = world.start()
    tunneld.expect("connected")
    ping = Pinging(world, 600)
    done = world.tunnelctl("set", world.interface, "--bind", "wifi,cellular")
    assert (done.returncode, done.stderr) == (0, "")
    tunneld.expect("moved to wlan0")  # at once, but proven: no dwell for what the user asks for
    # What is not permitted any more is left without a proof.
    done = world.tunnelctl("set", world.interface, "--prohibit", "wifi", "--avoid", "expensive")
    assert "wwan0 (cellular" in done.stdout
    before = world.outer("wlan0")
    assert ping.lost() < 10
    assert world.outer("wlan0") == before
    assert used(world) == "wwan0"
    done = world.tunnelctl("set", world.interface, "--bind", "celular")
    assert (done.returncode, "--bind: 'celular' is neither" in done.stderr) == (2, True)
    # A reload brings back what the file says, and may say something new.
    Path(world.config).write_text(Path(world.config).read_text().replace("cellular", "wifi"))
    assert world.tunnelctl("reload", world.interface).returncode == 0
    assert used(world) == "wlan0"
    done = world.tunnelctl("set", world.interface, "--bind", "")
    assert "the default route" in done.stdout
    assert world.ping()
    assert not [line for line in tunneld.lines if "reasserting" in line]
    assert tunneld.end() == 0
    assert world.leftovers() == []


def taps(world: World, interface: str) -> int:
    """What the client sent over an interface but ARP and neighbour discovery: any IP packet."""
    shown = world.routers[interface].run("nft -j list counter netdev wire sent").stdout
    return int(json.loads(shown)["nftables"][1]["counter"]["packets"])


def tap(world: World) -> None:
    for router in world.routers.values():
        router.run(
            ["nft", "add table netdev wire; add counter netdev wire sent; add chain netdev wire in "
             "{ type filter hook ingress device down0 priority 0; }; add rule netdev wire in "
             "ip protocol { udp, tcp } counter name sent; add rule netdev wire in "
             "ip6 nexthdr { udp, tcp } counter name sent"]
        )  # fmt: skip


def test_bound_to_cellular_a_flapping_wifi_never_sees_a_packet_or_a_lookup(world: World) -> None:
    text = world.config.read_text().replace(f"{FAR}:", "vpn.example:")
    world.config.write_text(text)
    path = Path(binding(world, 'bind = "cellular"'))
    servers = "".join(f'[interfaces.{n}]\ndns = "{FAR}"\n' for n in ("wlan0", "wwan0"))
    path.write_text(path.read_text() + servers)
    named = ZONE["vpn.example.", "A"]
    world.server.ip(f"addr add {named}/32 dev lo")
    for number, router in enumerate(world.routers.values(), start=3):
        router.ip(f"route add {named} via 10.{number}.0.2")
    tap(world)
    flaps = "".join(
        "link set wlan0 down\nlink set wlan0 up\n"
        "route replace default via 10.1.0.1 dev wlan0 metric 100\n"
        for _ in range(100)
    )
    batch = path.with_suffix(".batch")
    batch.write_text(flaps)
    with serving(world.server):
        tunneld = world.start()
        tunneld.expect("connected")
        ping = Pinging(world, 400)
        world.client.ip(f"-batch {batch}")
        address(world.client, "wlan0", 1, 100)  # down costs an interface its IPv6 address
        assert ping.lost() == 0
        assert tunneld.end() == 0
        assert taps(world, "wlan0") == 0
        assert not [line for line in tunneld.lines if "reasserting" in line]
        # The control: on Wi-Fi the same tap sees the lookup and what follows it.
        tunneld = world.start("--bind", "wifi")
        tunneld.expect("connected")
        assert taps(world, "wlan0") > 2
        assert tunneld.end() == 0


def test_a_tunnel_interface_that_is_renamed_goes_on(world: World) -> None:
    tunneld = world.start("--bind", "cellular")
    tunneld.expect("connected")
    other = f"{world.interface}z"
    world.client.ip(f"link set {world.interface} down")
    world.client.ip(f"link set {world.interface} name {other}")
    world.client.ip(f"link set {other} up")
    tunneld.expect(f"renamed the tunnel's interface to {other}")
    eventually("the tunnel", lambda: world.ping(count=1, check=False))
    # It is still not taken for a path, and the network may change.
    world.client.ip("link set wlan0 down")
    assert world.ping()
    assert used(world) == "wwan0"
    assert tunneld.end() == 0
    assert world.leftovers() == []
