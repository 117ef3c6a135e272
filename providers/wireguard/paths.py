"""The engine's sockets as paths: attached, proven, and let go, on the event loop.

`Moves` decides where a device's packets leave; this shell sees to it that the engine has sockets
there. Both paths of a proof stay attached, so that both are received on throughout. A connected
socket is let go of before the sockets that it stands beside are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from providers.wireguard.connected import Connected
from tunnel import MAX_PATHS

if TYPE_CHECKING:
    from providers.wireguard.device import Device
    from tunnel import OuterSockets

#: Seconds from a move until the peers are shown the new path once more.
CONFIRM_PAUSE: Final = 1.0


class Paths:
    """`settle` is called when the device may have something to do, and a new deadline.

    `connected` says whether a peer that is settled gets a connected socket.
    """

    def __init__(self, device: Device, settle: Callable[[], None], connected: bool) -> None:
        self._engine = device.engine
        self._device = device
        self._connected = Connected(device, connected)
        self._settle = settle
        self._held = False  # the engine has no sockets for now
        self._proof: asyncio.Future[bool] | None = None
        self._proven: int | None = None  # a path that was moved to, while the old one is open
        self._confirming: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Ask for nothing any more."""
        if self._confirming is not None:
            self._confirming.cancel()
            self._confirming = None

    def use(self, outer: OuterSockets) -> None:
        """Give the engine these sockets and no others; without any, nothing can leave."""
        self._connected.drop()
        self._held = False
        for path in range(MAX_PATHS):
            if path != outer.path or not outer.pairs:
                self._engine.detach_outer(path)
        self._attach(outer)

    def hold(self) -> None:
        """Take all sockets from the engine, which ends a proof: nothing can leave."""
        self._device.moves.end_proof()
        self._connected.drop()
        self._held = True
        for path in range(MAX_PATHS):
            self._engine.detach_outer(path)

    def changed(self, outer: OuterSockets) -> bool:
        """Go over to these sockets alone; tell whether the device was not on them already."""
        proven, self._proven = self._proven, None
        if proven == outer.path == self._device.moves.path:
            self.use(outer)
            return False
        self._connected.drop()
        self._attach(outer)  # before the others go: nothing is to leave where there is no socket
        self._device.moves.forced(outer.path, self._engine.now())
        self.use(outer)
        return True

    async def prove(self, outer: OuterSockets, current: OuterSockets) -> bool:
        """Move to other sockets once the peers answer over them; False if they do not."""
        self._attach(outer)
        loop = asyncio.get_running_loop()
        proof = self._proof = loop.create_future()
        proven = False
        try:
            self._device.moves.begin_proof(outer.path, self._engine.now())
            self._settle()
            proven = bool(await proof)
        except asyncio.CancelledError:
            self._device.moves.forced(current.path, self._engine.now())
            raise
        finally:
            self._proof = None
            if not proven:
                self._engine.detach_outer(outer.path)
        if proven:
            self._proven = outer.path
            # What was on its way over the old path may have moved a peer back to it.
            self._confirming = loop.call_later(CONFIRM_PAUSE, self._confirm)
        return proven

    def look(self, outer: OuterSockets) -> None:
        """See whether a proof is over, and the peer settled on the sockets in use."""
        outcome = self._device.moves.outcome
        if self._proof is not None and not self._proof.done() and outcome is not None:
            self._proof.set_result(outcome)
        if not self._held:
            self._connected.look(outer)

    def _confirm(self) -> None:
        self._confirming = None
        self._device.moves.confirm()
        self._settle()

    def _attach(self, outer: OuterSockets) -> None:
        for worker, (four, six) in enumerate(outer.pairs):
            self._engine.attach_outer(worker, outer.path, four, six)
