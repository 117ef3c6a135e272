"""PathMonitor: watches the machine's networks and tells how the tunnel's path changes.

A netlink notification only means "something changed". It is not decoded: the whole state is read
again, compared, and decided upon, since notifications are incomplete and a burst of them (or an
overrun, ENOBUFS) says no more than one. Bursts are gathered for a few milliseconds; the reading is
done in a thread; the time between two readings grows with their cost, so that a machine whose
routes change all the time keeps its processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from tunnel.policy.binding import PathPolicy
from tunnel.policy.change import PathChange, path_change
from tunnel.policy.connection import Connection
from tunnel.policy.path import Path
from tunnel.policy.rtnl import Dump
from tunnel.policy.state import NetworkState, Override, build_state

GATHER = 0.005
"""Seconds from the first notification to the reading: one `ip` command is a burst."""
READING_SHARE = 0.5
"""Readings take at most this share of the time."""
RECEIVE_BUFFER = 1 << 20

_GROUP_LINK, _GROUP_IPV4_ADDRESS, _GROUP_IPV4_ROUTE, _GROUP_IPV4_RULE = 1, 5, 7, 8
_GROUP_IPV6_ADDRESS, _GROUP_IPV6_ROUTE, _GROUP_IPV6_RULE = 9, 11, 19
_GROUPS = (
    _GROUP_LINK,
    _GROUP_IPV4_ADDRESS,
    _GROUP_IPV4_ROUTE,
    _GROUP_IPV4_RULE,
    _GROUP_IPV6_ADDRESS,
    _GROUP_IPV6_ROUTE,
    _GROUP_IPV6_RULE,
)


class PathMonitor:
    """Keeps `path` and `state` up to date and yields each PathChange.

        async with PathMonitor(policy, overrides, exclude={"tunnel0"}) as monitor:
            use(monitor.path)
            async for change in monitor:
                use(change.new)

    `exclude` names interfaces that can never be the path: the tunnel's own. A consumer that is
    late gets one change that covers all it missed. `readings` counts complete reads of the state.
    """

    def __init__(
        self,
        policy: PathPolicy,
        overrides: Mapping[str, Override] | None = None,
        *,
        exclude: Collection[str] = (),
    ) -> None:
        self.policy = policy
        self.overrides = dict(overrides or {})
        self.exclude = frozenset(exclude)
        self.state = NetworkState()
        self.path: Path = policy.decide(())
        self.readings = 0
        self._pending: PathChange | None = None
        self._told = asyncio.Event()
        self._dirty = asyncio.Event()
        self._failure: BaseException | None = None
        self._lock = asyncio.Lock()
        self._thread: ThreadPoolExecutor | None = None
        self._connection: Connection | None = None
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> PathMonitor:
        """Subscribe, then read the first state, in this order: nothing can fall between."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rtnetlink")
        try:
            self._socket = _subscribe()
            self.state, self.path = await self._read()
        except BaseException:
            await self.aclose()
            raise
        asyncio.get_running_loop().add_reader(self._socket, self._drain)
        self._task = asyncio.create_task(self._follow(), name="path-monitor")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop watching; safe to call again. Iterations end."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        if self._thread is not None:
            if self._connection is not None:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._thread, self._connection.close)
                self._connection = None
            self._thread.shutdown(wait=False)
            self._thread = None
        self._told.set()

    def __aiter__(self) -> AsyncIterator[PathChange]:
        """Iterate over the changes from now on."""
        return self

    async def __anext__(self) -> PathChange:
        """Wait for the next change. Raises OSError when the kernel cannot be read any more."""
        await self._told.wait()
        if self._pending is None:
            if self._failure is not None:
                raise self._failure
            raise StopAsyncIteration
        change, self._pending = self._pending, None
        if self._task is not None and not self._task.done():
            self._told.clear()
        return change

    async def refresh(self) -> Path:
        """Read the state now, for what no notification tells (a new lease's DNS servers)."""
        async with self._lock:
            state, path = await self._read()
            self._tell(state, path)
        return self.path

    def set_policy(self, policy: PathPolicy) -> None:
        """Replace the policy; a change of path follows, if it makes one."""
        self.policy = policy
        self._dirty.set()

    # ---- inside ----

    def _drain(self) -> None:
        """Empty the socket: what the notifications say does not matter, only that there are any."""
        # ENOBUFS (notifications were lost) is as good as one more; what is left calls us again.
        with contextlib.suppress(OSError):
            while self._socket is not None and self._socket.recv(65536):
                pass
        self._dirty.set()

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._dirty.wait()
                await asyncio.sleep(GATHER)
                self._dirty.clear()
                began = loop.time()
                await self.refresh()
                if self._dirty.is_set():
                    await asyncio.sleep((loop.time() - began) * (1 / READING_SHARE - 1))
        except OSError as error:
            self._failure = error
        finally:
            self._told.set()

    def _tell(self, state: NetworkState, path: Path) -> None:
        change = path_change(self.state, self.path, state, path)
        self.state, self.path = state, path
        if change is not None:
            self._pending = self._pending.then(change) if self._pending else change
            self._told.set()

    async def _read(self) -> tuple[NetworkState, Path]:
        loop = asyncio.get_running_loop()
        state = await loop.run_in_executor(self._thread, self._read_state)
        self.readings += 1
        present = [i for i in state.interfaces if i.name not in self.exclude]
        return state, self.policy.decide(present)

    def _read_state(self) -> NetworkState:
        if self._connection is None:
            self._connection = Connection()
        dump: Dump = self._connection.read()
        return build_state(dump, self.overrides)


def _subscribe() -> socket.socket:
    """Open the notification socket of the calling thread's network namespace."""
    groups = 0
    for group in _GROUPS:
        groups |= 1 << (group - 1)
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    watch = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
    try:
        watch.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        watch.bind((0, groups))
    except OSError:
        watch.close()
        raise
    return watch
