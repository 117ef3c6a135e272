"""How long a start takes: python -m bench.startup [--rounds N]; needs root.

From exec of `tunneld --config` to the first datagram that came back through the tunnel, with the
far end up and waiting. An echo runs on the far host; the near one sends a datagram a millisecond
from the moment of exec on, which fail until there is a route and wait until there is a key. The
modules are compiled before, as those of an installed package are.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.implementations import Daemon, find
from bench.lab import PORT, Wire, wired

ROOT = Path(__file__).parent.parent
ECHO = 7
EVERY = 0.001  # seconds between attempts
LONGEST = 20.0  # seconds
NAME = f"su{os.getpid()}a"


@contextlib.contextmanager
def _far_end(wire: Wire) -> Iterator[tuple[str, str]]:
    """Run the far tunneld and an echo; yields the near private and the far public key."""
    (tunneld,) = find(["tunneld"])
    with Daemon(tunneld, wire.b, f"su{os.getpid()}b") as far, contextlib.ExitStack() as stack:
        near_key, far_key = (far.wg("genkey").strip() for _ in range(2))
        near_public, far_public = (
            far.wg("pubkey", given=key).strip() for key in (near_key, far_key)
        )
        far.wg(
            f"set {{interface}} listen-port {PORT} private-key /dev/stdin"
            f" peer {near_public} allowed-ips 10.77.0.1/32",
            given=far_key,
        )
        wire.b.ip(f"link set {far.interface} mtu 1420 up")
        wire.b.ip(f"addr add 10.77.0.2/24 dev {far.interface}")
        with wire.b.entered():
            echo = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        echo.bind(("0.0.0.0", ECHO))
        threading.Thread(target=_echo, args=(echo,), daemon=True).start()
        yield near_key, far_public


def _echo(echo: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            data, sender = echo.recvfrom(64)
            echo.sendto(data, sender)


def _one_start(wire: Wire, config: Path) -> float:
    """Start tunneld once; return the seconds until a datagram came back."""
    program = find(["tunneld"])[0].program
    assert program
    with wire.a.entered():
        probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with probe:
        probe.settimeout(EVERY)
        begun = time.monotonic()
        process = wire.a.start(
            [program, NAME, "--config", str(config)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while time.monotonic() - begun < LONGEST and process.poll() is None:
                try:
                    probe.sendto(b"x", ("10.77.0.2", ECHO))
                    probe.recv(64)
                except TimeoutError:
                    continue
                except OSError:  # no route yet
                    time.sleep(EVERY)
                else:
                    return time.monotonic() - begun
            raise RuntimeError(f"nothing came back within {LONGEST:g} s")
        finally:
            process.terminate()
            process.wait()


def measure(rounds: int) -> list[float]:
    """Return the seconds that each of so many starts took."""
    with wired() as wire, _far_end(wire) as (key, public), tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "near.conf"
        config.touch(0o600)
        config.write_text(
            f"[Interface]\nPrivateKey = {key}\nAddress = 10.77.0.1/24\n"
            f"[Peer]\nPublicKey = {public}\nAllowedIPs = 10.77.0.2/32\n"
            f"Endpoint = 10.99.0.2:{PORT}\n"
        )
        return [_one_start(wire, config) for _ in range(rounds)]


def main(words: list[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(words)
    if os.geteuid():
        print("startup: needs root to make network namespaces", file=sys.stderr)
        return 4
    for package in ("tunnel", "providers"):
        compileall.compile_dir(ROOT / package, quiet=1)
    times = measure(options.rounds)
    print("exec to the first packet through, seconds:", " ".join(f"{t:.3f}" for t in times))
    print(f"median {statistics.median(times):.3f}, best {min(times):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
