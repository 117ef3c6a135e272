"""A machine without root for sessions under test: its links are socket pairs, its outer sockets
are on loopback, and the test says what the path is."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from ipaddress import ip_interface
from typing import Any

from tunnel.bind import OuterSockets
from tunnel.config import HostPort
from tunnel.daemon.machine import Machine
from tunnel.daemon.session import TunnelSession
from tunnel.errors import TunnelError
from tunnel.policy.change import PathChange
from tunnel.policy.interface import Classification, Confidence, Interface, InterfaceType
from tunnel.policy.path import Path, PathStatus
from tunnel.policy.routing import Desired
from tunnel.provider import PacketTunnelProvider, StopReason, TunnelStatus
from tunnel.settings import Address, RoutingPolicy, TunnelSettings

LO = Interface(
    index=1,
    name="lo",
    classification=Classification(InterfaceType.CELLULAR, "the test says so", Confidence.CERTAIN),
    up=True,
    carrier=True,
    routed=frozenset({4, 6}),
)


def interface(name: str, index: int, type_: InterfaceType) -> Interface:
    """Return an interface that is usable for IPv4."""
    return Interface(
        index=index,
        name=name,
        classification=Classification(type_, "test", Confidence.CERTAIN),
        up=True,
        carrier=True,
        addresses=(ip_interface("10.0.0.2/24"),),
        routed=frozenset({4}),
    )


NO_PATH = Path(PathStatus.UNSATISFIED, "no permitted interface: lo has no carrier", (), True)
ON_LO = Path(PathStatus.SATISFIED, "lo: permitted", (LO,), True)
UNBOUND = Path(PathStatus.SATISFIED, "lo: the default route", (LO,), False)


class FakeMonitor:
    """Yields the paths that the test sets."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.closed = False
        self.policy: Any = None
        self.overrides: Any = None
        self.exclude: frozenset[str] = frozenset()
        self._changes: asyncio.Queue[PathChange | OSError] = asyncio.Queue()

    async def __aenter__(self) -> FakeMonitor:
        return self

    async def aclose(self) -> None:
        self.closed = True

    async def refresh(self) -> Path:
        return self.path

    def set_policy(self, policy: Any) -> None:
        self.policy = policy

    def change(self, path: Path, cause: str = "the test changed it") -> None:
        old, self.path = self.path, path
        self._changes.put_nowait(PathChange(old, path, cause))

    def fail(self, error: OSError) -> None:
        self._changes.put_nowait(error)

    async def __aiter__(self) -> AsyncIterator[PathChange]:
        while True:
            change = await self._changes.get()
            if isinstance(change, OSError):
                raise change
            yield change


class FakeRoutes:
    """Notes what is asked of it in the machine's journal."""

    def __init__(self, journal: list[Any]) -> None:
        self._journal = journal
        self.failures: list[TunnelError] = []
        self.mark = 0

    async def start(self) -> None:
        self._journal.append("clean up")

    async def apply(
        self,
        interface: str | None,
        settings: TunnelSettings,
        path: Path,
        policy: RoutingPolicy | None = None,
    ) -> Desired:
        if self.failures:
            raise self.failures.pop(0)
        self._journal.append(("apply", interface, path.interface and path.interface.name))
        return Desired(mark=settings.fwmark or self.mark)

    async def clear(self, *, keep_closed: bool = False) -> None:
        self._journal.append("clear routes")


class FakeTun:
    """One end of a seqpacket pair for each queue; the test holds the other."""

    link_flags = 0

    def __init__(self, journal: list[Any], workers: int) -> None:
        self._journal = journal
        kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
        self.pairs = [socket.socketpair(socket.AF_UNIX, kind) for _ in range(workers)]

    @property
    def fds(self) -> list[int]:
        return [ours.fileno() for ours, _ in self.pairs]

    def close(self) -> None:
        self._journal.append("close tun")
        for pair in self.pairs:
            for end in pair:
                end.close()


class FakeWatch:
    def __init__(
        self,
        gone: Callable[[], None],
        mtu_changed: Callable[[int], None],
        came_up: Callable[[], None],
    ) -> None:
        self.gone = gone
        self.mtu_changed = mtu_changed
        self.came_up = came_up
        self.mtu = 1420
        self.closed = False

    def look(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class FakeMachine(Machine):
    """Keeps a journal of what was made and removed, in order."""

    def __init__(self, path: Path = UNBOUND) -> None:
        self.journal: list[Any] = []
        self.fake_monitor = FakeMonitor(path)
        self.fake_routes = FakeRoutes(self.journal)
        self.outers: list[OuterSockets] = []
        self.tun: FakeTun | None = None
        self.fake_watch: FakeWatch | None = None
        self.refusal: TunnelError | None = None
        self.failing_hooks: set[str] = set()

    def check(self) -> None:
        if self.refusal:
            raise self.refusal

    def create_tun(self, name: str, workers: int) -> Any:
        self.journal.append("make tun")
        self.tun = FakeTun(self.journal, workers)
        return self.tun

    def outer_sockets(self, workers: int) -> OuterSockets:
        self.outers.append(OuterSockets(workers))
        return self.outers[-1]

    @property
    def outer(self) -> OuterSockets:
        """The sockets that are open, or those that were first."""
        return next((one for one in self.outers if one.pairs), self.outers[0])

    def monitor(self, policy: Any, overrides: Mapping[str, Any], name: str) -> Any:
        return self.fake_monitor

    def routes(self, log: Callable[[str], None], name: str) -> Any:
        return self.fake_routes

    def watch(
        self,
        name: str,
        gone: Callable[[], None],
        mtu_changed: Callable[[int], None],
        came_up: Callable[[], None],
        renamed: Callable[[str], None],
    ) -> Any:
        self.fake_watch = FakeWatch(gone, mtu_changed, came_up)
        return self.fake_watch

    async def run_hooks(
        self,
        phase: str,
        commands: Sequence[str],
        name: str,
        log: Callable[[str], None],
        *,
        keep_going: bool = False,
    ) -> None:
        self.journal += [f"{phase} {command}" for command in commands]
        if phase in self.failing_hooks and not keep_going:
            raise TunnelError(f"{phase} failed")

    async def resolve(self, endpoint: HostPort, path: Path) -> list[Address]:
        raise TunnelError(f"no names here: {endpoint.host}")


class JournalProvider(PacketTunnelProvider):
    """Writes its calls into the machine's journal and can be told to fail."""

    def __init__(self, machine: FakeMachine, fail: Exception | None = None) -> None:
        self.machine = machine
        self.journal = machine.journal
        self.fail = fail
        self.entered = asyncio.Event()
        self.hold: asyncio.Event | None = None
        self.paths: list[Path] = []
        self.pairs: list[list[tuple[int, int]]] = []
        self.reason: StopReason | None = None

    async def start_tunnel(self, options: Mapping[str, Any]) -> None:
        self.journal.append("start")
        self.entered.set()
        if self.hold:
            await self.hold.wait()
        if self.fail:
            raise self.fail
        self.context.status_changed(TunnelStatus.CONNECTED, "up")

    async def stop_tunnel(self, reason: StopReason) -> None:
        self.journal.append("stop")
        self.reason = reason

    async def path_changed(self, path: Path) -> None:
        self.paths.append(path)
        self.pairs.append(self.context.outer.pairs)


def session(machine: FakeMachine, provider: PacketTunnelProvider, **more: Any) -> TunnelSession:
    """Return a session on such a machine."""
    return TunnelSession(provider, name="t0", machine=machine, **more)
