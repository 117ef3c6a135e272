"""The resolvers of a real tunneld, with real resolvers' programs, in a room of their own (room.py).

client lan0 10.1.0.2 -- 10.1.0.1 router: its resolver is 10.1.0.1:53
       tunnel interface (the loopback provider), and `inside`, which stands for its far end
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.implementations import eventually
from tests.netns.command import BIN, Program, start_tunneld, tunnelctl
from tests.netns.room import Room, make_room, resolved_in, start_resolved
from tests.netns.test_policy_resolver import serving
from tests.netns.world import FAR, INNER, PORT, make_world
from tools.netlab import Lab, Namespace

pytestmark = pytest.mark.root

MACHINE = Path("/etc/resolv.conf")
OLD = "nameserver 10.1.0.1\n"
OURS = ["nameserver 10.9.0.53", "nameserver fd09::53", "search lan"]


@pytest.fixture(autouse=True)
def _nothing_of_the_machine_is_touched() -> Iterator[None]:
    def seen() -> tuple[bytes, list[str]]:
        return MACHINE.read_bytes(), sorted(p.name for p in MACHINE.parent.glob("*resolv*"))

    before = seen()
    yield
    assert seen() == before


@pytest.fixture
def client(lab: Lab) -> Namespace:
    client, router = lab.namespace("client"), lab.namespace("router")
    lab.link(client, "lan0", router, "down0")
    client.ip("addr add 10.1.0.2/24 dev lan0")
    client.ip("route add default via 10.1.0.1")
    router.ip("addr add 10.1.0.1/24 dev down0")
    return client


def config(tmp_path: Path, dns: str = "") -> Path:
    path = tmp_path / f"dn{os.getpid()}.toml"
    path.write_text(
        '[interface]\naddresses = "10.9.0.2/24"\n[dns]\n'
        f'servers = ["10.9.0.53", "fd09::53"]\nsearch = "lan"\n{dns}'
    )
    path.chmod(0o600)
    return path


def start(room: Room, tmp_path: Path, dns: str = "") -> Program:
    program = start_tunneld(room, "--config", str(config(tmp_path, dns)), "--provider", "loopback")
    program.expect("ready")
    return program


def lines(room: Room) -> list[str]:
    return [line for line in room.resolv_conf.splitlines() if not line.startswith("#")]


def etc(room: Room) -> list[str]:
    return sorted(p.name for p in (room.inside / "etc").glob("*resolv.conf*"))


def test_the_file_is_guarded_and_given_back(client: Namespace, tmp_path: Path) -> None:
    room = make_room(client, tmp_path, OLD)
    tunneld = start(room, tmp_path)
    assert any("DNS: 10.9.0.53, fd09::53 through /etc/resolv.conf" in x for x in tunneld.lines)
    assert lines(room) == OURS
    room.rewrite("nameserver 8.8.8.8\n")
    eventually("ours again", lambda: lines(room) == OURS)
    assert tunneld.end() == 0
    assert (room.resolv_conf, etc(room)) == (OLD, ["resolv.conf"])


@pytest.mark.parametrize("mender", ["tunnelctl", "tunneld"])
def test_after_a_crash_the_original_comes_back(
    client: Namespace, tmp_path: Path, mender: str
) -> None:
    room = make_room(client, tmp_path, OLD)
    tunneld = start(room, tmp_path)
    assert tunneld.end(signal.SIGKILL) == -signal.SIGKILL
    assert lines(room) == OURS
    if mender == "tunnelctl":
        done = room.run([str(BIN / "tunnelctl"), "status"], check=False)
        assert "put /etc/resolv.conf back" in done.stderr
    else:
        again = start(room, tmp_path, 'match_domains = ["~."]\n')
        assert lines(room) == OURS
        assert again.end() == 0
    assert (room.resolv_conf, etc(room)) == (OLD, ["resolv.conf"])


def test_a_mounted_file_is_written_in_place(client: Namespace, tmp_path: Path) -> None:
    room = make_room(client, tmp_path, OLD)
    room.run("cp /etc/resolv.conf /run/mounted")
    room.run("mount --bind /run/mounted /etc/resolv.conf")
    tunneld = start(room, tmp_path)
    assert lines(room) == OURS
    room.rewrite("nameserver 8.8.8.8\n")
    eventually("ours again", lambda: lines(room) == OURS)
    assert tunneld.end(signal.SIGKILL) == -signal.SIGKILL
    assert lines(room) == OURS
    tunneld = start(room, tmp_path)
    assert tunneld.end() == 0
    assert (room.resolv_conf, etc(room)) == (OLD, ["resolv.conf"])
    assert not list((room.inside / "var/lib/tunneld").glob("resolv*"))


def test_a_file_that_cannot_be_written_is_an_error_that_names_it(
    client: Namespace, tmp_path: Path
) -> None:
    room = make_room(client, tmp_path, OLD)
    room.run("mount --bind /etc /etc")
    room.run("mount -o remount,bind,ro /etc")
    words = ["--config", str(config(tmp_path)), "--provider", "loopback"]
    tunneld = start_tunneld(room, *words)
    assert tunneld.wait() == 1
    assert "/etc/resolv.conf cannot be written: Read-only file system" in tunneld.lines[-1]
    assert room.resolv_conf == OLD


def test_a_file_that_is_the_machines_is_not_for_other_namespaces(
    client: Namespace, tmp_path: Path
) -> None:
    """As with `ip netns exec` where no file is mounted for the namespace (here in a room)."""
    room = make_room(client, tmp_path, OLD, named=True)
    words = ["--config", str(config(tmp_path)), "--provider", "loopback"]
    tunneld = start_tunneld(room, *words)
    assert tunneld.wait() == 1
    assert "this is another network namespace; make /etc/netns/" in tunneld.lines[-1]
    assert (room.resolv_conf, etc(room)) == (OLD, ["resolv.conf"])
    room.run("touch /run/mounted")
    room.run("mount --bind /run/mounted /etc/resolv.conf")  # what `ip netns exec` does
    tunneld = start(room, tmp_path)
    assert lines(room) == OURS
    assert tunneld.end() == 0


# ---- resolvconf ----


def test_openresolv_is_told_and_crashed_records_are_taken_back(
    client: Namespace, tmp_path: Path
) -> None:
    room = make_room(client, tmp_path, OLD, "openresolv")
    room.run(["resolvconf", "-a", "lan0.dhcp"], input=OLD)
    assert lines(room) == OLD.splitlines()
    tunneld = start(room, tmp_path)
    assert any("through resolvconf" in line for line in tunneld.lines)
    assert sorted(lines(room)) == sorted(OURS)  # openresolv writes search first
    room.rewrite("nameserver 8.8.8.8\n")
    eventually("ours again", lambda: sorted(lines(room)) == sorted(OURS))
    room.run(["resolvconf", "-a", "lan0.dhcp"], input="nameserver 10.1.0.99\n")  # a renewal
    eventually("ours still", lambda: sorted(lines(room)) == sorted(OURS))
    assert tunneld.end(signal.SIGKILL) == -signal.SIGKILL
    done = room.run([str(BIN / "tunnelctl"), "status"], check=False)
    assert "took back the resolvers of dn" in done.stderr
    assert lines(room) == ["nameserver 10.1.0.99"]
    tunneld = start(room, tmp_path)
    assert tunneld.end() == 0
    assert lines(room) == ["nameserver 10.1.0.99"]


def test_debians_resolvconf_would_list_others_too_so_the_file_is_guarded_as_well(
    client: Namespace, tmp_path: Path
) -> None:
    room = make_room(client, tmp_path, "", "resolvconf")
    room.run("mkdir -p /run/resolvconf/interface")
    room.run("touch /run/resolvconf/enable-updates /run/resolvconf/resolv.conf")
    room.run("rm /etc/resolv.conf")
    link = "/run/resolvconf/resolv.conf"
    room.run(f"ln -s {link} /etc/resolv.conf")
    room.run(["resolvconf", "-a", "lan0.dhclient"], input=OLD)
    assert "nameserver 10.1.0.1" in room.run("cat /etc/resolv.conf").stdout
    tunneld = start(room, tmp_path)
    assert lines(room) == OURS
    assert tunneld.end() == 0
    assert room.run("readlink /etc/resolv.conf").stdout.strip() == link
    assert "10.9.0.53" not in room.run("cat /etc/resolv.conf").stdout
    assert "nameserver 10.1.0.1" in room.run("cat /etc/resolv.conf").stdout


# ---- systemd-resolved ----

STUB = "nameserver 127.0.0.53\noptions edns0\n"


@pytest.fixture
def resolving(client: Namespace, tmp_path: Path) -> Iterator[tuple[Room, Program]]:
    room = make_room(client, tmp_path, STUB, "systemd-resolved")
    with resolved_in(room) as resolved:
        eventually("resolved", lambda: not room.run("resolvectl dns", check=False).returncode)
        room.run("resolvectl dns lan0 10.1.0.1")
        yield room, resolved


def link_dns(room: Room, what: str) -> list[str]:
    """Return what resolvectl shows of the tunnel's link."""
    shown = room.run(f"resolvectl {what} dn{os.getpid()}").stdout
    return shown.partition("):")[2].split()


def test_resolved_gets_servers_in_order_and_all_names(
    resolving: tuple[Room, Program], tmp_path: Path
) -> None:
    room, _ = resolving
    tunneld = start(room, tmp_path)
    assert any("through systemd-resolved" in line for line in tunneld.lines)
    servers = ["10.9.0.53", "fd09::53"]
    assert link_dns(room, "dns") == servers
    assert link_dns(room, "domain") == ["lan", "~."]
    assert link_dns(room, "default-route") == ["yes"]
    assert room.resolv_conf == STUB  # it leads to resolved already
    for words in (f"dns dn{os.getpid()} 9.9.9.9", f"domain dn{os.getpid()} evil.example"):
        room.run(f"resolvectl {words}")
    eventually("ours again", lambda: link_dns(room, "dns") == servers)
    eventually("ours again", lambda: link_dns(room, "domain") == ["lan", "~."])
    room.rewrite("nameserver 8.8.8.8\n")  # past resolved
    eventually("the stub", lambda: lines(room)[:1] == ["nameserver 127.0.0.53"])
    assert tunneld.end() == 0
    assert "10.9.0.53" not in room.run("resolvectl").stdout


def test_resolved_that_starts_again_is_told_again(
    resolving: tuple[Room, Program], tmp_path: Path
) -> None:
    room, resolved = resolving
    tunneld = start(room, tmp_path)
    resolved.end()
    room.run("rm -rf /run/systemd/resolve/netif")  # where it keeps links' settings
    again = start_resolved(room)
    eventually("it runs", lambda: not room.run("resolvectl dns", check=False).returncode)
    eventually("ours again", lambda: link_dns(room, "dns") == ["10.9.0.53", "fd09::53"])
    assert tunneld.end(signal.SIGKILL) == -signal.SIGKILL  # its settings go with the link
    eventually("gone", lambda: "10.9.0.53" not in room.run("resolvectl").stdout)
    assert room.resolv_conf == STUB
    again.end()


def test_split_dns_sends_each_name_to_its_own_resolver(lab: Lab, tmp_path: Path) -> None:
    """Through a real tunnel: the match domain's names to its far end, all others never there."""
    world = make_world(lab, tmp_path)
    room = make_room(world.client, tmp_path, STUB, "systemd-resolved")
    toml = world.config.with_suffix(".toml")
    toml.touch(0o600)
    toml.write_text(
        f'[interface]\nprivate_key = "{world.private}"\naddresses = "10.9.0.2/24"\n'
        f'[[peer]]\npublic_key = "{world.server_public}"\nendpoint = "{FAR}:{PORT}"\n'
        f'allowed_ips = "10.9.0.0/24"\n[dns]\nservers = "{INNER}"\n'
    )
    with (
        resolved_in(room),
        serving(world.routers["wlan0"], address="10.1.0.1") as outside,
        serving(lab.namespaces["server"], address=INNER) as inside,
    ):
        eventually("resolved", lambda: not room.run("resolvectl dns", check=False).returncode)
        room.run("resolvectl dns wlan0 10.1.0.1")
        tunneld = start_tunneld(room, "--config", str(toml))
        tunneld.expect("connected")

        def ask(*names: str) -> tuple[set[str], set[str]]:
            """Return which names the far end and the network were asked."""
            for name in names:
                words = f"resolvectl query -4 --cache=no --synthesize=no {name}"
                room.run(words, check=False)
            asked = [{q.split()[0] for _, q in s.questions} for s in (inside, outside)]
            inside.questions.clear()
            outside.questions.clear()
            return asked[0], asked[1]

        assert ask("vpn.example", "four.example") == ({"vpn.example.", "four.example."}, set())
        toml.write_text(toml.read_text() + 'match_domains = ["vpn.example"]\n')
        report = tunnelctl(room, "reload", world.interface)
        assert report["status"] == "connected"
        assert ask("vpn.example", "four.example") == ({"vpn.example."}, {"four.example."})
        assert tunneld.end() == 0
        assert ask("vpn.example", "four.example") == (set(), {"vpn.example.", "four.example."})
