"""Hosts that run a WireGuard daemon each, wired as a star: the first in the middle.

    host 1 e2 10.99.2.1, fd99:2::1 ---- host 2 e0 10.99.2.2, fd99:2::2
           e3 10.99.3.1, fd99:3::1 ---- host 3 e0 10.99.3.2, fd99:3::2
           tunnel 10.77.0.1, fd77::1           tunnel 10.77.0.N, fd77::N

A host's daemon is configured by `wg set` and nothing else, whatever program it is, and everything
that a test learns it learns as a user would: from `wg show`, ping, and the packets themselves.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.implementations import TABLE, Daemon, Implementation, eventually
from tools.netlab import Lab, Namespace
from tunnel.primitives import WITHOUT_CHOICES

IMPLEMENTATIONS = {one.name: one for one in TABLE}
_OURS = IMPLEMENTATIONS["tunneld"]
#: Ours with each of the other ways to seal packets.
CRYPTO = [f"tunneld --crypto {choice}" for choice in ("avx2", "libcrypto")]
#: And with the fallback of each offload, and of all; Linux 6.1 has no tun-uso.
WITHOUT = [f"tunneld --without {choice}" for choice in WITHOUT_CHOICES]
NO_OFFLOADS = "tunneld " + " ".join(f"--without {choice}" for choice in WITHOUT_CHOICES)
WORKERS = [f"tunneld --workers {number}" for number in (2, 8)]
IMPLEMENTATIONS |= {
    name: replace(_OURS, name=name, command=(*_OURS.command, *name.split()[1:]))
    for name in (*CRYPTO, *WITHOUT, NO_OFFLOADS, *WORKERS)
}
#: What is tested, and what it is tested against. The variable proves the tests themselves.
SUBJECT = os.environ.get("TUNNELD_INTEROP_SUBJECT", "tunneld")
REFERENCE = "wireguard-go"
PORT = 51820
MTU = 1420
TUNNELCTL = Path(sys.executable).parent / "tunnelctl"
_serial = itertools.count()

__all__ = [
    "CRYPTO", "MTU", "NO_OFFLOADS", "PORT", "REFERENCE", "SUBJECT", "WITHOUT", "WORKERS", "Host",
    "connect", "eventually", "star",
]  # fmt: skip


class Host:
    """One host, its key pair and its daemon."""

    def __init__(self, space: Namespace, number: int, implementation: Implementation) -> None:
        self.space = space
        self.number = number
        self.interface = f"it{os.getpid()}x{next(_serial)}"
        self.port = PORT
        self.private = self._wg("genkey")
        self.public = self._wg("pubkey", self.private)
        self.preshared: dict[str, str] = {}
        self.daemon = Daemon(implementation, space, self.interface)
        self.configure()

    @property
    def is_tunneld(self) -> bool:
        """Whether tunnelctl can be asked about this host."""
        return self.daemon.implementation.name.startswith("tunneld")

    @property
    def inner(self) -> str:
        """The address in the tunnel."""
        return f"10.77.0.{self.number}"

    @property
    def inner6(self) -> str:
        """The same, IPv6."""
        return f"fd77::{self.number}"

    def outer(self, other: Host, family: int = 4) -> str:
        """The address at which `other` reaches this host without the tunnel."""
        wire, side = max(self.number, other.number), 1 if self.number == 1 else 2
        return f"10.99.{wire}.{side}" if family == 4 else f"fd99:{wire}::{side}"

    # ---- configuration ----

    def _wg(self, command: str, given: str | None = None) -> str:
        return self.space.run(f"wg {command}", input=given).stdout.strip()

    def set(self, arguments: str, given: str | None = None) -> None:
        """Run `wg set` on the tunnel's interface."""
        self._wg(f"set {self.interface} {arguments}", given)

    def configure(self) -> None:
        """Give a daemon that was just started its key, port, addresses and MTU."""
        self.set(f"listen-port {self.port} private-key /dev/stdin", self.private)
        self.space.ip(f"link set {self.interface} mtu {MTU} up")
        self.space.ip(f"addr replace {self.inner}/24 dev {self.interface}")
        self.space.ip(f"-6 addr replace {self.inner6}/64 dev {self.interface} nodad")

    def take_key(self, private: str) -> None:
        """Go over to another key pair."""
        self.private, self.public = private, self._wg("pubkey", private)
        self.set("private-key /dev/stdin", private)

    def add(self, other: Host, extra: str = "", *, family: int = 0) -> None:
        """Make `other` a peer, with its endpoint in a family (0: none, it must come to us)."""
        words = f"peer {other.public} allowed-ips {other.inner}/32,{other.inner6}/128 {extra}"
        if family:
            host = other.outer(self, family)
            words += f" endpoint {host if family == 4 else f'[{host}]'}:{other.port}"
        self.set(words)
        if other.public in self.preshared:
            self.share(other, self.preshared[other.public])

    def remove(self, other: Host) -> None:
        """Forget a peer and its session."""
        self.set(f"peer {other.public} remove")

    def share(self, other: Host, preshared: str) -> None:
        """Set the preshared key with a peer."""
        self.preshared[other.public] = preshared
        self.set(f"peer {other.public} preshared-key /dev/stdin", preshared)

    def restart(self, *, kill: bool = False) -> None:
        """End the daemon and start another, with the same key and no peers."""
        if kill:
            self.daemon.kill()
        else:
            self.daemon.stop()
        eventually("the interface goes", lambda: not self.has_interface())
        self.daemon.start()
        self.configure()

    def has_interface(self) -> bool:
        """Whether the tunnel's interface is there."""
        return not self.space.run(f"ip link show {self.interface}", check=False).returncode

    # ---- what can be seen ----

    def pings(self, address: str, count: int = 1, *, interval: float = 0.2) -> int:
        """Send echo requests and return how many answers came."""
        done = self.space.run(
            f"ping -n -c {count} -i {interval} -W 1 {address}", check=False, timeout=60 + count
        )
        return done.stdout.count("bytes from")

    def reaches(self, other: Host, address: str | None = None, *, within: float = 10) -> None:
        """Wait until `other` answers through the tunnel; TimeoutError when it does not."""
        target = address or other.inner
        try:
            eventually(f"host {self.number} reaches {target}", lambda: self.pings(target), within)
        except TimeoutError as error:
            logs = f"{self.daemon.output()[-3000:]}\n---\n{other.daemon.output()[-3000:]}"
            raise TimeoutError(f"{error}\n{self.show()}\n{other.show()}\n{logs}") from error

    def show(self, what: str = "") -> str:
        """Return `wg show`."""
        return self._wg(f"show {self.interface} {what}")

    def _shown(self, what: str, other: Host) -> list[str]:
        for line in self.show(what).splitlines():
            key, *values = line.split("\t")
            if key == other.public:
                return values
        return []

    def handshake(self, other: Host) -> int:
        """When the last handshake with a peer was, in seconds since 1970; 0 for never."""
        return int(self._shown("latest-handshakes", other)[0])

    def endpoint(self, other: Host) -> str:
        """Where a peer is, as this host knows it."""
        return self._shown("endpoints", other)[0]

    def received(self, other: Host) -> int:
        """Bytes received from a peer."""
        return int(self._shown("transfer", other)[0])

    def sent(self, other: Host) -> int:
        """Bytes sent to a peer."""
        return int(self._shown("transfer", other)[1])

    def ask(self, what: str) -> dict[str, Any]:
        """Return the answer of `tunnelctl WHAT --json`."""
        done = self.space.run([str(TUNNELCTL), what, self.interface, "--json"])
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def counters(self) -> dict[str, int]:
        """Return tunneld's counters by reason."""
        found: dict[str, int] = self.ask("stats")["counters"]
        return found

    def close(self) -> None:
        """End the daemon."""
        self.daemon.__exit__(None, None, None)


@contextlib.contextmanager
def star(*names: str, mtu: int = 1500) -> Iterator[list[Host]]:
    """Make a host for each implementation named, and all that is between them."""
    with Lab() as lab, contextlib.ExitStack() as stack:
        spaces = [lab.namespace(f"h{number}") for number in range(1, len(names) + 1)]
        for number, space in enumerate(spaces[1:], start=2):
            lab.link(spaces[0], f"e{number}", space, "e0")
            for side, (end, name) in enumerate(((spaces[0], f"e{number}"), (space, "e0")), start=1):
                end.ip(f"addr add 10.99.{number}.{side}/24 dev {name}")
                end.ip(f"-6 addr add fd99:{number}::{side}/64 dev {name} nodad")
                end.ip(f"link set {name} mtu {mtu}")
        hosts = []
        for number, (space, name) in enumerate(zip(spaces, names, strict=True), start=1):
            host = Host(space, number, IMPLEMENTATIONS[name])
            stack.callback(host.close)
            hosts.append(host)
        yield hosts


def connect(
    caller: Host, called: Host, *, family: int = 4, preshared: bool = False, extra: str = ""
) -> None:
    """Make two hosts peers; only the caller knows where the other is."""
    caller.add(called, extra, family=family)
    called.add(caller)
    if preshared:
        key = subprocess.run(["wg", "genpsk"], capture_output=True, text=True, check=True).stdout
        caller.share(called, key)
        called.share(caller, key)
