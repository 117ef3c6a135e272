"""The tunnels that can be put side by side, and one of them running.

All but nebula speak the cross-platform UAPI, so that the same `wg set` configures each: what
differs is a command line. An implementation is in the comparison where its program is found (beside
this interpreter, in .peers, where tools/peers puts them, or on PATH); further ones are given by
`--add NAME=COMMAND`, with `{interface}` where the name goes.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tools.netlab import Namespace

SOCKETS = Path("/var/run/wireguard")
PEERS = Path(__file__).resolve().parent.parent / ".peers"
START_TIME = 10.0  # seconds within which a daemon must answer
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Implementation:
    """One way to run one program, in the foreground. `environment` entries are KEY=VALUE.

    `uapi` says that `wg set` configures it; `compared` that it is in the set that bounds are about.
    """

    name: str
    command: tuple[str, ...]
    environment: tuple[str, ...] = ()
    version: tuple[str, ...] = ("--version",)
    uapi: bool = True
    compared: bool = False

    @property
    def program(self) -> str | None:
        """Return the program's path: beside this interpreter, in .peers, else on PATH."""
        for folder in (Path(sys.executable).parent, PEERS):
            if os.access(folder / self.command[0], os.X_OK):
                return str(folder / self.command[0])
        return shutil.which(self.command[0])

    def describe(self) -> str:
        """Return the version: what was installed by tools/peers, else what the program says.

        A Go program that was built from a module does not know its own version.
        """
        assert self.program
        noted = Path(self.program + ".version")
        if noted.exists():
            return " ".join([*self.environment, noted.read_text().strip()])
        done = subprocess.run(
            [self.program, *self.version], capture_output=True, text=True, timeout=20
        )
        lines = (done.stdout + done.stderr).splitlines()
        found = next((line.strip() for line in lines if re.search(r"\d", line)), "version unknown")
        return " ".join([*self.environment, found])


_PRIVILEGED = ("WG_SUDO=true",)  # keeps its privileges, as all others do
TABLE = (
    Implementation("tunneld", ("tunneld", "{interface}", "--ephemeral-key")),
    Implementation("wireguard-go", ("wireguard-go", "-f", "{interface}"), compared=True),
    Implementation(
        "wireguard-go-current", ("wireguard-go-current", "-f", "{interface}"), compared=True
    ),
    Implementation(
        "wireguard-go-current-1",
        ("wireguard-go-current", "-f", "{interface}"),
        environment=("GOMAXPROCS=1",),
        compared=True,
    ),
    Implementation(
        "boringtun-1",
        ("boringtun-cli", "-f", "--threads", "1", "{interface}"),
        environment=_PRIVILEGED,
        compared=True,
    ),
    Implementation(
        "nebula", ("nebula", "-config", "{config}"), version=("-version",), uapi=False,
        compared=True,
    ),
    Implementation("boringtun", ("boringtun-cli", "-f", "{interface}"), environment=_PRIVILEGED),
    Implementation("gotatun", ("gotatun", "-f", "{interface}"), environment=_PRIVILEGED),
)  # fmt: skip
COMPARED = tuple(one.name for one in TABLE if one.compared)
DEFAULT = ("tunneld", *COMPARED)
_BUILT_IN = frozenset(one.name for one in TABLE)


def find(names: list[str] | None = None, added: list[str] | None = None) -> list[Implementation]:
    """Return the implementations asked for, or all that are installed. Raises LookupError."""
    table = {one.name: one for one in TABLE}
    for text in added or []:
        name, _, command = text.partition("=")
        if not name or "{interface}" not in command:
            raise LookupError(f"--add {text}: expected NAME=COMMAND with {{interface}} in it")
        words = shlex.split(command)
        environment = tuple(word for word in words if re.match(r"[A-Z_]+=", word))
        rest = tuple(word for word in words if word not in environment)
        table[name] = Implementation(name, rest, environment)
    if names is None:
        wanted = [name for name in table if name in DEFAULT or name not in _BUILT_IN]
        return [table[name] for name in wanted if table[name].program]
    for name in names:
        if name not in table:
            raise LookupError(f"{name}: not one of {', '.join(table)}; --add describes another")
        if not table[name].program:
            raise LookupError(f"{name}: {table[name].command[0]} is not installed")
    return [table[name] for name in names]


def eventually(
    what: str, condition: Callable[[], object], within: float = START_TIME, every: float = 0.02
) -> None:
    """Return once `condition()` is true; raises TimeoutError, which names `what`."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within:g} s")
        time.sleep(every)


@dataclass
class Daemon:
    """One running implementation in one namespace."""

    implementation: Implementation
    space: Namespace
    interface: str
    config: str = ""
    log: Path = field(init=False)
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        """Start the program and wait until it can be used."""
        handle, name = tempfile.mkstemp(prefix=f"{self.interface}-", suffix=".log")
        os.close(handle)
        self.log = Path(name)
        self.start()

    def start(self) -> None:
        """Start the program (again), and return once it can be configured."""
        program = self.implementation.program
        if program is None:
            raise LookupError(f"{self.implementation.command[0]}: not installed")
        words = [
            word.format(interface=self.interface, config=self.config)
            for word in self.implementation.command[1:]
        ]
        with self.log.open("ab") as log:
            self.process = self.space.start(
                ["env", *self.implementation.environment, program, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            eventually(f"{self.implementation.name}: ready", self._answers)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.output()}") from error

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(
                f"{self.implementation.name}: exit {self.process.returncode}\n{self.output()}"
            )
        if not self.implementation.uapi:
            found = self.space.run(f"ip link show up {self.interface}", check=False).stdout
            return bool(found.strip())
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(SOCKETS / f"{self.interface}.sock")) == 0

    def output(self) -> str:
        """Return what the program wrote so far."""
        return self.log.read_text(errors="replace")

    def wg(self, command: str, *, given: str | None = None) -> str:
        """Run `wg COMMAND`, in which {interface} stands for ours; `given` is its input."""
        words = f"wg {command.format(interface=self.interface)}"
        return self.space.run(words, input=given).stdout

    def stop(self) -> int:
        """Ask the program to end, wait for it, and return its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def kill(self) -> None:
        """End the program without notice."""
        self.process.kill()
        self.process.wait()

    def cpu_seconds(self) -> float:
        """Return the processor time of all its threads so far, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory(self) -> dict[str, float]:
        """Return resident memory now and at its highest, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = dict(re.findall(r"^(VmHWM|VmRSS):\s+(\d+) kB$", status, re.M))
        return {key: int(value) / 1024 for key, value in found.items()}

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self.log.unlink(missing_ok=True)
