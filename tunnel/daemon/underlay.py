"""Underlay: what carries a tunnel on this machine. The path, the routing, the outer sockets.

They move together and in one order: the routing tables first, then the sockets, then (by the
follower) the provider, which attaches the new sockets to its engine and lets go of the old ones.
Sockets are therefore withdrawn, which empties `outer.pairs`, and only released, which closes them,
when the provider has seen that.

Which path to be on comes from the monitor by way of the mover, which damps flapping and asks for a
proof before a living path is left. A move that fails closes the sockets rather than leave them
where they may no longer send, and is tried again: the network that it was made for may have gone
while it was made.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING

from tunnel.daemon.sockets import Sockets
from tunnel.errors import MissingFacilityError, TunnelError
from tunnel.policy.damping import SECOND, Damping
from tunnel.policy.mover import Mover
from tunnel.settings import TunnelSettings

if TYPE_CHECKING:
    from tunnel.bind import OuterSockets
    from tunnel.config import BindingConfig, Config, InterfaceOverride
    from tunnel.daemon.barrier import Barrier
    from tunnel.daemon.machine import Machine
    from tunnel.policy.apply import MachineRoutes
    from tunnel.policy.binding import PathPolicy
    from tunnel.policy.interface import Interface
    from tunnel.policy.keeper import Keeper
    from tunnel.policy.monitor import PathMonitor
    from tunnel.policy.path import Path
    from tunnel.settings import Address, RoutingPolicy


class Moved(Enum):
    """What a move came to: FAILED is to be tried again."""

    NOT = "the sockets are as they were"
    MOVED = "the sockets are others, bound again, or closed for want of a path"
    FAILED = "the sockets are closed"


class Underlay:
    """One tunnel's path, routes and outer sockets.

    `waiting` says why the sockets are closed; it is empty while they are open. `endpoints` tells
    the peers' addresses, and `keep_closed` says that the kill switch outlives the tunnel.
    """

    def __init__(
        self,
        machine: Machine,
        policy: PathPolicy,
        overrides: Mapping[str, InterfaceOverride],
        name: str,
        workers: int,
        log: logging.Logger,
        config: Config,
        barrier: Barrier,
    ) -> None:
        self._barrier = barrier
        self.routing = config.routing
        self._name = name
        self._log = log
        self._settings: TunnelSettings | None = None  # None leaves the interface to others
        self._monitor: PathMonitor | None = None
        self._machine = machine
        self._policy = policy
        self._overrides = overrides
        self._routes: MachineRoutes = machine.routes(log.info, name)
        self._keeper: Keeper | None = None
        self.endpoints: Callable[[], Iterable[Address]] = lambda: ()
        self.keep_closed = False
        self._mover = Mover(policy.decide(()), _damping(config.binding))
        self._stirred = asyncio.Event()
        self._causes: list[str] = []
        self._failure: OSError | None = None
        self._carried: object = None  # what the open sockets were made for
        self._one_at_a_time = asyncio.Lock()
        self.sockets = Sockets(lambda: machine.outer_sockets(workers))
        self.waiting = ""

    @property
    def outer(self) -> OuterSockets:
        """The sockets of the path in use."""
        return self.sockets.current

    @property
    def path(self) -> Path:
        """The path of this moment, the interface in use first."""
        return self._mover.path

    def interfaces(self) -> tuple[Interface, ...]:
        """Return every interface of the machine but the tunnel's own."""
        state = () if self._monitor is None else self._monitor.state.interfaces
        return tuple(interface for interface in state if interface.name != self._name)

    @property
    def candidate(self) -> Interface | None:
        """The interface that is to be proven before it is moved to."""
        return self._mover.candidate

    async def watch(self) -> None:
        """Remove what a crashed predecessor left, and learn the first path."""
        await self._routes.start()
        monitor = self._machine.monitor(self._policy, self._overrides, self._name)
        self._keeper = self._machine.keeper(self._routes, self._log.warning)
        monitor.observe = self._keeper.look
        self._routes.endpoints = monitor.endpoints = lambda: self.endpoints()
        self._monitor = await monitor.__aenter__()
        self._look()

    async def unwatch(self) -> None:
        """Stop following the path."""
        try:
            if self._keeper is not None:
                await self._keeper.aclose()
            if self._monitor is not None:
                await self._monitor.aclose()
        finally:
            await self._routes.clear(keep_closed=self.keep_closed)

    async def open(self, port: int, mark: int) -> None:
        """Open the sockets on the first path, or wait for one.

        Raises TunnelError where waiting would not help: the port is taken, the privilege missing.
        """
        self.outer.set_port(port)
        self.outer.set_mark(mark)
        try:
            async with self._one_at_a_time:
                await self._move_to(self.path)
        except (OSError, TunnelError) as error:
            if not isinstance(error, MissingFacilityError):
                raise self._explained(error) from error
            self._withdraw(error)

    # ---- what happens ----

    async def causes(self) -> AsyncIterator[str]:
        """Yield each time that path or candidate may be others, with the cause in words, or ''.

        Raises OSError when the kernel cannot be read any more.
        """
        listener = asyncio.create_task(self._listen())
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._patience()):
                        await self._stirred.wait()
                self._stirred.clear()
                if self._failure is not None:
                    raise self._failure
                if listener.done():
                    return
                self._look()
                causes, self._causes = self._causes, []
                yield "; ".join(dict.fromkeys(causes))
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    def stir(self, cause: str = "") -> None:
        """Let `causes` yield."""
        self._causes += [cause] if cause else []
        self._stirred.set()

    def silent(self) -> None:
        """Note that nothing comes back over the path in use."""
        self._mover.silent(self._now())
        self.stir()

    async def refresh(self) -> Path:
        """Read the path anew: nothing notifies us of other DNS servers."""
        if self._monitor is not None:
            await self._monitor.refresh()
            self._look()
        return self.path

    async def set_policy(
        self,
        policy: PathPolicy,
        overrides: Mapping[str, InterfaceOverride],
        binding: BindingConfig,
    ) -> None:
        """Go over to another policy and its settings, which take effect at once."""
        self._policy, self._overrides = policy, overrides
        damping = _damping(binding)
        self._mover.damping.hold_down, self._mover.damping.dwell = damping.hold_down, damping.dwell
        if self._monitor is not None:
            self._monitor.overrides = self._machine.overrides(overrides)
            self._monitor.set_policy(policy)
            await self._monitor.refresh()
        self._mover.reset()
        self._look()
        self.stir("the policy changed")

    async def rename(self, name: str) -> None:
        """Follow the tunnel's own interface to its new name. Raises TunnelError."""
        self._name = name
        self._barrier.rename(name)
        if self._monitor is not None:
            self._monitor.exclude = frozenset({name})
            await self._monitor.refresh()
        self.stir(f"the tunnel's interface is called {name} now")

    async def _listen(self) -> None:
        try:
            if self._monitor is not None:
                async for change in self._monitor:
                    self.stir(change.cause)
        except OSError as error:
            self._failure = error
        finally:
            self._stirred.set()

    def _look(self) -> None:
        if self._monitor is not None:
            self._mover.update(self._monitor.path, self._now())

    def _patience(self) -> float | None:
        deadline = self._mover.next_deadline()
        return None if deadline is None else max(0.0, (deadline - self._now()) / SECOND)

    def _now(self) -> int:
        return round(asyncio.get_running_loop().time() * SECOND)

    # ---- proofs ----

    def try_on(self, candidate: Interface) -> OuterSockets:
        """Open a second set of sockets on the candidate. Raises OSError or TunnelError."""
        self._barrier.update(path=self.path, interfaces=(candidate.name,))
        return self.sockets.open_other(candidate.name)

    def proven(self) -> None:
        """Move to the candidate, whose sockets carry the traffic already."""
        self._mover.proven(self._now())
        self.sockets.swap()
        self._carried = _carried(self.path)

    def refuted(self) -> float:
        """Stay where we are; return seconds until the candidate is tried again."""
        self.sockets.drop_other()
        return self._mover.refuted(self._now())

    def forget(self) -> None:
        """Take nothing for granted: the next move binds the sockets again."""
        self._carried = None

    # ---- what is done about it ----

    async def move(self) -> Moved:
        """Go over to the path of this moment."""
        try:
            async with self._one_at_a_time:
                return await self._move_to(self.path)
        except (OSError, TunnelError) as error:
            self._withdraw(error)
            return Moved.FAILED

    async def apply(self, settings: TunnelSettings) -> None:
        """Make addresses, MTU and routes agree with these settings, now and on later paths."""
        async with self._one_at_a_time:
            self._settings = settings
            await self._apply_to(self.path)

    async def set_routing(self, routing: RoutingPolicy) -> None:
        """Go over to another routing policy."""
        async with self._one_at_a_time:
            self.routing = routing
            await self._apply_to(self.path)

    async def mend(self) -> None:
        """Make what the kernel took away with the interface's going down, if it was ours."""
        async with self._one_at_a_time:
            if self._settings is not None:
                await self._apply_to(self.path)

    async def clear(self) -> None:
        """Remove every address, route and rule that was made."""
        async with self._one_at_a_time:
            self._settings = None
            await self._routes.clear(keep_closed=self.keep_closed)

    async def _move_to(self, path: Path) -> Moved:
        await self._apply_to(path)
        interface = path.interface
        wanted = _carried(path)
        if wanted is not None and wanted == self._carried and self.outer.pairs:
            return Moved.NOT  # what changed is a path that stands by: its tables are made
        self._carried = None
        if path.bound and interface is None:
            self.sockets.withdraw()
            self.waiting = path.reason
        else:
            self.sockets.move(interface.name if path.bound and interface is not None else None)
            self._carried, self.waiting = wanted, ""
        # Nothing is sent any more on what was left.
        self._barrier.update(path=path, interfaces=self.sockets.interfaces)
        return Moved.MOVED

    async def _apply_to(self, path: Path) -> None:
        if self._settings is None:
            nothing = TunnelSettings(fwmark=self.outer.mark)
            await self._routes.apply(None, nothing, path, self.routing)
            self._barrier.update(path=path, interfaces=self.sockets.interfaces)
            return
        from tunnel.policy.routing import past_the_tunnel

        in_force = await self._routes.apply(self._name, self._settings, path, self.routing)
        self._barrier.update(
            path=path,
            interfaces=self.sockets.interfaces,
            mark=in_force.mark,
            addresses=self._settings.addresses,
            excluded=past_the_tunnel(self._settings, self.routing),
        )
        self.sockets.set_mark(in_force.mark)

    def _withdraw(self, error: OSError | TunnelError) -> None:
        self.sockets.withdraw()
        self.waiting = str(self._explained(error))
        self._log.debug("traceback", exc_info=error)

    def _explained(self, error: OSError | TunnelError) -> TunnelError:
        if isinstance(error, TunnelError):
            return error
        if error.errno == errno.EADDRINUSE:
            return TunnelError(
                f"UDP port {self.outer.port} is in use by another program; choose another one"
            )
        return TunnelError(error.strerror or str(error))


def _damping(binding: BindingConfig) -> Damping:
    return Damping(hold_down=round(binding.hold_down * SECOND), dwell=round(binding.dwell * SECOND))


def _carried(path: Path) -> object:
    """Return what sockets depend on: with another value they are bound again."""
    first = path.interface
    if not path.bound or first is None:
        return None
    return first.name, first.index, first.addresses, first.gateways, first.routed
