"""Moving between Wi-Fi and cellular, with Debian's wireguard-go as the far end: see world.py."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.netns.command import tunnelctl
from tests.netns.conftest import address
from tests.netns.world import INNER, World, make_world
from tools.netlab import Lab

pytestmark = pytest.mark.root


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
