"""TunnelSession: one running tunnel. It owns everything that a tunnel makes on this machine.

A session starts in one order and stops in the reverse one. Each thing that it makes puts its own
removal on a stack (`_undo`); stopping empties the stack, from the top, whatever fails on the way,
and a start that fails halfway empties it too. One task (`_live`) does all of this, so that start
and stop cannot overtake each other: `stop`, `cancel`, the interface's deletion and a signal only
leave a request for it.

Between start and stop it follows the path: the underlay moves first, then the provider learns.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

from tunnel.config import Config
from tunnel.daemon import status as states
from tunnel.daemon.barrier import Barrier
from tunnel.daemon.follower import Follower
from tunnel.daemon.grace import Grace
from tunnel.daemon.inside import InTunnel
from tunnel.daemon.machine import Machine
from tunnel.daemon.report import endpoints, stats_report, status_report
from tunnel.daemon.status import Ending
from tunnel.daemon.underlay import Underlay
from tunnel.daemon.undo import Step, Undo
from tunnel.daemon.words import binding_line
from tunnel.errors import TunnelError
from tunnel.provider import PacketTunnelProvider, StopReason, TunnelStatus

if TYPE_CHECKING:
    from tunnel.bind import OuterSockets
    from tunnel.config import HostPort, InterfaceOverride
    from tunnel.flow import PacketFlow
    from tunnel.policy.binding import PathPolicy
    from tunnel.policy.path import Path
    from tunnel.settings import Address, RoutingPolicy, TunnelSettings

#: Seconds that one step of stopping may take (hooks, which are the user's, may take any time).
STEP_SECONDS: Final = 10


class TunnelSession(InTunnel):
    """Runs a provider's tunnel on this machine.

        async with TunnelSession(LoopbackProvider(), name="loop0") as session:
            await session.wait(TunnelStatus.CONNECTED)

    `policy` says which interfaces the tunnel's own traffic may use (None: no restriction),
    `overrides` what the classifier should believe of some. With `manage` False the session makes
    the interface and leaves its addresses, MTU and routes to others, such as wg-quick. A session
    is the `context` of its provider (`tunnel.ProviderContext`).
    """

    def __init__(
        self,
        provider: PacketTunnelProvider,
        *,
        config: Config | None = None,
        name: str = "tunnel0",
        policy: PathPolicy | None = None,
        overrides: Mapping[str, InterfaceOverride] | None = None,
        workers: int = 1,
        manage: bool = True,
        options: Mapping[str, Any] | None = None,
        machine: Machine | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        if policy is None:
            from tunnel.policy.binding import BindingPolicy

            policy = BindingPolicy()
        self.provider = provider
        self.config = config or Config()
        self.interface = name
        self.workers = workers
        self.policy: PathPolicy = policy
        self.overrides = dict(overrides or self.config.interfaces)
        self.machine = machine or Machine()
        self.options = {**self.machine.options, **(options or {})}
        self.log = log or logging.getLogger("tunnel")
        self.status = TunnelStatus.DISCONNECTED
        self.status_reason = ""
        self.failure: BaseException | None
        self._manage = manage
        self._undo = Undo(self.log)
        self._live: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._reset()

    def _reset(self) -> None:
        self.failure = None
        self._reported = (TunnelStatus.CONNECTING, "")
        self.barrier = Barrier(self.interface, self.config.routing, self.machine, self.log)
        self._underlay = Underlay(
            self.machine, self.policy, self.overrides, self.interface, self.workers, self.log,
            self.config, self.barrier,
        )  # fmt: skip
        self._underlay.endpoints = lambda: endpoints(self.provider.peers())
        self._follower = Follower(self._underlay, self.provider, self._show_reported, self.log)
        self._grace = Grace(
            lambda why: self.cancel(TunnelError(why), StopReason.NO_NETWORK_AVAILABLE)
        )
        self.dns = self.machine.dns(self.log.info, lambda: self.path)
        self.interfaces = self._underlay.interfaces
        self._flow: PacketFlow | None = None

    # ---- for the application ----

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop(StopReason.USER_INITIATED)

    async def start(self) -> None:
        """Bring the tunnel up; returns once the provider has started.

        Raises TunnelError or one of its kinds, after everything was removed again.
        """
        if self.status not in states.ENDED:
            raise TunnelError(f"{self.interface}: this session has been started already")
        self._reset()
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._show(TunnelStatus.CONNECTING, "starting")
        self._live = asyncio.create_task(self._run(), name=f"{self.interface}-session")
        try:
            await asyncio.wait({self._live, self._started}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.stop(StopReason.USER_INITIATED)
            raise
        self._raise_failure()

    async def stop(self, reason: StopReason = StopReason.USER_INITIATED) -> None:
        """Stop, and remove all that the session made. Safe to call again, and at any time."""
        if self._live is not None:
            self._end(Ending(reason))
            await asyncio.shield(self._live)

    async def wait(self, status: TunnelStatus) -> None:
        """Wait for a status. Raises the session's failure when it ends without reaching it."""
        while self.status is not status:
            if self.status in states.ENDED:
                self._raise_failure()
                raise TunnelError(f"{self.interface}: the tunnel is {self.status.value}")
            await self._changed.wait()

    async def wait_stopped(self) -> None:
        """Wait until the tunnel has ended. Raises its failure, if it was one that ended it."""
        if self._live is not None:
            await asyncio.shield(self._live)
        self._raise_failure()

    async def reload(self, config: Config, policy: PathPolicy | None = None) -> None:
        """Go over to another configuration of the same tunnel; on an error nothing changes.

        `policy` is what its binding comes to, needed where that is another one than before.
        """
        old = self.config
        await self.set_routing(config.routing)
        try:
            await self.provider.reload(config)
        except BaseException:
            await self.set_routing(old.routing)
            raise
        self.config = config
        self._net_reloaded(config)
        if config.binding != old.binding or config.interfaces != old.interfaces:
            await self.set_policy(policy or self.policy, config.interfaces)

    async def set_routing(self, routing: RoutingPolicy) -> None:
        """Go over to other demands on the routes, which may close or open the kill switch."""
        if routing != self.config.routing:
            await self.barrier.set_policy(routing)
            self.config = replace(self.config, routing=routing)

    async def set_policy(
        self, policy: PathPolicy, overrides: Mapping[str, InterfaceOverride] | None = None
    ) -> None:
        """Use only what another policy permits from now on; the tunnel stays up."""
        self.policy = policy
        self.overrides = dict(self.overrides if overrides is None else overrides)
        await self._underlay.set_policy(policy, self.overrides, self.config.binding)
        await self._follower.followed()
        self.log.info("%s", binding_line(policy, self.path, self.config.routing))

    def report(self) -> dict[str, Any]:
        """Return what `tunnelctl status --json` shows (contract.md)."""
        name, path, peers = self.interface, self.path, self.provider.peers()
        return status_report(name, self.status, self.status_reason, path, peers, self.barrier)

    def stats(self) -> dict[str, Any]:
        """Return what `tunnelctl stats --json` shows: counters by reason."""
        return stats_report(self.interface, self.provider.counters())

    # ---- for the provider (ProviderContext) ----

    @property
    def links(self) -> Sequence[int]:
        """One TUN queue descriptor a worker."""
        return self._tun.fds

    @property
    def link_flags(self) -> int:
        """TC_LINK_* flags of the queues."""
        return self._tun.link_flags

    @property
    def packet_flow(self) -> PacketFlow:
        """Batches of packets on the first queue."""
        if self._flow is None:
            from tunnel.flow import PacketFlow

            self._flow = PacketFlow(self.links[0], self.link_flags)
        return self._flow

    @property
    def outer(self) -> OuterSockets:
        """The outer sockets, closed while there is no permitted interface."""
        return self._underlay.outer

    @property
    def path(self) -> Path:
        """The path of this moment."""
        return self._underlay.path

    @property
    def mtu(self) -> int:
        """The tunnel interface's MTU."""
        return self._watch.mtu

    async def apply(self, settings: TunnelSettings) -> None:
        """Make the machine and the sockets' mark agree with these settings. Idempotent."""
        if self._manage:
            await self._underlay.apply(settings)
            await self.dns.apply(self.interface, settings.dns)
            self._watch.look()
        else:
            self._underlay.sockets.set_mark(settings.fwmark)

    async def resolve(self, endpoint: HostPort) -> list[Address]:
        """Resolve an endpoint's name over the permitted interface only."""
        path = await self._underlay.refresh()
        path = self.barrier.path_of_names(path, self._underlay.sockets.interfaces)
        return await self.machine.resolve(endpoint, path, self.outer.mark)

    def permit(self, endpoints: Iterable[tuple[Address, int]], mark: int | None = None) -> None:
        """Let outer packets of this mark reach these far ends alone past the kill switch."""
        self.barrier.update(endpoints=endpoints, coming_mark=mark)

    def status_changed(self, status: TunnelStatus, reason: str = "") -> None:
        """Take the provider's report."""
        if status not in states.REPORTABLE:
            raise ValueError(f"a provider does not report {status.value}")
        self._reported = (status, reason)
        self._show_reported()

    def path_silent(self) -> None:
        """Let another permitted path be proven: nothing comes back over the one in use."""
        self._underlay.silent()

    def cancel(self, error: BaseException, reason: StopReason = StopReason.PROVIDER_FAILED) -> None:
        """End the tunnel because of an error that the provider cannot mend."""
        if reason is StopReason.CONFIGURATION_REMOVED:
            self.log.warning("%s", error)
            self._end(Ending(reason))
        else:
            self._end(Ending(reason, error))

    # ---- life ----

    async def _run(self) -> None:
        """Live once: up, follow the path until an ending is asked for, down."""
        ending = await self._until_ending(self._bring_up())
        if ending is None:
            self._started.set_result(None)
            ending = await self._until_ending(self._follower.run())
        if ending is None:  # the monitor ends only when it is closed, which is ours to do
            ending = Ending(StopReason.INTERNAL_ERROR, TunnelError("the path monitor ended"))
        self._end(ending)
        self._grace.mind(None, "")
        self._show(TunnelStatus.DISCONNECTING, ending.reason.value)
        self._underlay.keep_closed = self.barrier.stays_closed(ending)
        await self._undo.unwind()
        self.failure = ending.error
        if ending.error is None:
            self._show(TunnelStatus.DISCONNECTED, ending.reason.value)
        else:
            self.log.debug("traceback", exc_info=ending.error)
            self._show(TunnelStatus.ERROR, str(ending.error) or type(ending.error).__name__)

    async def _until_ending(self, work: Coroutine[Any, Any, None]) -> Ending | None:
        """Run until the work is done (None), it fails, or somebody asks for the ending."""
        task = asyncio.create_task(work)
        either: set[asyncio.Future[Any]] = {task, self._ending}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._end(Ending(StopReason.INTERNAL_ERROR, TunnelError("the event loop was closed")))
        task.cancel()
        (error,) = await asyncio.gather(task, return_exceptions=True)
        if self._ending.done():
            return self._ending.result()
        return Ending(StopReason.PROVIDER_FAILED, error) if error is not None else None

    def _end(self, ending: Ending) -> None:
        """Ask for the end; the first to ask gives the reason."""
        if not self._ending.done():
            self._ending.set_result(ending)

    async def _bring_up(self) -> None:
        name, machine, interface = self.interface, self.machine, self.config.interface
        machine.check()
        self._push("the kill switch", lambda: self.barrier.end(self._ending.result()))
        self.barrier.start(self._end, self._underlay.set_routing)
        self._push("the path monitor", self._underlay.unwatch)
        await self._underlay.watch()
        self.log.info("%s", binding_line(self.policy, self.path, self.config.routing))

        # Hooks nest around the interface as in wg-quick(8): PreUp before it, PostDown after it.
        self._push_hooks("PostDown", interface.post_down)
        await machine.run_hooks("PreUp", interface.pre_up, name, self.log.info)
        self._tun = machine.create_tun(name, self.workers)
        self._push(f"interface {name}", self._tun.close)
        seen = self._follower
        self._watch = machine.watch(
            name, self._interface_gone, self.provider.mtu_changed, seen.mend, seen.renamed
        )
        self._push("the interface's watch", self._watch.close)
        self._push("the packet flow", self._close_flow)

        self._push("routes and rules", self._underlay.clear)
        self._push("DNS", self.dns.clear)
        self._push("the outer sockets", self._underlay.sockets.close)
        await self._underlay.open(interface.listen_port, interface.fwmark)

        self.provider.context = self
        self._push("the provider", self._stop_provider)
        await self.provider.start_tunnel(self.options)
        self._show_reported()
        self._push_hooks("PreDown", interface.pre_down)
        await machine.run_hooks("PostUp", interface.post_up, name, self.log.info)

    async def _stop_provider(self) -> None:
        interface = self.config.interface
        if self._manage and interface.save_config:  # wg-quick saves what `ip` has added, too
            with contextlib.suppress(OSError):
                found = await self.machine.addresses(self.interface, interface.addresses)
                self.config = replace(self.config, interface=replace(interface, addresses=found))
        await self.provider.stop_tunnel(self._ending.result().reason)

    def _push(self, what: str, step: Step) -> None:
        self._undo.push(what, step, seconds=STEP_SECONDS)

    def _push_hooks(self, phase: str, commands: Sequence[str]) -> None:
        run, log = self.machine.run_hooks, self.log.info
        step = functools.partial(run, phase, commands, self.interface, log, keep_going=True)
        self._undo.push(phase, step, seconds=None)

    def _close_flow(self) -> None:
        if self._flow is not None:
            self._flow.close()

    def _interface_gone(self) -> None:
        error = TunnelError(f"interface {self.interface} was deleted by another program")
        self.cancel(error, StopReason.CONFIGURATION_REMOVED)

    # ---- the status ----

    def _show_reported(self) -> None:
        self._net_sees(self.path)
        waiting = self._underlay.waiting
        self._show(*states.seen(*self._reported, waiting))
        lost = waiting if self.status is TunnelStatus.REASSERTING else ""
        self._grace.mind(self.config.binding.grace, lost)

    def _show(self, asked: TunnelStatus, reason: str) -> None:
        """Take the step that the table of states has for this, and tell who waits for one."""
        status = states.follow(self.status, asked)
        if status is self.status and (
            asked not in states.NEXT[status] or reason == self.status_reason
        ):
            return
        self.status, self.status_reason = status, reason
        self.barrier.show(status)
        self.log.info("%s", f"{status.value}: {reason}" if reason else status.value)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure
