"""Two hosts joined by a wire, and a tunnel between them.

    host a 10.99.0.1, fd99::1 a0 ------------- b0 host b 10.99.0.2, fd99::2
           10.77.0.1, fd77::1 tunnel ..... tunnel 10.77.0.2, fd77::2

Both ends run the same implementation, on the same machine: figures compare implementations with
each other and with the wire alone, not with what two machines would reach.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass

from bench import nebula
from bench.implementations import Daemon, Implementation, eventually
from tools.netlab import Lab, Namespace

PORT = 51820
MTU = 1420
OFFLOADS = "tx {0} sg {0} tso {0} gso {0} gro {0}"
_serial = itertools.count()


@dataclass
class Wire:
    """The two hosts. `far` is where b is reached without a tunnel."""

    a: Namespace
    b: Namespace
    far: str = "10.99.0.2"

    @contextlib.contextmanager
    def without_offloads(self) -> Iterator[None]:
        """Let the wire carry single packets, as a real one does, while the block runs."""
        self._set_offloads("off")
        try:
            yield
        finally:
            self._set_offloads("on")

    def _set_offloads(self, state: str) -> None:
        for space, name in ((self.a, "a0"), (self.b, "b0")):
            space.run(f"ethtool -K {name} {OFFLOADS.format(state)}")


@dataclass
class Tunnel:
    """A running tunnel between the hosts; `far` is where b is reached through it."""

    a: Daemon
    b: Daemon
    far: str = "10.77.0.2"

    @property
    def daemons(self) -> tuple[Daemon, Daemon]:
        """Both ends."""
        return self.a, self.b


@contextlib.contextmanager
def wired() -> Iterator[Wire]:
    """Make the hosts and the wire."""
    with Lab() as lab:
        wire = Wire(lab.namespace("a"), lab.namespace("b"))
        lab.link(wire.a, "a0", wire.b, "b0")
        for number, space in enumerate((wire.a, wire.b), start=1):
            name = f"{'ab'[number - 1]}0"
            space.ip(f"addr add 10.99.0.{number}/24 dev {name}")
            space.ip(f"-6 addr add fd99::{number}/64 dev {name} nodad")
        yield wire


@contextlib.contextmanager
def tunnelled(wire: Wire, implementation: Implementation) -> Iterator[Tunnel]:
    """Run an implementation at both ends until the block ends."""
    with contextlib.ExitStack() as stack:
        names = [f"sb{os.getpid()}x{next(_serial)}{side}" for side in "ab"]
        configs = ["", ""]
        if not implementation.uapi:
            configs = stack.enter_context(nebula.configured(names, MTU))
        a, b = (
            stack.enter_context(Daemon(implementation, space, name, config))
            for space, name, config in zip((wire.a, wire.b), names, configs, strict=True)
        )
        if implementation.uapi:
            _configure(a, b)
        tunnel = Tunnel(a, b)
        eventually(
            f"{implementation.name}: ping through the tunnel",
            lambda: not wire.a.run(f"ping -c1 -W1 {tunnel.far}", check=False).returncode,
        )
        yield tunnel


def _configure(a: Daemon, b: Daemon) -> None:
    """Make the two each other's only peer, by `wg set`."""
    keys = [a.wg("genkey").strip() for _ in range(2)]
    public = [a.wg("pubkey", given=key).strip() for key in keys]
    for number, daemon in enumerate((a, b), start=1):
        far = 3 - number
        daemon.wg(
            f"set {{interface}} listen-port {PORT} private-key /dev/stdin"
            f" peer {public[far - 1]} endpoint 10.99.0.{far}:{PORT}"
            f" allowed-ips 10.77.0.{far}/32,fd77::{far}/128",
            given=keys[number - 1],
        )
        daemon.space.ip(f"link set {daemon.interface} mtu {MTU} up")
        daemon.space.ip(f"addr add 10.77.0.{number}/24 dev {daemon.interface}")
        daemon.space.ip(f"-6 addr add fd77::{number}/64 dev {daemon.interface} nodad")
