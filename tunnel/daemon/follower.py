"""Follower: keeps a running tunnel on its path.

Each time that something happened it brings the sockets to the path of the moment and lets the
provider know. Where a living path is to be left for a better one, the provider first proves that
the far end answers over the other one, while the old one carries on:

    candidate --> second sockets --> provider.prove_path --True--> the second sockets carry the
        ^                                  |                        traffic; the first listen on
        +--- later, with back-off <--False-+                        for LINGER seconds

A proof runs beside all this; whatever overtakes it (the old path dies, the candidate goes, the
policy changes) ends it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tunnel.daemon.underlay import Moved, Underlay
from tunnel.errors import TunnelError

if TYPE_CHECKING:
    from tunnel.policy.interface import Interface
    from tunnel.provider import PacketTunnelProvider

#: Seconds until a move to a new path that failed is tried again.
RETRY_SECONDS: Final = 1
#: Seconds in which packets may still arrive over a path that was left.
LINGER: Final = 3.0
#: Seconds that somebody who changed the policy waits for it to take effect.
PATIENCE: Final = 5.0


class Follower:
    """`show` is called whenever the status may be another one."""

    def __init__(
        self,
        underlay: Underlay,
        provider: PacketTunnelProvider,
        show: Callable[[], None],
        log: logging.Logger,
    ) -> None:
        self._underlay = underlay
        self._provider = provider
        self._show = show
        self._log = log
        self._proof: asyncio.Task[bool] | None = None
        self._proving: Interface | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._mending: asyncio.Task[None] | None = None
        self._onlookers: list[asyncio.Future[None]] = []

    async def followed(self) -> None:
        """Return once all that was stirred before this call has been acted upon, or it takes long.

        The path may then still be under proof.
        """
        done = asyncio.get_running_loop().create_future()
        self._onlookers.append(done)
        await asyncio.wait([done], timeout=PATIENCE)

    async def run(self) -> None:
        """Follow until cancelled. Raises OSError when the kernel cannot be read any more."""
        underlay = self._underlay
        try:
            if underlay.waiting and underlay.path.interface is not None:
                await self._move()  # the interface of the start went away meanwhile
            self._provider.path_noted(underlay.path)
            async for cause in underlay.causes():
                if cause:
                    self._log.info("path: %s; %s", cause, underlay.path.reason)
                onlookers, self._onlookers = self._onlookers, []
                await self._step(unbound_too=bool(cause))
                for done in onlookers:
                    done.set_result(None)
        finally:
            await self._end_proof()
            if self._linger is not None:
                self._linger.cancel()

    def mend(self) -> None:
        """Make again what the kernel took away when the tunnel's interface went down."""
        self._mending = asyncio.create_task(self._mend())

    def renamed(self, name: str) -> None:
        """Follow the tunnel's own interface to its new name."""
        self._log.warning(
            "another program renamed the tunnel's interface to %s: its routes follow, its control "
            "and UAPI sockets keep their names",
            name,
        )
        self._mending = asyncio.create_task(self._rename(name))

    async def _rename(self, name: str) -> None:
        try:
            await self._underlay.rename(name)
        except TunnelError as error:
            self._log.warning("the kill switch does not follow the renamed interface: %s", error)

    async def _mend(self) -> None:
        try:
            await self._underlay.mend()
        except (OSError, TunnelError) as error:
            self._log.warning("the interface is up again, but not its routes: %s", error)

    async def _step(self, *, unbound_too: bool) -> None:
        underlay = self._underlay
        if self._proof is not None:
            if not _are_same(underlay.candidate, self._proving):
                await self._end_proof()
            elif self._proof.done():
                self._conclude(self._proof)
        if self._linger is not None and self._linger.when() <= asyncio.get_running_loop().time():
            await self._settle()
        if unbound_too or underlay.path.bound:
            await self._move()
        self._provider.path_noted(underlay.path)
        if underlay.candidate is not None and self._proof is None:
            await self._begin_proof(underlay.candidate)

    async def _move(self) -> None:
        """Bring the tunnel to the path of the moment."""
        while True:
            moved = await self._underlay.move()
            if moved is not Moved.NOT:
                await self._end_proof()  # its sockets have gone, or will be closed now
                await self._settle()
            self._show()
            if moved is not Moved.FAILED:
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def _settle(self) -> None:
        """Let the provider use the sockets of the path in use, and close all others."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._underlay.sockets.drop_other()
        await self._provider.path_changed(self._underlay.path)
        self._underlay.sockets.release()

    # ---- proofs ----

    async def _begin_proof(self, candidate: Interface) -> None:
        if self._underlay.sockets.other is not None:
            await self._settle()  # the path that was left last has listened for long enough
        try:
            outer = self._underlay.try_on(candidate)
        except (OSError, TunnelError) as error:
            self._refute(candidate, str(error))
            return
        self._log.info("proving %s: a handshake over it, before it is moved to", candidate.name)
        self._proving = candidate
        self._proof = asyncio.create_task(self._provider.prove_path(outer))
        self._proof.add_done_callback(lambda task: self._underlay.stir())

    def _conclude(self, proof: asyncio.Task[bool]) -> None:
        candidate, self._proof, self._proving = self._proving, None, None
        if candidate is None:
            return
        error = proof.exception()
        if error is not None or not proof.result():
            self._refute(candidate, str(error or "the far end does not answer over it"))
            return
        self._underlay.proven()
        self._log.info("moved to %s: the far end answers over it", candidate.name)
        loop = asyncio.get_running_loop()
        self._linger = loop.call_later(LINGER, self._underlay.stir)
        self._show()

    def _refute(self, candidate: Interface, why: str) -> None:
        pause = self._underlay.refuted()
        self._underlay.sockets.release()
        stays = self._underlay.path.interface
        self._log.warning(
            "not moving to %s: %s; %s stays in use, the next try is in %g s",
            candidate.name, why, stays.name if stays else "nothing", pause,
        )  # fmt: skip
        self._show()

    async def _end_proof(self) -> None:
        """End a proof that something has overtaken."""
        proof, self._proof, self._proving = self._proof, None, None
        if proof is None:
            return
        proof.cancel()
        (outcome,) = await asyncio.gather(proof, return_exceptions=True)
        if outcome is True:
            self._underlay.forget()  # the provider has moved already: it must be told again
        else:
            self._underlay.sockets.drop_other()
            self._underlay.sockets.release()


def _are_same(one: Interface | None, other: Interface | None) -> bool:
    """Whether both are the same device, however it is doing."""
    if one is None or other is None:
        return one is other
    return (one.name, one.index) == (other.name, other.index)
