"""WireGuardProvider: the device on an event loop, with a session's links and sockets.

Everything that decides is in the device; this shell moves events and time into it, and gives the
engine the descriptors that the session owns. One reader on the engine's eventfd, one timer.

The engine's clock counts sleep and the loop's does not, so the timer is never set further ahead
than TIMER_MAX: what came due during a suspend is done that long after it at the latest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, ClassVar, Final

from providers.wireguard.change import DeviceChange, DeviceSnapshot, PeerChange
from providers.wireguard.device import Device
from providers.wireguard.fromconfig import change_between, first_change, literal
from providers.wireguard.messages import SECOND
from providers.wireguard.names import Names
from providers.wireguard.paths import Paths
from providers.wireguard.peer import Phase
from providers.wireguard.saved import save
from providers.wireguard.scopes import numbered
from providers.wireguard.snapshot import check_change
from providers.wireguard.status import peer_report, tunnel_status
from providers.wireguard.uapi_socket import DIRECTORY, UapiServer
from tunnel import (
    REAL_TIME,
    Engine,
    EventKind,
    PacketTunnelProvider,
    StopReason,
    TunnelError,
    crypto_flags,
    crypto_name,
    tunnel_settings,
    without_flags,
)

if TYPE_CHECKING:
    from tunnel import Address, Config, Event, OuterSockets, Path, TunnelSettings

TIMER_MAX: Final = 30.0  # seconds
LINK_GRACE: Final = 1.0  # seconds in which the session may find out for itself why a link failed

_ORDERLY: Final = frozenset(
    {StopReason.NONE, StopReason.USER_INITIATED, StopReason.CONFIGURATION_REMOVED}
)


class WireGuardProvider(PacketTunnelProvider):
    """WireGuard. `options`: `uapi` False for no configuration socket, or the folder for it."""

    uses_private_key: ClassVar[bool] = True

    def __init__(self, *, log: logging.Logger | None = None) -> None:
        self._log = log or logging.getLogger("tunnel.wireguard")
        self._engine: Engine | None = None
        self._device: Device | None = None
        self._uapi: UapiServer | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._names: Names | None = None
        self._settings: TunnelSettings | None = None
        self._trouble = ""
        self._paths: Paths | None = None

    @property
    def device(self) -> Device:
        """The device, between start and stop."""
        if self._device is None:
            raise TunnelError("the tunnel is not running; start it first")
        return self._device

    @property
    def engine(self) -> Engine:
        """The engine, between start and stop."""
        if self._engine is None:
            raise TunnelError("the tunnel is not running; start it first")
        return self._engine

    @property
    def _open_paths(self) -> Paths:
        if self._paths is None:
            raise TunnelError("the tunnel is not running; start it first")
        return self._paths

    # ---- life ----

    async def start_tunnel(self, options: Mapping[str, Any]) -> None:
        """Bring the device up as configured, and begin handshakes with peers that have endpoints.

        A name that does not resolve does not stop the others; it is looked up again.
        """
        context = self.context
        config = context.config
        change = first_change(config)
        try:
            check_change(change)
            crypto = crypto_flags(options.get("crypto", "auto"))
            without = options.get("without", ())
            flags = crypto | without_flags(without)
            flags |= REAL_TIME if options.get("real_time") else 0
            self._engine = Engine(workers=context.workers, flags=flags)
            self._log.debug("packets are sealed with %s", crypto_name(crypto))
            self._device = Device(self._engine, wall=time.time_ns)
            for worker, link in enumerate(context.links):
                self._engine.attach_link(worker, link, context.link_flags, context.mtu)
            self._paths = Paths(self._device, self._settle, "connected-udp" not in without)
            self._paths.use(context.outer)
            self._device.configure(numbered(change), self._engine.now())
            self._permit(change.peers)
        finally:
            change.wipe()
        self._settings = tunnel_settings(config)
        await context.apply(self._settings)
        self._engine.set_mtu(context.mtu)
        self._engine.start()
        asyncio.get_running_loop().add_reader(self._engine.event_fd, self._on_events)
        if uapi := options.get("uapi", True):
            directory = DIRECTORY if uapi is True else FilePath(uapi)
            self._uapi = UapiServer(
                context.interface, self, directory=directory, on_removed=self._socket_removed,
                log=self._log.info,
            )  # fmt: skip
            await self._uapi.start()
        self._names = Names(context.resolve, self._address_of, self._move_peer, self._note)
        self._names.use(config)
        placed = [peer.public_key for peer in config.peers if literal(peer.endpoint) is not None]
        self._device.connect(self._engine.now(), *placed)
        self._settle()

    async def stop_tunnel(self, reason: StopReason) -> None:
        """Release everything and zero every secret."""
        if self._names is not None:
            await self._names.close()
            self._names = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._paths is not None:
            self._paths.close()
            self._paths = None
        try:
            if self._uapi is not None:
                await self._uapi.close()
            if self._device is not None and reason in _ORDERLY:
                save(self.context.config, self.get_snapshot())
        finally:
            self._uapi = None
            if self._engine is not None:
                asyncio.get_running_loop().remove_reader(self._engine.event_fd)
                self._engine.stop()
            if self._device is not None:
                self._device.close()
            if self._engine is not None:
                self._engine.close()
            self._device = self._engine = None

    async def path_changed(self, path: Path) -> None:
        """Use the sockets of the path in use, and no others; let the peers learn it at once."""
        if self._paths is None:
            return
        self._trouble = ""
        outer = self.context.outer
        if self._paths.changed(outer) and outer.pairs and self._names is not None:
            self._names.moved()
        self._settle()

    def path_noted(self, path: Path) -> None:
        """Look for silence while there is another path to go to."""
        if self._device is not None:
            watchful = path.bound and len(path.interfaces) > 1
            self._device.moves.watch(watchful, self.engine.now())
            self._settle()

    async def prove_path(self, outer: OuterSockets) -> bool:
        """Begin handshakes over another path, and go over to it once they are answered."""
        return self._paths is None or await self._paths.prove(outer, self.context.outer)

    def stack_port(self) -> Engine:
        """Let the session's own stack share the engine."""
        return self.engine

    def stack_host(self) -> Engine | None:
        """Let the session's own stack take the turns of a worker that is the only one."""
        return self.engine if self.context.workers == 1 else None

    def mtu_changed(self, mtu: int) -> None:
        """Pad up to another MTU from now on."""
        if self._engine is not None:
            self._engine.set_mtu(mtu)

    # ---- events and time ----

    def _on_events(self) -> None:
        try:
            now = self.engine.now()
            for event in self.engine.read_events():
                if event.kind is EventKind.LINK_FAILED:
                    self._link_failed(event)
                elif event.kind is EventKind.OUTER_FAILED:
                    self._trouble = os.strerror(event.value)
                else:
                    if event.kind is EventKind.MESSAGE:
                        self._trouble = ""  # something comes through
                    self.device.handle_event(event, now)
        finally:
            self._settle()

    def _on_timer(self) -> None:
        self._timer = None
        try:
            now = self.engine.now()
            self.device.handle_timeout(now)
            if self._names is not None:
                self._names.check(self._attempts, now)
        finally:
            self._settle()

    def _settle(self) -> None:
        """After anything happened: set the timer, tell the session how the tunnel is doing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.device.next_deadline()
        if deadline is not None:
            delay = min(max(0.0, (deadline - self.engine.now()) / SECOND), TIMER_MAX)
            self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)
        if self.device.moves.suspect:
            self.device.moves.suspect = False
            self.context.path_silent()
        if self.device.returned:
            self.device.returned = False
            self.context.peer_returned()
        self._open_paths.look(self.context.outer)
        self.context.status_changed(*tunnel_status(self.device, self._trouble, self.context.path))

    def _link_failed(self, event: Event) -> None:
        error = TunnelError(
            f"{self.context.interface}: a queue of the interface failed: "
            f"{os.strerror(event.value)}; start the tunnel again"
        )
        # Mostly the interface was deleted, which the session notices too, and ends in its own way.
        asyncio.get_running_loop().call_later(LINK_GRACE, self._cancel, error)

    def _socket_removed(self) -> None:
        self._cancel(
            TunnelError("the configuration socket was removed; ending"),
            StopReason.CONFIGURATION_REMOVED,
        )

    def _cancel(self, error: TunnelError, reason: StopReason = StopReason.PROVIDER_FAILED) -> None:
        if self._engine is not None:
            self.context.cancel(error, reason)

    # ---- names ----

    def _address_of(self, public_key: bytes) -> Address | None:
        """Return the address that a peer is reached at. Raises KeyError for one that is gone."""
        end = self.engine.peer_info(self.device.peers.by_key[public_key].id).endpoint
        return None if end is None else end.address

    def _attempts(self, public_key: bytes) -> tuple[int, bool] | None:
        """Return a peer's initiations in a row, and whether it is up; None for one that is gone."""
        peer = self.device.peers.by_key.get(public_key)
        return None if peer is None else (peer.timers.attempts, peer.phase is Phase.UP)

    def _move_peer(self, public_key: bytes, address: Address, port: int) -> None:
        """Reach a peer at another address from now on."""
        change = PeerChange(public_key, update_only=True, endpoint=(address, port))
        self._permit((change,))
        now = self.engine.now()
        self.device.configure(numbered(DeviceChange(peers=(change,))), now)
        self._permit_no_more()
        self.device.connect(now, public_key)
        self._settle()

    def _note(self, public_key: bytes, text: str) -> None:
        self.device.peers.by_key[public_key].note = text
        self._settle()

    # ---- configuration ----

    def get_snapshot(self) -> DeviceSnapshot:
        """Return the device as `wg show` shows it. Port and mark are those in force."""
        outer = self.context.outer
        return replace(self.device.snapshot(), listen_port=outer.port, fwmark=outer.mark)

    async def configure(self, change: DeviceChange) -> None:
        """Carry out a change of `wg set`. Raises OSError, TunnelError or ValueError.

        The sockets come first, since only they can refuse (the port may be taken); after that
        nothing can fail.
        """
        change = numbered(change)
        check_change(change)
        self._permit(change.peers, change.fwmark)
        if change.listen_port is not None:
            self._set_port(change.listen_port)
        if change.fwmark is not None:
            await self._set_mark(change.fwmark)
        self.device.configure(change, self.engine.now())
        self._permit_no_more()
        for peer in change.peers:
            if peer.endpoint is not None and self._names is not None:
                self._names.forget(peer.public_key)
        self._settle()

    async def reload(self, config: Config) -> None:
        """Go over to another configuration; sessions of peers that stay go on."""
        old, outer = self.context.config, self.context.outer
        change = change_between(old, config)
        try:
            placed = numbered(change)
            check_change(placed)
            self._permit(placed.peers)
            old_port = outer.port
            if config.interface.listen_port != old.interface.listen_port:
                self._set_port(config.interface.listen_port)
            try:
                await self._apply(tunnel_settings(config))
            except BaseException:
                self._set_port(old_port)
                raise
            self.device.configure(placed, self.engine.now())
            self._permit_no_more()
        finally:
            change.wipe()
        if self._names is not None:
            self._names.use(config)
        self._settle()

    def _permit(self, coming: Sequence[PeerChange], mark: int | None = None) -> None:
        """Tell the session where packets go from now on, those of a coming change included."""
        far = [*self.device.peers.places(), *(p.endpoint for p in coming)]
        self.context.permit([endpoint for endpoint in far if endpoint is not None], mark)

    def _permit_no_more(self) -> None:
        """After a change: where peers are no longer, nothing goes. What cannot be done waits."""
        with contextlib.suppress(TunnelError):
            self._permit(())

    async def _apply(self, settings: TunnelSettings) -> None:
        """Go over to other settings; on an error the old ones are made again.

        While rules and the sockets' mark do not agree, our own packets would be routed into the
        tunnel, and in it again, so that meanwhile none leaves.
        """
        old = self._settings
        if settings == old:
            return
        self._open_paths.hold()
        try:
            await self.context.apply(settings)
            self._settings = settings
        except BaseException:
            if old is not None:
                with contextlib.suppress(TunnelError, OSError):
                    await self.context.apply(old)
            raise
        finally:
            self._open_paths.use(self.context.outer)
            self.context.outer.release()

    def _set_port(self, port: int) -> None:
        self.device.moves.end_proof()  # its sockets have the old port
        before = self.context.outer.pairs
        try:
            self.context.outer.set_port(port)
        finally:
            if self.context.outer.pairs != before:
                self._open_paths.use(self.context.outer)
            self.context.outer.release()

    async def _set_mark(self, mark: int) -> None:
        """Take the mark that was asked for; under a default route 0 means one of our choice."""
        if self._settings is not None:
            await self._apply(replace(self._settings, fwmark=mark))

    # ---- reports ----

    def peers(self) -> list[dict[str, Any]]:
        """Return the `peers` list of `tunnelctl status --json`."""
        if self._device is None or self._engine is None:
            return []
        now = self._engine.now()
        return [peer_report(self._device, peer, now) for peer in self._device.peers]

    def counters(self) -> dict[str, int]:
        """Return the engine's counters and those of refused handshakes."""
        if self._device is None or self._engine is None:
            return {}
        return {**self._engine.counters(), **self._device.counts}
