"""PathMonitor: watches the machine's networks and tells how the tunnel's path changes.

A netlink notification only means "something changed". It is not decoded: the whole state is read
again, compared, and decided upon, since notifications are incomplete and a burst of them (or an
overrun, ENOBUFS) says no more than one. Bursts are gathered for a few milliseconds; the reading is
done in a thread; the time between two readings grows with their cost, so that a machine whose
routes change all the time keeps its processor. The resolvers' files and the network managers stir
it in the same way.

Neighbours are the exception: they change all the time and matter only where a gateway is another
machine now, so these notifications are decoded, and most lead to nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType

from tunnel.policy.advertwatch import AdvertWatch
from tunnel.policy.binding import PathPolicy
from tunnel.policy.change import PathChange, path_change
from tunnel.policy.classify import Facts
from tunnel.policy.connection import Connection, subscribe
from tunnel.policy.dnswatch import DnsWatch
from tunnel.policy.interface import InterfaceType
from tunnel.policy.managers import Managers
from tunnel.policy.numbers import PROTOCOL
from tunnel.policy.path import Path
from tunnel.policy.rivals import cut_off
from tunnel.policy.rtdecode import messages, neighbours_from
from tunnel.policy.rtnl import Dump, Link, Neighbour
from tunnel.policy.state import NetworkState, Override, Sources, build_state, sysfs_facts
from tunnel.settings import Address, Network

GATHER = 0.005
"""Seconds from the first notification to the reading: one `ip` command is a burst."""
HEARSAY = 0.5
"""Seconds that what strangers on a link say may have to wait: they can say it without end."""
ANSWER = 1.0
"""Seconds that the network managers get to answer before a tunnel that is bound starts."""
READING_SHARE = 0.5
"""Readings take at most this share of the time."""

_GROUP_LINK, _GROUP_NEIGHBOUR, _GROUP_IPV4_ADDRESS, _GROUP_IPV4_ROUTE = 1, 3, 5, 7
_GROUP_IPV4_RULE, _GROUP_IPV6_ADDRESS, _GROUP_IPV6_ROUTE, _GROUP_IPV6_RULE = 8, 9, 11, 19
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

    Iterating without `async with` starts it too; then `aclose` ends it. `exclude` names interfaces
    that can never be the path: the tunnel's own. `bus` is the address of a D-Bus with network
    managers on it, None for none. A consumer that is late gets one change that covers all it
    missed. `readings` counts complete reads of the state.

    `observe` is shown each reading and may answer with what is wrong for the tunnel, which then
    stands in the path's reason; `endpoints` tells the addresses that the path is for.
    """

    def __init__(
        self,
        policy: PathPolicy,
        overrides: Mapping[str, Override] | None = None,
        *,
        exclude: Collection[str] = (),
        bus: str | None = None,
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
        self.observe: Callable[[Dump], str] = lambda dump: ""
        self.endpoints: Callable[[], Iterable[Address]] = lambda: ()
        self._socket: socket.socket | None = None
        self._neighbours: socket.socket | None = None
        self._later: asyncio.TimerHandle | None = None
        self._crowded: frozenset[int] = frozenset()
        self._routers: dict[tuple[int, Address], Neighbour] = {}
        self._facts: dict[tuple[object, ...], Facts] = {}
        self._dns = DnsWatch(self._dirty.set)
        self._adverts = AdvertWatch(self._hearsay)
        self._managers = None if bus is None else Managers(bus, self._dirty.set)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> PathMonitor:
        """Subscribe, then read the first state, in this order: nothing can fall between."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rtnetlink")
        try:
            self._socket = subscribe(*_GROUPS)
            self._neighbours = subscribe(_GROUP_NEIGHBOUR)
            self._dns.start()
            self._adverts.start()
            if self._managers is not None:
                self._managers.start()
                if self.path.bound:  # or it might begin on a path that is to be paid for
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._managers.answered.wait(), ANSWER)
            self.state, self.path = await self._read()
        except BaseException:
            await self.aclose()
            raise
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._drain)
        loop.add_reader(self._neighbours, self._hear_neighbours)
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
        if self._managers is not None:
            await self._managers.aclose()
        self._dns.close()
        self._adverts.close()
        if self._later is not None:
            self._later.cancel()
        for one in (self._socket, self._neighbours):
            if one is not None:
                asyncio.get_running_loop().remove_reader(one)
                one.close()
        self._socket = self._neighbours = None
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
        if self._thread is None and not self._told.is_set():
            await self.__aenter__()
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

    def _hear_neighbours(self) -> None:
        """Look again when a gateway has another link-layer address than it had."""
        with contextlib.suppress(OSError):
            while self._neighbours is not None:
                for _, _, _, payload in messages(self._neighbours.recv(65536)):
                    for neighbour in neighbours_from(payload):
                        key = neighbour.index, neighbour.address
                        if key in self._routers and self._routers[key] != neighbour:
                            self._hearsay()

    def _hearsay(self) -> None:
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(HEARSAY, self._listen_again)

    def _listen_again(self) -> None:
        self._later = None
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
        prefixes = {index: self._adverts.prefixes(index) for index in self._crowded}
        dump, state = await loop.run_in_executor(self._thread, self._read_state, prefixes)
        self.readings += 1
        self._crowded = _crowded(dump)
        self._adverts.ask(self._crowded, frozenset(link.index for link in dump.links))
        if self._crowded - prefixes.keys():
            self._dirty.set()  # what was advertised there is of use from now on
        present = [i for i in state.interfaces if i.name not in self.exclude]
        path = self.policy.decide(present)
        interfaces = cut_off(present, dump, self.endpoints(), bound=path.bound)
        if interfaces != tuple(present):
            path = self.policy.decide(interfaces)
        if trouble := self.observe(dump):
            path = replace(path, reason=f"{path.reason}; {trouble}")
        return state, path

    def _read_state(
        self, prefixes: Mapping[int, tuple[tuple[Address, Network], ...]]
    ) -> tuple[Dump, NetworkState]:
        if self._connection is None:
            self._connection = Connection()
        dump = self._with_routers(self._connection.read())
        said = {} if self._managers is None else self._managers.said
        known, self._facts = self._facts, {}

        def facts(link: Link, override: InterfaceType | None) -> Facts:
            # What sysfs says of a device does not change while it has its index and name.
            key = (link.index, link.name, link.arphrd, link.kind, override)
            self._facts[key] = known.get(key) or sysfs_facts(link, override)
            return self._facts[key]

        return dump, build_state(
            dump, self.overrides, Sources(facts=facts, said=said, prefixes=prefixes)
        )

    def _with_routers(self, dump: Dump) -> Dump:
        """Add the gateways that were heard of before: the kernel forgets a silent neighbour."""
        routers: dict[tuple[int, Address], Neighbour] = {}
        heard = {(neighbour.index, neighbour.address): neighbour for neighbour in dump.neighbours}
        for route in dump.routes:
            if route.is_default and route.gateway is not None:
                key = route.index, route.gateway
                nobody = Neighbour(route.index, route.gateway, "")
                routers[key] = heard.get(key) or self._routers.get(key, nobody)
        self._routers = routers
        return replace(dump, neighbours=tuple(routers.values()))


def _crowded(dump: Dump) -> frozenset[int]:
    """Return the links with several IPv6 routers: there it matters who advertised what."""
    routers: dict[int, set[Address | None]] = {}
    for route in dump.routes:
        if route.is_default and route.version == 6 and route.protocol != PROTOCOL:
            routers.setdefault(route.index, set()).add(route.gateway)
    return frozenset(index for index, found in routers.items() if len(found) > 1)
