"""A room: a host of the lab with a file system of its own where tests change the machine's.

/etc and /usr are overlays (what is written to /etc stays in the room, /usr may have packages that
are unpacked but not installed), /run and /var/lib are empty. So a tunneld in a room keeps and
restores a resolv.conf that is nobody else's.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.command import Program
from tools.netlab import Namespace

ROOT = Path(__file__).parent.parent.parent
UNPACKED = ROOT / ".venv/unpacked"
MADE = "room made"

SETUP = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /var/lib
[ -z "$4" ] || { mkdir /var/lib/netns; mount --rbind /run/netns /var/lib/netns; }
mount -t tmpfs tmpfs /run
[ -z "$4" ] || { mkdir /run/netns; mount --rbind /var/lib/netns /run/netns; }
mkdir -m 755 /run/upper /run/work
[ -z "$1" ] || mount -t overlay -o "lowerdir=$1:/usr" overlay /usr
mount -t overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work overlay /etc
rm -f /etc/resolv.conf
printf '%s' "$2" >/etc/resolv.conf
echo "$3"
exec sleep infinity
"""


class Room(Namespace):
    """A namespace whose commands run in the room's mounts too."""

    def __init__(self, space: Namespace, pid: int) -> None:
        super().__init__(space.name, space.label)
        self.processes = space.processes
        self.pid = pid

    def command(self, command: str | list[str]) -> list[str]:
        inside = super().command(command)[4:]  # without ip netns exec NAME
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--", *inside]

    @property
    def resolv_conf(self) -> str:
        return (self.inside / "etc/resolv.conf").read_text()

    def rewrite(self, text: str) -> None:
        """Do as a careless program does."""
        self.run(["sh", "-c", f"printf '{text}' >/etc/resolv.conf"])

    @property
    def inside(self) -> Path:
        """The room's root, as seen from here (links in it lead astray)."""
        return Path(f"/proc/{self.pid}/root")


def unpacked(package: str) -> Path:
    """Return the /usr of a package that tools/packages has unpacked."""
    folder = UNPACKED / package
    if not folder.is_dir():
        pytest.skip(f"{package} is not unpacked: tools/packages --unpack .venv/unpacked")
    return folder


def make_room(
    space: Namespace, tmp_path: Path, original: str, package: str = "", *, named: bool = False
) -> Room:
    """Make a room with this text in resolv.conf and a package's files in /usr and /etc.

    `named` shows the room that its network namespace is one of `ip netns`.
    """
    usr = ""
    if package:
        folder = unpacked(package)
        usr = str(tmp_path / "usr")
        subprocess.run(["mkdir", "-p", usr], check=True)
        for source in (folder / "usr", folder):  # /sbin and /lib are links into /usr
            names = [source / n for n in ("sbin", "lib", "bin", "share") if (source / n).is_dir()]
            subprocess.run(["cp", "-a", *map(str, names), usr], check=True)
    given = [usr, original, MADE, "named" if named else ""]
    program = Program(space, "unshare", "--mount", "sh", "-c", SETUP, "sh", *given)
    program.expect(MADE)
    room = Room(space, program.process.pid)
    if package and (unpacked(package) / "etc").is_dir():
        room.run(["cp", "-a", f"{unpacked(package)}/etc/.", "/etc/"])
    return room


@contextlib.contextmanager
def resolved_in(room: Room) -> Iterator[Program]:
    """Run a system bus and systemd-resolved in the room."""
    user = "systemd-resolve:x:991:991::/:/usr/sbin/nologin"
    room.run(["sh", "-c", f"echo {user} >>/etc/passwd; echo systemd-resolve:x:991: >>/etc/group"])
    room.run("mkdir -p /run/dbus /run/systemd/resolve")
    room.run("chown 991:991 /run/systemd/resolve")
    bus = Program(
        room, "dbus-daemon", "--system", "--nofork", "--nopidfile", "--nosyslog",
        "--print-address=1", "--address=unix:path=/run/dbus/system_bus_socket",
    )  # fmt: skip
    bus.expect("unix:path")
    try:
        resolved = start_resolved(room)
        yield resolved
        if resolved.process.poll() is None:
            resolved.end()
    finally:
        bus.end()


def start_resolved(room: Room) -> Program:
    """Start systemd-resolved on a bus that is there."""
    return Program(room, "env", "SYSTEMD_LOG_LEVEL=info", "/lib/systemd/systemd-resolved")
