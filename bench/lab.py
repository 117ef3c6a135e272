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

from bench.implementations import Daemon, Implementation, eventually
from tools.netlab import Lab, Namespace

PORT = 51820
MTU = 1420
OFFLOADS = "tx off sg off tso off gso off gro off"
_serial = itertools.count()


@dataclass
class Wire:
    """The two hosts. `far` is where b is reached without a tunnel."""

    a: Namespace
    b: Namespace
    far: str = "10.99.0.2"


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
def wired(*, offloads: bool = True) -> Iterator[Wire]:
    """Make the hosts and the wire; without `offloads` it carries single packets, as a real one."""
    with Lab() as lab:
        wire = Wire(lab.namespace("a"), lab.namespace("b"))
        lab.link(wire.a, "a0", wire.b, "b0")
        for number, space in enumerate((wire.a, wire.b), start=1):
            name = f"{'ab'[number - 1]}0"
            space.ip(f"addr add 10.99.0.{number}/24 dev {name}")
            space.ip(f"-6 addr add fd99::{number}/64 dev {name} nodad")
            if not offloads:
                space.run(f"ethtool -K {name} {OFFLOADS}")
        yield wire


@contextlib.contextmanager
def tunnelled(wire: Wire, implementation: Implementation) -> Iterator[Tunnel]:
    """Run an implementation at both ends, configured by `wg set`, until the block ends."""
    with contextlib.ExitStack() as stack:
        stem = f"sb{os.getpid()}x{next(_serial)}"
        a, b = (
            stack.enter_context(Daemon(implementation, space, f"{stem}{side}"))
            for side, space in (("a", wire.a), ("b", wire.b))
        )
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
        tunnel = Tunnel(a, b)
        eventually(
            f"{implementation.name}: ping through the tunnel",
            lambda: not wire.a.run(f"ping -c1 -W1 {tunnel.far}", check=False).returncode,
        )
        yield tunnel
