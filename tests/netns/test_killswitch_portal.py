"""A captive portal's opening in the kill switch: for one user, or one control group, and a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from tests.netns.command import BIN, Program, tunnelctl
from tests.netns.echo import asked, listening
from tests.netns.world import World
from tools.netlab import Lab
from tunnel.policy.killswitch.kernel import WITHOUT

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("default_routes")]
PORTAL, PORTAL6 = "198.51.100.1", "2001:db8:5::1"
MOUNT = "mount -t cgroup2 none /sys/fs/cgroup && "  # in a mount namespace of the command's own
GROUP = f"tunneld-test-{os.getpid()}"
BROWSE = (
    "import os,socket,sys\n"
    "if len(sys.argv)>2: os.setuid(int(sys.argv[2]))\n"
    "s=socket.create_connection((sys.argv[1],80),timeout=1);s.send(b'x');s.recv(9)"
)


@pytest.fixture
def world(world: World) -> World:
    """A portal behind each link that is asked from an address of that link."""
    for router in world.routers.values():
        router.ip(f"addr add {PORTAL}/32 dev lo")
        router.ip(f"-6 addr add {PORTAL6}/128 dev lo")
    return world


@pytest.fixture
def group(lab: Lab) -> Iterator[str]:
    """A control group below the root; skips where the kernel has no cgroup2."""
    space = lab.namespace("groups")
    made = space.run(["sh", "-c", f"{MOUNT} mkdir -p /sys/fs/cgroup/{GROUP}/below"], check=False)
    if made.returncode:
        pytest.skip(f"no cgroup2 here: {made.stderr}")
    yield GROUP
    space.run(["sh", "-c", f"{MOUNT} rmdir /sys/fs/cgroup/{GROUP}/below /sys/fs/cgroup/{GROUP}"])


def start(world: World, *arguments: str) -> Program:
    words = [str(BIN / "tunneld"), "--config", str(world.config), "--bind", "cellular"]
    command = f'{MOUNT} exec "$@"'
    words += ["--include-all-networks", *arguments]
    return Program(world.client, "sh", "-c", command, "tunneld", *words)


def browses(world: World, group: str = "", *, user: str = "", to: str = PORTAL) -> bool:
    """Whether a program of that control group and user gets the portal's page."""
    command = f"{MOUNT} echo $$ >/sys/fs/cgroup/{group}/cgroup.procs && " if group else ""
    words = [sys.executable, "-c", BROWSE, to, *([user] if user else [])]
    done = world.client.run(["sh", "-c", f'{command} exec "$@"', "sh", *words], check=False)
    return done.returncode == 0


@pytest.mark.parametrize("link", ["wlan0", pytest.param("wwan0", marks=pytest.mark.long)])
def test_an_opening_is_for_one_user_and_a_time(world: World, link: str) -> None:
    """Also on the link that other programs would not take, under a strict rp_filter."""
    client, router = world.client, world.routers[link]
    with listening(router, 80), listening(router, 80, PORTAL6):
        if link == "wlan0":  # the one that is preferred
            assert browses(world, user="65534")  # the control
        tunneld = start(world)
        tunneld.expect("connected")
        assert not browses(world, user="65534")
        refused = client.run(
            [str(BIN / "tunnelctl"), "killswitch", "portal", link, "--user", "root",
             "--seconds", "9"], check=False,
        )  # fmt: skip
        assert refused.returncode == 2
        for nowhere in ("lo", world.interface, "eth77"):
            words = ("portal", nowhere, "--user", "65534", "--seconds", "3")
            assert tunnelctl(client, "killswitch", *words, check=False).returncode == 2
        words = ("portal", link, "--user", "65534", "--seconds", "3")
        report = tunnelctl(client, "killswitch", *words)
        assert f"captive portal on {link} for user 65534" in report["opening"]
        tunneld.expect(f"KILL SWITCH OPENED: captive portal on {link}")
        said = tunnelctl(client, "status", world.interface)["kill_switch_opening"]
        assert f"captive portal on {link}" in said
        assert browses(world, user="65534")
        assert browses(world, user="65534", to=PORTAL6)
        assert not asked(client, PORTAL, 80)  # another user
        assert world.ping()
        tunneld.expect("the opening has ended")
        assert not browses(world, user="65534")
        assert tunnelctl(client, "status", world.interface)["kill_switch_opening"] is None
    assert tunneld.end() == 0
    assert world.leftovers() == []


@pytest.mark.parametrize("link", [pytest.param("wlan0", marks=pytest.mark.long), "wwan0"])
def test_an_opening_is_for_one_control_group_and_a_time(
    world: World, group: str, link: str
) -> None:
    client, router = world.client, world.routers[link]
    with listening(router, 80), listening(router, 80, PORTAL6):
        tunneld = start(world)
        tunneld.expect("connected")
        assert not browses(world, group)
        words = ("portal", link, "--cgroup", f"/{group}", "--seconds", "3")
        report = tunnelctl(client, "killswitch", *words)
        assert f"captive portal on {link} for control group {group}" in report["opening"]
        tunneld.expect("KILL SWITCH OPENED")
        assert browses(world, group)
        assert browses(world, group, to=PORTAL6)
        assert browses(world, f"{group}/below")
        assert not browses(world)  # another group
        assert world.ping()
        explained = tunnelctl(client, "explain", PORTAL, world.interface)["packets"]
        assert explained[0]["interface"] == world.interface
        tunneld.expect("the opening has ended")
        assert not browses(world, group)
    assert tunneld.end() == 0
    assert world.leftovers() == []


def test_where_it_cannot_be_told_or_is_not_there_nothing_opens(
    world: World, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WITHOUT, "cgroup")
    tunneld = start(world)
    tunneld.expect("connected")
    base = ("killswitch", "portal", "wlan0", "--seconds", "9", "--cgroup")
    with listening(world.routers["wlan0"], 80):
        for name, code, why in (
            (group, 5, "cannot tell control groups"),
            ("/", 2, "everything is in the root"),
            ("none/such", 2, "there is no control group 'none/such'"),
        ):
            done = world.client.run([str(BIN / "tunnelctl"), *base, name], check=False)
            assert (done.returncode, why in done.stderr) == (code, True), done.stderr
            assert not browses(world, group)
    assert tunnelctl(world.client, "killswitch")["opening"] is None
    assert world.ping()
    assert tunneld.end() == 0
