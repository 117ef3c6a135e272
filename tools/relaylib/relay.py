"""The relay, running: relay.c as a child process.

Addresses are resolved and the listening socket is bound here, where errors can be told well; the
child inherits the socket, and answers signals with its statistics.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import socket
import subprocess
from pathlib import Path as File
from typing import Any

from tools.compiled import compiled
from tools.relaylib.settings import Path, SettingsError

SOURCES = tuple(
    File(__file__).with_name(name) for name in ("relay.c", "path.c", "departures.c", "clients.c")
)
CLIENTS = 256
IDLE = 300.0  # seconds; what RFC 4787 section 4.3 recommends for a NAT's mapping
_SPARE = 32  # descriptors beside the clients'

Address = tuple[str, int]


def parse_address(option: str, text: str, *, lowest_port: int = 1) -> Address:
    """Return host and port of `ADDR:PORT` or `[ADDR]:PORT`. Raises SettingsError."""
    host, separator, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    bracketed = host == f"[{bare}]"
    if not separator or not bare or (":" in bare) != bracketed:
        raise SettingsError(
            f"{option} {text}: ADDR:PORT is expected, an IPv6 address as [ADDR]:PORT"
        )
    if not port.isascii() or not port.isdigit() or not lowest_port <= int(port) <= 65535:
        raise SettingsError(f"{option} {text}: the port is a number from {lowest_port} to 65535")
    return bare, int(port)


def _resolve(address: Address, option: str, family: int = socket.AF_UNSPEC) -> tuple[int, Any]:
    """Return family and socket address. Raises SettingsError."""
    try:
        found = socket.getaddrinfo(*address, family=family, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"{option} {address[0]}: {reason}") from None
    return found[0][0], found[0][4]


class Relay:
    """A relay that works from `start` (or the beginning of a `with` block) to `stop`.

    `address` is where it listens: the port is chosen where 0 was asked for.
    """

    def __init__(
        self,
        listen: Address,
        to: Address,
        path: Path,
        *,
        seed: int = 0,
        clients: int = CLIENTS,
        idle: float = IDLE,
    ) -> None:
        """Bind the listening socket. Raises SettingsError."""
        family, where = _resolve(listen, "--listen")
        self._to = _resolve(to, "--to")[1][:2]
        if "%" in to[0]:  # the numeric form that getaddrinfo gives has no scope
            self._to = to
        self._path, self._seed, self._clients, self._idle = path, seed, clients, idle
        self._process: subprocess.Popen[str] | None = None
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._socket.bind(where)
        except OSError as error:
            self._socket.close()
            raise SettingsError(f"--listen {listen[0]}:{listen[1]}: {error.strerror}") from None
        self._socket.setblocking(False)
        self.address: Address = self._socket.getsockname()[:2]

    def start(self) -> None:
        """Begin to carry datagrams. Raises CompileError, OSError."""
        program = compiled(*SOURCES)
        allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self._clients + _SPARE
        if allowed != resource.RLIM_INFINITY and allowed < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, most), most))
        number = self._socket.fileno()
        words = [number, *self._to, self._seed, self._clients, self._idle * 1e9]
        links = [*self._path.up.words(), *self._path.down.words()]
        self._process = subprocess.Popen(
            [str(program), *map(str, words), *links],
            pass_fds=(number,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # what the terminal signals is for us to pass on
        )
        self._line()

    @property
    def pid(self) -> int:
        """The process that carries the datagrams."""
        assert self._process
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether that process is there."""
        assert self._process
        return self._process.poll() is None

    def _line(self) -> str:
        assert self._process
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the relay's packet path ended: exit {self._process.wait()}")
        return line

    def report(self) -> dict[str, Any]:
        """Return the statistics so far."""
        return self._ask(signal.SIGUSR1)

    def stop(self) -> dict[str, Any]:
        """End, and return the statistics."""
        try:
            return self._ask(signal.SIGTERM)
        finally:
            self.close()

    def _ask(self, sign: signal.Signals) -> dict[str, Any]:
        assert self._process
        self._process.send_signal(sign)
        found: dict[str, Any] = json.loads(self._line())
        return found

    def close(self) -> None:
        """End without a word; safe to call again."""
        self._socket.close()
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            assert self._process.stdout
            self._process.stdout.close()
            self._process = None

    def __enter__(self) -> Relay:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
