"""What a packet costs outside the AEAD: python -m bench.plaintext [--rounds N]; needs root.

Builds the core once more, in a folder of its own, with plaintext.c in place of the AEAD, and runs
one TCP stream through two tunnelds that use it. What is left of their processor time, divided by
the packets that went through, is what everything but the AEAD costs at each end: system calls,
copies, checksums, segmentation, keys and replay windows, and waking up. The tunneld that ships
takes its turns beside it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from bench.implementations import Implementation, find
from bench.lab import tunnelled, wired
from bench.measures import Run, iperf

ROOT = Path(__file__).resolve().parent.parent
SEGMENT = 1368  # bytes of TCP payload a packet: MTU 1420 less two headers and timestamps
_REPLACED = ("aead", "chacha", "poly")


def build(folder: Path) -> Path:
    """Build the module into a folder and return its path."""
    native = ROOT / "native"
    glue, prelude = folder / "_core.c", folder / "prelude.h"
    prelude.write_text('#include "core.h"\n')
    header = native / "include" / "tunnel_core.h"
    generate = [sys.executable, "-m", "cffi.gen_src", "read-sources", "tunnel._core"]
    subprocess.run(
        [*generate, str(header), str(prelude), str(glue)], check=True, stdout=subprocess.DEVNULL
    )
    include = subprocess.run(
        [sys.executable, "-c", "import sysconfig; print(sysconfig.get_paths()['include'])"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    sources = [path for path in sorted((native / "src").glob("*.c"))
               if not path.name.startswith(_REPLACED)]  # fmt: skip
    module = folder / "_core.abi3.so"
    subprocess.run(
        ["cc", "-std=gnu11", "-O3", "-DNDEBUG", "-fPIC", "-shared", "-fvisibility=hidden",
         "-fno-strict-aliasing", "-D_GNU_SOURCE", "-DPy_LIMITED_API=0x030b0000", f"-I{include}",
         f"-I{native / 'include'}", f"-I{native / 'src'}", str(glue),
         str(ROOT / "bench" / "plaintext.c"), *map(str, sources), "-lcrypto", "-lpthread",
         "-o", str(module)],
        check=True,
    )  # fmt: skip
    return module


def run_tunneld(module: str, arguments: list[str]) -> None:
    """Be a tunneld whose core is another module."""
    spec = importlib.util.spec_from_file_location("tunnel._core", module)
    assert spec is not None
    assert spec.loader is not None
    core = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(core)
    sys.modules["tunnel._core"] = core
    from tunnel.daemon import service

    sys.argv = ["tunneld", *arguments]
    service.main()


def _turn(run: Run) -> tuple[float, float, float]:
    """Run one stream; return Gbit/s and nanoseconds a packet of the sender and the receiver."""
    assert run.tunnel
    before = [daemon.cpu_seconds() for daemon in run.tunnel.daemons]
    report = iperf(run)
    spent = [daemon.cpu_seconds() - start
             for daemon, start in zip(run.tunnel.daemons, before, strict=True)]  # fmt: skip
    packets = sum(float(part["sum"]["bytes"]) for part in report["intervals"]) / SEGMENT
    sender, receiver = (seconds / packets * 1e9 for seconds in spent)
    return report["end"]["sum_received"]["bits_per_second"] / 1e9, sender, receiver


def measure(rounds: int, seconds: float) -> dict[str, tuple[float, float, float]]:
    """Return the medians of Gbit/s, sender and receiver, by what moves the packets."""
    (shipped,) = find(["tunneld"])
    with tempfile.TemporaryDirectory() as folder, wired() as wire:
        module = build(Path(folder))
        words = (sys.executable, "-m", "bench.plaintext", "--tunneld", str(module), "--")
        plain = Implementation("plaintext", (*words, *shipped.command[1:]))
        found: dict[str, list[tuple[float, float, float]]] = {}
        for _ in range(rounds):
            for one in (plain, shipped):
                with tunnelled(wire, one) as tunnel:
                    found.setdefault(one.name, []).append(_turn(Run(wire, tunnel, seconds, 0)))
    return {
        name: (median(a for a, _, _ in turns), median(b for _, b, _ in turns),
               median(c for _, _, c in turns))
        for name, turns in found.items()
    }  # fmt: skip


def main(words: list[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m bench.plaintext", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--tunneld", metavar="MODULE", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.tunneld:
        run_tunneld(options.tunneld, options.rest)
    if os.geteuid():
        print("plaintext: needs root to make network namespaces", file=sys.stderr)
        return 4
    for name, (speed, sender, receiver) in measure(options.rounds, options.seconds).items():
        print(f"{name:10} {speed:6.2f} Gbit/s, sender {sender:6.0f} ns a packet,"
              f" receiver {receiver:6.0f}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
