"""What can be at the near end of a tunnel whose far end is wireguard-go and the kernel's TCP.

    host a: a near end, the load ------------- host b: wireguard-go, streams.c's server

A near end is a program without root that ends the tunnel itself and offers SOCKS5, or one with a
TUN, through which the kernel's TCP goes. Only the near end differs: the programs that make the
load and the far end are the same for all.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench.implementations import Daemon, Implementation, eventually
from bench.lab import MTU, PORT, Wire
from tools.compiled import compiled

OURS, THEIRS, KERNEL = "tunneld", "wireproxy", "kernel-over-tun"
SOCKS, STREAMS = 1080, 7000
_NOBODY = 65534
_AS_NOBODY = (
    "setpriv", "--reuid", str(_NOBODY), "--regid", str(_NOBODY), "--clear-groups",
)  # fmt: skip
_serial = itertools.count()

_WIREPROXY = """[Interface]
PrivateKey = {private}
Address = 10.77.0.1/32
MTU = {mtu}
[Peer]
PublicKey = {public}
AllowedIPs = 10.77.0.0/24
Endpoint = 10.99.0.2:{port}
[Socks5]
BindAddress = 127.0.0.1:{socks}
"""
_TUNNELD = """[Interface]
PrivateKey = {private}
Address = 10.77.0.1/24
MTU = {mtu}
[Peer]
PublicKey = {public}
AllowedIPs = 10.77.0.0/24
Endpoint = 10.99.0.2:{port}
"""


@dataclass(frozen=True)
class NearEnd:
    """One of them. `proxy` is its SOCKS5 port, 0 where the kernel's TCP is used."""

    name: str
    implementation: Implementation
    config: str
    proxy: int = SOCKS


def _proxy(name: str, *command: str, version: str = "--version") -> Implementation:
    return Implementation(name, command, version=(version,), uapi=False)


TABLE = (
    NearEnd(
        OURS,
        _proxy(OURS, "tunneld", "--userspace", "--config", "{config}", "--socks5",
               f"127.0.0.1:{SOCKS}"),
        _TUNNELD,
    ),
    NearEnd(THEIRS, _proxy(THEIRS, "wireproxy", "--silent", "--config", "{config}"), _WIREPROXY),
    NearEnd(
        KERNEL,
        Implementation(KERNEL, ("tunneld", "{interface}", "--ephemeral-key")),
        "",
        proxy=0,
    ),
)  # fmt: skip


class Proxy(Daemon):
    """A daemon that is configured by a file, as nobody, and ready once its proxy listens."""

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.implementation.name}: ended\n{self.output()}")
        return bool(self.space.run(f"ss -Htln sport = {SOCKS}").stdout.strip())


@dataclass
class Near:
    """A running near end."""

    end: NearEnd
    daemon: Daemon
    far: str = "10.77.0.2"


@contextlib.contextmanager
def joined(
    wire: Wire, end: NearEnd, far: Implementation, *, relay: int | None = None
) -> Iterator[Near]:
    """Run both ends of a tunnel until the block ends.

    With `relay` the near end sends to this port of host b, and the far end is told of nobody, so
    that it knows no way past the relay.
    """
    port = relay or PORT
    name = f"ns{os.getpid()}x{next(_serial)}"
    with contextlib.ExitStack() as stack:
        there = stack.enter_context(Daemon(far, wire.b, f"{name}b"))
        keys = [there.wg("genkey").strip() for _ in range(2)]
        public = [there.wg("pubkey", given=key).strip() for key in keys]
        _configure(there, 2, keys[1], public[0], None if relay else PORT)
        if end.proxy:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="netstack-")))
            here = stack.enter_context(
                _start_proxy(wire, end, folder, name, keys[0], public[1], port)
            )
        else:
            here = stack.enter_context(Daemon(end.implementation, wire.a, f"{name}a"))
            _configure(here, 1, keys[0], public[1], port)
        near = Near(end, here)
        eventually(f"{end.name}: the tunnel", lambda: _passes(wire, near))
        yield near


def _configure(daemon: Daemon, number: int, private: str, peer: str, to: int | None) -> None:
    """Configure a daemon with an interface by `wg set`, and its interface."""
    other = 3 - number
    endpoint = f" endpoint 10.99.0.{other}:{to}" if to else ""
    daemon.wg(
        f"set {{interface}} listen-port {PORT} private-key /dev/stdin peer {peer}"
        f"{endpoint} allowed-ips 10.77.0.{other}/32",
        given=private,
    )
    daemon.space.ip(f"link set {daemon.interface} mtu {MTU} up")
    daemon.space.ip(f"addr add 10.77.0.{number}/24 dev {daemon.interface}")


def _start_proxy(
    wire: Wire, end: NearEnd, folder: Path, name: str, private: str, peer: str, port: int
) -> Proxy:
    config = folder / f"{name}.conf"
    config.touch(0o600)
    words = {"private": private, "public": peer, "mtu": MTU, "port": port, "socks": SOCKS}
    config.write_text(end.config.format(**words))
    for path in (folder, config):
        os.chown(path, _NOBODY, _NOBODY)
    program = end.implementation.program
    assert program
    command = (*_AS_NOBODY, program, *end.implementation.command[1:])
    environment = (f"XDG_RUNTIME_DIR={folder}",)
    as_nobody = replace(end.implementation, command=command, environment=environment)
    return Proxy(as_nobody, wire.a, name, str(config))


def _passes(wire: Wire, near: Near) -> bool:
    words = ["rate", str(near.end.proxy), near.far, str(STREAMS), "1", "1", "1"]
    return wire.a.run([str(streams()), *words], check=False).stdout.startswith("1 ")


@contextlib.contextmanager
def serving(wire: Wire) -> Iterator[None]:
    """Run the server of the load on host b, at all its addresses."""
    words = [str(streams()), "serve", "0.0.0.0", str(STREAMS)]
    server = wire.b.start(words, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    if server.stdout.readline() != "ready\n":
        raise RuntimeError("streams: the server did not start")
    try:
        yield
    finally:
        server.terminate()
        server.wait()


def streams() -> Path:
    """Return the program of streams.c."""
    return compiled(Path(__file__).with_name("streams.c"))
