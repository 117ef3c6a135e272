"""Keeper: what others remove of our routes and rules is put back, and said.

The path monitor reads the whole state at each notification anyway, so it shows each reading to the
keeper, which compares it with what is in force. Somebody who removes our things again and again is
answered more and more slowly (patience.py), so that two programs cannot burn the processor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tunnel.errors import TunnelError
from tunnel.policy.apply import MachineRoutes
from tunnel.policy.difference import damage
from tunnel.policy.patience import LONGEST_WAIT, Patience
from tunnel.policy.rivals import usurper
from tunnel.policy.rtnl import Dump

_SHOWN = 3


class Keeper:
    """Keeps one tunnel's routes in force. `log` gets lines for people."""

    def __init__(self, routes: MachineRoutes, log: Callable[[str], None]) -> None:
        self._routes = routes
        self._log = log
        self._patience = Patience()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def look(self, dump: Dump) -> str:
        """Look at a reading; return what other programs do to our traffic, empty for nothing."""
        in_force = self._routes.in_force
        if (
            damage(in_force, dump)
            and not self._closed
            and (self._task is None or self._task.done())
        ):
            self._task = asyncio.create_task(self._restore(), name="routes-keeper")
        return usurper(in_force, dump)

    async def aclose(self) -> None:
        """Put nothing back any more; safe to call again."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _restore(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closed:
            await asyncio.sleep(self._patience.wait(loop.time()))
            try:
                restored = await self._routes.restore()
            except (OSError, TunnelError) as error:
                self._log(f"another program removed routes or rules of the tunnel: {error}")
                return
            if not restored:
                return
            shown = "; ".join(restored[:_SHOWN])
            more = f" and {len(restored) - _SHOWN} more" if len(restored) > _SHOWN else ""
            self._log(f"another program removed routes or rules; put back: {shown}{more}")
            if self._patience.put_back(loop.time()):
                self._log(
                    "it does so again and again; from now on they are put back at growing "
                    f"intervals of up to {LONGEST_WAIT:g} s; look for another VPN's service"
                )
