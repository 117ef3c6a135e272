"""Nothing gets past the routers: every sender of leaks.py, in each state, in every facility."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.netns.command import tunnelctl
from tests.netns.leaks import SENDERS, Leaks, make_leaks
from tests.netns.world import (
    FAR,
    PORT,
    World,
    start_closed,
)
from tools.netlab import Lab
from tunnel.policy.killswitch.kernel import WITHOUT

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("default_routes")]
ALL = "owner,absent"
FALLBACKS = ["", ALL, *(pytest.param(some, marks=pytest.mark.long)
                        for some in ("absent", "owner"))]  # fmt: skip


@pytest.fixture
def leaks(lab: Lab, world: World) -> Leaks:
    return make_leaks(lab, world)


def test_the_taps_see_every_sender_while_it_is_open(leaks: Leaks) -> None:
    """The control of all tests here: with a plain tunnel the same senders get through."""
    tunneld = leaks.world.start("--bind", "cellular")
    tunneld.expect("connected")
    assert leaks.probe() > 20
    for space in leaks.children:
        before = leaks.count()
        space.run([sys.executable, SENDERS, "eth0"])
        assert leaks.count() > before, space.label
    assert tunneld.end() == 0
    assert leaks.world.client.run("nft list tables").stdout.strip() == "table ip nat"


@pytest.mark.parametrize("without", FALLBACKS)
def test_nothing_leaks_in_any_state(
    leaks: Leaks, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WITHOUT, without)
    world = leaks.world
    client, cell = world.client, world.routers["wwan0"]
    cell.run(["nft", "add table inet cut; add chain inet cut f { type filter hook forward priority "
              f"0; }}; add rule inet cut f ip daddr {FAR} udp dport {PORT} drop"])  # fmt: skip
    client.ip("link set wwan0 down")
    tunneld = start_closed(world, "--lockdown-on-exit")
    tunneld.expect("waiting: no permitted interface")

    def state() -> str:
        return str(tunnelctl(client, "status", world.interface)["kill_switch"])

    assert state() == "blocked"
    assert leaks.probe() == 0
    client.ip("link set wwan0 up")
    client.ip("route add default via 10.2.0.1 dev wwan0 metric 200")
    tunneld.expect("waiting for an answer")
    assert state() == "connecting"
    assert leaks.probe() == 0
    cell.run("nft delete table inet cut")
    tunneld.expect("connected")
    assert state() == "connected"
    assert world.ping()
    assert world.connected() == ["10.2.0.2%wwan0"]
    assert leaks.probe() == 0
    # A device that comes later, and one that is made again, are judged like the rest.
    client.ip("link del eth9")
    subprocess.run(
        ["ip", "-n", client.name, "link", "add", "eth9", "type", "veth", "peer", "name", "down2",
         "netns", world.routers["wlan0"].name],
        check=True,
    )  # fmt: skip
    world.routers["wlan0"].run(["nft", "add chain netdev leaks later { type filter hook ingress "
                               "device down2 priority 1; }; add rule netdev leaks later meta "
                               "protocol { ip, ip6 } counter name leak"])  # fmt: skip
    client.ip("link set eth9 up")
    assert leaks.probe() == 0
    assert tunneld.end() == 0
    assert leaks.probe() == 0  # --lockdown-on-exit
    assert tunnelctl(client, "killswitch")["kill_switch"] == "blocked"
    assert tunnelctl(client, "killswitch", "off")["kill_switch"] == "off"
    assert leaks.probe() > 20


@pytest.mark.parametrize("rounds", [4, pytest.param(50, marks=pytest.mark.long)])
@pytest.mark.parametrize("without", ["", ALL])
def test_killed_at_any_moment_it_stays_closed(
    leaks: Leaks, without: str, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WITHOUT, without)
    world, dice = leaks.world, random.Random(74)
    client = world.client
    assert tunnelctl(client, "killswitch", "on")["kill_switch"] == "blocked"
    sender = client.start(
        [sys.executable, SENDERS, "--loop", "wlan0,wwan0"], stdout=subprocess.PIPE
    )
    assert sender.stdout is not None
    assert sender.stdout.readline() == b"sending\n"
    before = leaks.count()
    for _ in range(rounds):
        tunneld = start_closed(world)
        time.sleep(dice.uniform(0, 1.2))  # any moment of a start, or after it
        os.kill(tunneld.process.pid, signal.SIGKILL)
        tunneld.wait()
    tunneld = start_closed(world)
    tunneld.expect("taken over")
    tunneld.expect("connected")
    client.run(["kill", "-HUP", str(tunneld.process.pid)])
    tunneld.expect("reloaded")
    assert world.ping()
    assert leaks.count() == before
    sender.kill()
    sender.wait()
    sender.stdout.close()
    assert tunneld.end() == 0
    assert leaks.probe() > 20  # an orderly end opens it
