"""Keeper: what others remove of our routes, rules and firewall table is put back, and said.

The path monitor reads the whole state at each notification anyway, so it shows each reading to the
keeper, which compares it with what is in force. Of the firewall the keeper hears by itself.
Somebody who removes our things again and again is answered more and more slowly (patience.py), so
that two programs cannot burn the processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

from tunnel.errors import TunnelError
from tunnel.policy.apply import MachineRoutes
from tunnel.policy.difference import damage
from tunnel.policy.patience import LONGEST_WAIT, Patience
from tunnel.policy.rivals import usurper
from tunnel.policy.rtnl import Dump

GATHER = 0.02
"""Seconds from the first notification of the firewall to the look at it."""
_SHOWN = 3
_NETLINK_NETFILTER, _GROUP_NFTABLES = 12, 7
_READ_SIZE = 1 << 16


class Keeper:
    """Keeps one tunnel's routes in force. `log` gets lines for people."""

    def __init__(self, routes: MachineRoutes, log: Callable[[str], None]) -> None:
        self._routes = routes
        self._log = log
        self._patience = Patience()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._firewall: socket.socket | None = None
        self._closed = False

    def look(self, dump: Dump) -> str:
        """Look at a reading; return what other programs do to our traffic, empty for nothing."""
        if self._firewall is None and not self._closed:
            self._listen()
        in_force = self._routes.in_force
        if damage(in_force, dump):
            self._mend("routes or rules", self._routes.restore)
        elif self._routes.outdated(dump):
            self._mend("local networks", self._renew)
        return usurper(in_force, dump)

    async def aclose(self) -> None:
        """Put nothing back any more; safe to call again."""
        self._closed = True
        if self._firewall is not None:
            asyncio.get_running_loop().remove_reader(self._firewall)
            self._firewall.close()
            self._firewall = None
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _listen(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        with contextlib.suppress(OSError):
            self._firewall = socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER)
            self._firewall.bind((0, 1 << (_GROUP_NFTABLES - 1)))
            asyncio.get_running_loop().add_reader(self._firewall, self._firewall_changed)

    def _firewall_changed(self) -> None:
        with contextlib.suppress(OSError):
            while self._firewall is not None and self._firewall.recv(_READ_SIZE):
                pass
        self._mend("the firewall table", self._guard)

    async def _guard(self) -> list[str]:
        await asyncio.sleep(GATHER)
        return ["the firewall table"] if await self._routes.restore_guard() else []

    async def _renew(self) -> list[str]:
        await self._routes.renew()
        return []

    def _mend(self, what: str, restore: Callable[[], Awaitable[list[str]]]) -> None:
        """Let `restore` run, once more if it is running."""
        task = self._tasks.get(what)
        if task is not None and not task.done():
            self._again.add(what)
        elif not self._closed:
            work = self._restore(what, restore)
            self._tasks[what] = asyncio.create_task(work, name=f"keeper of {what}")

    async def _restore(self, what: str, restore: Callable[[], Awaitable[list[str]]]) -> None:
        loop = asyncio.get_running_loop()
        while not self._closed:
            await asyncio.sleep(self._patience.wait(loop.time()))
            self._again.discard(what)
            try:
                restored = await restore()
            except (OSError, TunnelError) as error:
                self._log(f"{what} of the tunnel cannot be put right: {error}")
                return
            if restored:
                shown = "; ".join(restored[:_SHOWN])
                more = f" and {len(restored) - _SHOWN} more" if len(restored) > _SHOWN else ""
                self._log(f"another program removed {what} of the tunnel; put back: {shown}{more}")
                if self._patience.put_back(loop.time()):
                    self._log(
                        "it does so again and again; from now on they are put back at growing "
                        f"intervals of up to {LONGEST_WAIT:g} s; look for another VPN's service"
                    )
            elif what not in self._again:
                return
