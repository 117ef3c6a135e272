"""Network namespaces for tests, the demo and benchmarks: made, wired and removed here.

    with Lab() as lab:
        client, router = lab.namespace("client"), lab.namespace("router")
        lab.link(client, "wwan0", router, "up0")
        client.ip("addr add 10.0.0.2/24 dev wwan0")
        client.run("ping -c1 10.0.0.1")

Everything a Lab makes carries its tag in its name, so that labs can run side by side, and is
removed when the block ends, with the processes that were started in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_serial = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_ENDING = (signal.SIGINT, signal.SIGTERM)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let a second Ctrl-C or SIGTERM not end what cleans up after the first."""
    try:
        before = [signal.signal(one, signal.SIG_IGN) for one in _ENDING]
    except ValueError:  # another thread, which is never interrupted
        yield
        return
    try:
        yield
    finally:
        for one, handler in zip(_ENDING, before, strict=True):
            signal.signal(one, handler)


def _end_in_order() -> None:
    """Take SIGTERM as Ctrl-C, unless somebody takes it already: it would leave all as it is."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        with contextlib.suppress(ValueError):  # another thread
            signal.signal(signal.SIGTERM, signal.default_int_handler)


class Namespace:
    """One network namespace: a host of the lab."""

    def __init__(self, name: str, label: str) -> None:
        self.name = name
        self.label = label
        self.processes: list[subprocess.Popen[Any]] = []

    def command(self, command: str | list[str]) -> list[str]:
        """Return the argument list that runs a command in this namespace."""
        words = shlex.split(command) if isinstance(command, str) else command
        return ["ip", "netns", "exec", self.name, *words]

    def run(
        self, command: str | list[str], *, check: bool = True, timeout: float = 60, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; its output is in the result. Raises with the output shown."""
        done = subprocess.run(
            self.command(command), capture_output=True, text=True, timeout=timeout, **options
        )
        if check and done.returncode:
            raise RuntimeError(
                f"{self.label}: {command}: exit {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def start(
        self, command: str | list[str], *, outlive: bool = False, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a command that ends with the lab at the latest, and with this process.

        With `outlive` it goes on when this process ends, away from the terminal's signals too.
        """
        if outlive:
            options["start_new_session"] = True
        else:
            options["preexec_fn"] = _die_with_parent
        process = subprocess.Popen(self.command(command), **options)
        self.processes.append(process)
        return process

    def ip(self, arguments: str) -> str:
        """Run one `ip` command here and return its output."""
        return self.run(f"ip {arguments}").stdout

    def sysctl(self, key: str, value: int | str) -> None:
        """Set one sysctl, named as in 'net.ipv4.ip_forward'."""
        self.run(["sysctl", "-qw", f"{key}={value}"])

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Move the calling thread into the namespace for a while (sockets opened stay in it)."""
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.name}") as there:
            if _libc.setns(there.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"cannot enter {self.name}")
            try:
                yield
            finally:
                if _libc.setns(home.fileno(), _CLONE_NEWNET):
                    os._exit(70)  # a thread in the wrong network must not go on

    def packets(self, interface: str, direction: str = "tx") -> int:
        """Packets that an interface has sent ('tx') or received ('rx') so far."""
        path = f"/sys/class/net/{interface}/statistics/{direction}_packets"
        return int(self.run(["cat", path]).stdout)

    def _end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Lab:
    """A set of namespaces that are wired together and removed together."""

    def __init__(self, tag: str | None = None) -> None:
        self.tag = tag or f"t{os.getpid()}x{next(_serial)}"
        self.namespaces: dict[str, Namespace] = {}

    def __enter__(self) -> Lab:
        _end_in_order()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def namespace(self, label: str) -> Namespace:
        """Make a namespace with its loopback up and IPv6 addresses usable at once."""
        name = f"{self.tag}-{label}"
        space = self.namespaces[label] = Namespace(name, label)  # known before it is there
        subprocess.run(["ip", "netns", "add", name], check=True)
        space.ip("link set lo up")
        for scope in ("all", "default"):
            space.sysctl(f"net.ipv6.conf.{scope}.accept_dad", 0)
        return space

    def link(self, left: Namespace, left_name: str, right: Namespace, right_name: str) -> None:
        """Wire two namespaces with a veth pair, both ends up."""
        subprocess.run(
            ["ip", "-n", left.name, "link", "add", left_name, "type", "veth",
             "peer", "name", right_name, "netns", right.name],
            check=True,
        )  # fmt: skip
        left.ip(f"link set {left_name} up")
        right.ip(f"link set {right_name} up")

    def close(self) -> None:
        """End the processes and remove the namespaces; safe to call again."""
        with _uninterrupted():
            for space in self.namespaces.values():
                space._end()
            for space in self.namespaces.values():
                subprocess.run(["ip", "netns", "del", space.name], check=False)
                if (folder := Path(f"/etc/netns/{space.name}")).is_dir():
                    folder.rmdir()
            self.namespaces.clear()
