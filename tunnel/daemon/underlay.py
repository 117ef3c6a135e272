"""Underlay: what carries a tunnel on this machine. The path, the routing, the outer sockets.

They move together and in one order: the routing tables first, then the sockets, then (by the
session) the provider, which attaches the new sockets to its engine and lets go of the old ones.
Sockets are therefore withdrawn, which empties `outer.pairs`, and only released, which closes them,
when the provider has seen that.

A move that fails closes the sockets rather than leave them where they may no longer send, and is
tried again: the network that it was made for may have gone while it was made.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from tunnel.errors import MissingFacilityError, TunnelError
from tunnel.settings import RoutingPolicy, TunnelSettings

if TYPE_CHECKING:
    from tunnel.bind import OuterSockets
    from tunnel.config import InterfaceOverride
    from tunnel.daemon.machine import Machine
    from tunnel.policy.apply import MachineRoutes
    from tunnel.policy.binding import BindingPolicy
    from tunnel.policy.change import PathChange
    from tunnel.policy.monitor import PathMonitor
    from tunnel.policy.path import Path


class Underlay:
    """One tunnel's path, routes and outer sockets.

    `waiting` says why the sockets are closed; it is empty while they are open.
    """

    def __init__(
        self,
        machine: Machine,
        policy: BindingPolicy,
        overrides: Mapping[str, InterfaceOverride],
        name: str,
        workers: int,
        log: logging.Logger,
        routing: RoutingPolicy | None = None,
    ) -> None:
        self.routing = routing or RoutingPolicy()
        self._name = name
        self._policy = policy
        self._log = log
        self._settings: TunnelSettings | None = None  # None leaves the interface to others
        self._monitor: PathMonitor | None = None
        self._machine = machine
        self._overrides = overrides
        self._routes: MachineRoutes = machine.routes(log.info)
        self.outer: OuterSockets = machine.outer_sockets(workers)
        self.waiting = ""
        self._one_at_a_time = asyncio.Lock()

    @property
    def path(self) -> Path:
        """The path of this moment."""
        return self._policy.decide(()) if self._monitor is None else self._monitor.path

    async def watch(self) -> None:
        """Remove what a crashed predecessor left, and learn the first path."""
        await self._routes.start()
        self._monitor = await self._machine.monitor(
            self._policy, self._overrides, self._name
        ).__aenter__()

    async def unwatch(self) -> None:
        """Stop following the path."""
        try:
            if self._monitor is not None:
                await self._monitor.aclose()
        finally:
            await self._routes.clear()

    async def open(self, port: int, mark: int) -> None:
        """Open the sockets on the first path, or wait for one.

        Raises TunnelError where waiting would not help: the port is taken, the privilege missing.
        """
        self.outer.set_port(port)
        self.outer.set_mark(mark)
        try:
            await self._move()
        except (OSError, TunnelError) as error:
            if not isinstance(error, MissingFacilityError):
                raise self._explained(error) from error
            self._withdraw(error)

    async def refresh(self) -> Path:
        """Read the path anew: nothing notifies us of other DNS servers."""
        return self.path if self._monitor is None else await self._monitor.refresh()

    async def changes(self) -> AsyncIterator[PathChange]:
        """Yield each change of path. Raises OSError when the kernel cannot be read any more."""
        if self._monitor is not None:
            async for change in self._monitor:
                yield change

    async def move(self) -> bool:
        """Go over to the path of this moment; False if that failed and is to be tried again."""
        try:
            await self._move()
        except (OSError, TunnelError) as error:
            self._withdraw(error)
            return False
        return True

    async def apply(self, settings: TunnelSettings) -> None:
        """Make addresses, MTU and routes agree with these settings, now and on later paths."""
        async with self._one_at_a_time:
            self._settings = settings
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
            await self._routes.clear()

    async def _move(self) -> None:
        async with self._one_at_a_time:
            await self._move_to(self.path)

    async def _move_to(self, path: Path) -> None:
        await self._apply_to(path)
        outer, interface = self.outer, path.interface
        if path.bound and interface is None:
            outer.withdraw()
            self.waiting = path.reason
            return
        device = interface.name if path.bound and interface is not None else None
        if outer.pairs:
            outer.rebind(device)
        else:
            outer.open(port=outer.port, mark=outer.mark, interface=device)
        self.waiting = ""

    async def _apply_to(self, path: Path) -> None:
        if self._settings is None:
            nothing = TunnelSettings(fwmark=self.outer.mark)
            await self._routes.apply(None, nothing, path, self.routing)
            return
        in_force = await self._routes.apply(self._name, self._settings, path, self.routing)
        if self.outer.mark != in_force.mark:
            self.outer.set_mark(in_force.mark)

    def _withdraw(self, error: OSError | TunnelError) -> None:
        self.outer.withdraw()
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
