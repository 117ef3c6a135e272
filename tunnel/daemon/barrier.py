"""Barrier: a session's kill switch. It knows what of the session the firewall depends on.

Where the routing policy does not include all networks it does nothing. Otherwise it is the first
thing that a start makes, closed, and the last that an orderly end removes; any other end leaves it
closed. In between every part of the session that learns something new says so with `update`, and
returns only once the firewall lets it through: interfaces and resolvers before sockets move to
them, far ends before the first packet to them.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tunnel.daemon.status import REPORTABLE, Ending
from tunnel.errors import TunnelError, UsageError
from tunnel.policy.killswitch.state import (
    Desired,
    Endpoint,
    Phase,
    Resolver,
    refuse_mark_zero,
)
from tunnel.provider import StopReason, TunnelStatus

if TYPE_CHECKING:
    from tunnel.daemon.machine import Machine
    from tunnel.policy.killswitch.switch import KillSwitch
    from tunnel.policy.path import Path
    from tunnel.settings import Address, InterfaceAddress, Network, Portal, RoutingPolicy

Reroute = Callable[["RoutingPolicy"], Awaitable[None]]
#: The ends after which the kill switch opens (contract.md, Stopping).
ORDERLY: Final = frozenset({StopReason.NONE, StopReason.USER_INITIATED})


class Barrier:
    """The kill switch of one session."""

    def __init__(
        self, name: str, policy: RoutingPolicy, machine: Machine, log: logging.Logger
    ) -> None:
        self.policy = policy
        self._name = name
        self._machine = machine
        self._log = log
        self._finish: Callable[[Ending], None] = lambda ending: None
        self._switch: KillSwitch | None = None
        self._wanted = Desired(tunnel=name)
        self._timer: asyncio.TimerHandle | None = None
        self._reroute: Reroute | None = None
        self._portal_end: asyncio.TimerHandle | None = None
        self._marked = -1  # a descriptor that keeps a control group's new sockets marked
        self._ending_portal: asyncio.Task[None] | None = None

    @property
    def state(self) -> str:
        """The `kill_switch` of `tunnelctl status --json` (contract.md)."""
        return self._switch.phase.value if self._switch is not None else "off"

    def start(self, finish: Callable[[Ending], None], reroute: Reroute) -> None:
        """Close it, before anything else of the tunnel is there.

        `finish` ends the session, when nobody confirmed in time; `reroute` makes the routes follow
        another policy. Raises TunnelError.
        """
        self._finish, self._reroute = finish, reroute
        holder = None
        if not self.policy.include_all_networks:
            holder = self._machine.kill_switch_holder()
        if holder is not None:
            self._log.warning(
                "the kill switch is closed%s, so that nothing of this tunnel leaves either; "
                "%s, or `tunnelctl killswitch off` first",
                f" by the tunneld of {holder}" if holder else "",
                f"bind it to {holder}" if holder else "start it with --include-all-networks",
            )
        self._close()

    def _close(self) -> None:
        policy, now = self.policy, asyncio.get_running_loop().time()
        if not policy.include_all_networks or self._switch is not None:
            return
        wanted = replace(
            self._wanted,
            local_networks=policy.exclude_local_networks,
            inbound=policy.allow_inbound,
            confirm=now + policy.confirm if policy.confirm else None,
        )
        switch = self._machine.kill_switch(self._log.warning)
        if not switch.is_closed():  # what is closed already cuts nothing
            self._look_at_sessions(policy)
        if switch.close(wanted):
            self._log.info("the kill switch was closed already and is taken over")
        self._switch, self._wanted = switch, wanted
        self._log.info("kill switch closed: nothing leaves but through %s", self._name)
        if policy.confirm:
            self._log.warning(
                "the kill switch opens again in %g s unless `tunnelctl killswitch confirm %s`",
                policy.confirm,
                self._name,
            )
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(policy.confirm, self._time_is_up)

    def update(
        self,
        *,
        path: Path | None = None,
        interfaces: Iterable[str] = (),
        mark: int | None = None,
        addresses: Sequence[InterfaceAddress] | None = None,
        endpoints: Iterable[tuple[Address, int]] | None = None,
        coming_mark: int | None = None,
        excluded: Sequence[Network] | None = None,
    ) -> None:
        """Let the firewall follow what changed. Raises TunnelError; then it is as it was.

        `interfaces` are those that sockets are on beside those of the path; `coming_mark` is one
        that somebody asks for, and 0 is refused.
        """
        if self._switch is not None and coming_mark is not None:
            refuse_mark_zero(coming_mark)
        wanted = self._wanted
        if path is not None:
            names = dict.fromkeys((*(i.name for i in path.interfaces), *interfaces))
            wanted = replace(
                wanted,
                interfaces=tuple(names) if path.bound else None,
                resolvers=tuple(
                    Resolver(i.name, address) for i in path.interfaces for address in i.dns
                ),
            )
            if wanted.interfaces == ():
                wanted = replace(wanted, phase=Phase.BLOCKED)
            elif wanted.phase is Phase.BLOCKED:
                wanted = replace(wanted, phase=Phase.CONNECTING)
        if mark is not None:
            wanted = replace(wanted, mark=mark)
        if addresses is not None:
            wanted = replace(wanted, addresses=tuple(addresses))
        if excluded is not None:
            wanted = replace(wanted, excluded=tuple(excluded))
        if endpoints is not None:
            far = tuple(Endpoint(address, port) for address, port in dict.fromkeys(endpoints))
            wanted = replace(wanted, endpoints=far)
        self._go_over(wanted)

    @property
    def tunnel(self) -> str:
        """The tunnel's interface as it is called now."""
        return self._wanted.tunnel

    def rename(self, name: str) -> None:
        """Follow the tunnel's interface to another name. Raises TunnelError."""
        self._go_over(replace(self._wanted, tunnel=name))

    def show(self, status: TunnelStatus) -> None:
        """Follow the session's status."""
        if status not in REPORTABLE or self._wanted.interfaces == ():
            return
        connected = status is TunnelStatus.CONNECTED
        phase = Phase.CONNECTED if connected else Phase.CONNECTING
        try:
            self._go_over(replace(self._wanted, phase=phase))
        except TunnelError as error:
            self._log.error("%s; it stays as it was", error)

    async def set_policy(self, policy: RoutingPolicy) -> None:
        """Go over to another routing policy, which may close or open it.

        It is closed before the routes change, and opened after. Raises TunnelError.
        """
        if policy.include_all_networks and self._switch is not None:
            # What was confirmed stays so, and who has not confirmed yet still may.
            policy = replace(policy, confirm=self.policy.confirm)
        if policy == self.policy:
            return
        former, self.policy = self.policy, policy
        try:
            if policy.include_all_networks:
                self._close()
                inbound, local = policy.allow_inbound, policy.exclude_local_networks
                self._go_over(replace(self._wanted, inbound=inbound, local_networks=local))
        except BaseException:
            self.policy = former
            raise
        if self._reroute is not None:
            await self._reroute(policy)
        if not policy.include_all_networks:
            self._open()

    def path_of_names(self, path: Path, interfaces: Iterable[str]) -> Path:
        """Return the path over which to resolve endpoint names, which the firewall lets through.

        While it is closed the machine's own resolver does not get out, so that an unbound tunnel
        asks by itself too.
        """
        self.update(path=path, interfaces=interfaces)
        return path if self._switch is None else replace(path, bound=True)

    async def confirm(self) -> bool:
        """Keep it closed past --confirm's time; whether there was anything to confirm.

        Raises TunnelError; then it opens in time.
        """
        if self._timer is None or self._reroute is None:
            return False
        self._go_over(replace(self._wanted, confirm=None))
        self._timer.cancel()
        self._timer = None
        self.policy = replace(self.policy, confirm=None)
        self._log.info("kill switch confirmed: it stays closed")
        await self._reroute(replace(self.policy, portal=self._wanted.portal))
        return True

    @property
    def opening(self) -> str | None:
        """The captive portal's opening of the moment, in words; None where there is none."""
        if self._portal_end is None:
            return None
        left = max(0.0, self._portal_end.when() - asyncio.get_running_loop().time())
        return f"{self._wanted.portal}, for {left:.0f} s more"

    async def open_portal(self, portal: Portal, seconds: float) -> None:
        """Let one user or control group past the tunnel on one interface for a time.

        It takes the place of an opening that is there. Raises TunnelError's kinds.
        """
        if self._switch is None or self._reroute is None:
            raise TunnelError("the kill switch is open; there is nothing to make an opening in")
        if portal.mark == self._wanted.mark:
            raise UsageError(
                f"fwmark {portal.mark:#x} is the opening's own; give the tunnel another"
            )
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        marked = -1
        if portal.cgroup is not None:
            from tunnel.policy.cgroup import mark_sockets

            marked = mark_sockets(portal.cgroup, portal.mark)
        try:
            self._go_over(replace(self._wanted, portal=portal, portal_until=end))
        except BaseException:
            _close_file(marked)
            raise
        self._end_portal()
        self._marked = marked
        self._portal_end = loop.call_at(end, self._portal_over)
        self._log.warning("KILL SWITCH OPENED: %s, for %g s", portal, seconds)
        await self._reroute(replace(self.policy, portal=portal))

    def _end_portal(self) -> None:
        if self._portal_end is not None:
            self._portal_end.cancel()
            self._portal_end = None
        _close_file(self._marked)
        self._marked = -1

    def _portal_over(self) -> None:
        """The kernel's own timer has closed it by now; what is left is to tidy up."""
        self._end_portal()
        if self._switch is not None and self._reroute is not None:
            self._log.warning("the opening has ended: %s", self._wanted.portal)
            try:
                self._go_over(replace(self._wanted, portal=None))
            except TunnelError as error:
                self._log.error("%s; it stays as it was", error)
            work = self._rerouted(self._reroute)
            self._ending_portal = asyncio.get_running_loop().create_task(work)

    async def _rerouted(self, reroute: Reroute) -> None:
        try:
            await reroute(self.policy)
        except (OSError, TunnelError) as error:
            self._log.error("the portal's routes remain: %s", error)

    def stays_closed(self, ending: Ending) -> bool:
        """Whether it outlives a tunnel that ends so."""
        orderly = ending.reason in ORDERLY and ending.error is None
        return self._switch is not None and not (orderly and not self.policy.lockdown_on_exit)

    def end(self, ending: Ending) -> None:
        """Open it after an orderly end, and leave it closed after any other."""
        self._end_portal()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._switch is None:
            return
        if not self.stays_closed(ending):
            self._open()
            return
        self._switch.leave()
        self._switch = None
        self._log.warning(
            "the kill switch stays closed: nothing leaves; `tunnelctl killswitch off` opens it"
        )

    def _open(self) -> None:
        if self._switch is not None:
            self._switch.open()
            self._switch = None
            self._log.info("kill switch open")

    def _go_over(self, wanted: Desired) -> None:
        if wanted != self._wanted and self._switch is not None:
            self._switch.set(wanted)
        self._wanted = wanted

    def report(self) -> dict[str, Any]:
        """Return what `tunnelctl killswitch --json` shows, but for the schema."""
        now = asyncio.get_running_loop().time()
        return {
            "interface": self._name,
            "kill_switch": self.state,
            "opening": self.opening,
            "lockdown_on_exit": self.policy.lockdown_on_exit,
            "confirm": None if self._timer is None else max(0.0, self._timer.when() - now),
            "rules": [] if self._switch is None else self._switch.report(),
        }

    def _look_at_sessions(self, policy: RoutingPolicy) -> None:
        """List the sessions from outside that end now; refuse to cut off who is logged in."""
        from tunnel.policy.killswitch.sessions import ended_by_closing

        ssh = os.environ.get("SSH_CONNECTION", "")
        later = bool(policy.confirm)
        for session in ended_by_closing(policy.allow_inbound, ssh, confirmed_later=later):
            self._log.warning("closing the kill switch ends a session from outside: %s", session)

    def _time_is_up(self) -> None:
        self._timer = None
        self._log.warning("nobody confirmed the kill switch in time: it opens, the tunnel ends")
        self.policy = replace(self.policy, lockdown_on_exit=False)
        self._finish(Ending(StopReason.USER_INITIATED))


def _close_file(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)
