"""Debian's wg-quick brings tunneld up and down, with all traffic sent into the tunnel.

    host 10.8.0.2, fd08::2 ---- 10.8.0.1, fd08::1 peer (wireguard-go, 10.9.0.1, fd09::1 inside)

After `wg-quick down` nothing may be left of either program, not even when the next `up` comes
while the former daemon is still ending.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.netns.command import Program
from tests.netns.world import wg
from tools.netlab import Lab, Namespace

pytestmark = pytest.mark.root

ROUNDS = 50
BIN = Path(sys.executable).parent
PORT = 51820


@dataclass
class Quick:
    """A host whose wg-quick uses tunneld."""

    host: Namespace
    interface: str
    config: Path

    def run(self, what: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PATH": f"{os.environ['PATH']}:{BIN}",
            "WG_QUICK_USERSPACE_IMPLEMENTATION": "tunneld",
        }
        return self.host.run(["wg-quick", what, str(self.config)], env=environment)

    def daemon(self) -> int:
        """Return a descriptor of the daemon's process, which is readable once it has ended."""
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(f"/run/tunneld/{self.interface}.sock")
            answer = control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return os.pidfd_open(struct.unpack("3i", answer)[0])

    def leftovers(self) -> list[str]:
        """What `up` made, by itself or through tunneld, and what is still there."""
        found = [line for line in self.host.ip("-br link").splitlines() if self.interface in line]
        for version in (4, 6):
            routes = self.host.ip(f"-{version} route show table all").splitlines()
            found += [route for route in routes if self.interface in route]
            rules = self.host.ip(f"-{version} rule").splitlines()
            found += [rule for rule in rules if not re.match(r"(0|32766|32767):", rule)]
        found += self.host.run("nft list tables").stdout.splitlines()
        for folder in ("/run/tunneld", "/var/run/wireguard"):
            found += [str(path) for path in Path(folder).glob(f"{self.interface}.*")]
        inode = Path(f"/run/netns/{self.host.name}").stat().st_ino
        return found + [str(path) for path in Path("/run/tunneld").glob(f"routes-{inode}-*")]


def ended(daemon: int) -> bool:
    try:
        return bool(select.select([daemon], [], [], 20)[0])
    finally:
        os.close(daemon)


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Quick]:
    with Lab() as lab:
        yield make(lab, tmp_path)


def make(lab: Lab, tmp_path: Path) -> Quick:
    for program in ("wg-quick", "wireguard-go"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt install wireguard-tools wireguard-go")
    host, peer = lab.namespace("host"), lab.namespace("peer")
    if host.run("ip link add probe type wireguard", check=False).returncode == 0:
        pytest.skip("wg-quick uses the kernel's own WireGuard here, and no tunneld")
    lab.link(host, "eth0", peer, "eth0")
    keys = {who: wg("genkey") for who in ("host", "peer")}
    public = {who: wg("pubkey", key) for who, key in keys.items()}
    for space, number in ((peer, 1), (host, 2)):
        space.ip(f"addr add 10.8.0.{number}/24 dev eth0")
        space.ip(f"-6 addr add fd08::{number}/64 dev eth0 nodad")
    device, interface = f"qg{os.getpid()}", f"qt{os.getpid()}"
    program = Program(peer, "env", "LOG_LEVEL=verbose", "wireguard-go", "-f", device)
    program.expect("UAPI listener started")
    peer.run(
        f"wg set {device} listen-port {PORT} private-key /dev/stdin peer {public['host']} "
        "allowed-ips 10.9.0.2/32,fd09::2/128",
        input=keys["peer"],
    )
    peer.ip(f"addr add 10.9.0.1/32 dev {device}")
    peer.ip(f"-6 addr add fd09::1/128 dev {device} nodad")
    peer.ip("addr add 203.0.113.9/32 dev lo")
    peer.ip(f"link set {device} up mtu 1420")
    peer.ip(f"route add 10.9.0.2/32 dev {device}")
    peer.ip(f"-6 route add fd09::2/128 dev {device}")
    config = tmp_path / f"{interface}.conf"
    config.touch(0o600)
    config.write_text(
        f"[Interface]\nPrivateKey = {keys['host']}\nAddress = 10.9.0.2/32, fd09::2/128\n"
        f"[Peer]\nPublicKey = {public['peer']}\nEndpoint = 10.8.0.1:{PORT}\n"
        "AllowedIPs = 0.0.0.0/0, ::/0\n"
    )
    return Quick(host, interface, config)


def test_up_and_down_fifty_times_and_nothing_is_left(quick: Quick) -> None:
    key = Path(f"/var/lib/tunneld/{quick.interface}.key")
    assert quick.leftovers() == []
    try:
        for number in range(ROUNDS):
            quick.run("up")
            assert len(quick.leftovers()) >= 8
            assert wg(f"show {quick.interface} fwmark") == hex(PORT)
            if number % 10 == 0:
                for target in ("203.0.113.9", "fd09::1"):
                    quick.host.run(f"ping -c1 -W5 {target}")
            daemon = quick.daemon()
            quick.run("down")
            if number % 2:
                assert ended(daemon)
                assert quick.leftovers() == []
            else:
                os.close(daemon)  # the next `up` comes while this one may be ending still
        # The key that tunneld keeps for the name is its own; wg-quick gave it another.
        assert wg("pubkey", key.read_text()) != wg("pubkey", _private_key(quick.config))
    finally:
        key.unlink(missing_ok=True)


def _private_key(config: Path) -> str:
    found = re.search("PrivateKey = (.*)", config.read_text())
    assert found
    return found[1]


def test_an_up_that_fails_is_told_to_wg_quick(quick: Quick) -> None:
    """wg-quick stops at once, and leaves nothing, where tunneld says no."""
    socket_path = Path(f"/run/tunneld/{quick.interface}.sock")
    socket_path.parent.mkdir(exist_ok=True)
    socket_path.touch()
    try:
        with pytest.raises(RuntimeError, match="is there and is not a socket; remove it"):
            quick.run("up")
    finally:
        socket_path.unlink()
        Path(f"/var/lib/tunneld/{quick.interface}.key").unlink(missing_ok=True)
    assert quick.leftovers() == []
