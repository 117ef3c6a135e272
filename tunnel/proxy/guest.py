"""A client of a proxy or a forward: it waits for its dial, and is then spliced.

    connection_made -> came -> (heard ...) -> dial -> granted, joined with its far end
                                                   -> failed

A client is a protocol, not a task: connections through a proxy are many and short, and all that one
needs is told by the bytes that come. Only the dialling of a name, which may wait for anything, is a
task. What a client sends after it has said what it wants is kept for its far end, and one that
sends much is not read from meanwhile. One whose destination is dead waits alone.

What the ways into a tunnel differ in is `came`, `heard`, `granted` and `failed`.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from tunnel.proxy.clients import Clients, dial, dial_at_once
from tunnel.proxy.dialer import Opening
from tunnel.proxy.relay import End, join, reset
from tunnel.proxy.waits import Waits

_EARLY_MOST: Final = 65_536  # bytes that a client may send before it is connected


class Guest(End):
    """One client, from its first byte to its last."""

    __slots__ = (
        "_early", "_loop", "_opening", "_task", "_to", "_wait", "_waits", "clients", "spoke",
    )  # fmt: skip

    def __init__(self, clients: Clients) -> None:
        super().__init__()
        self.clients = clients
        self._loop = asyncio.get_running_loop()
        self._wait: Waits | None = None  # which it is in
        self._task: asyncio.Task[None] | None = None
        self._opening: Opening | None = None
        self._waits = False  # for its dial
        self._early = b""  # what it sent meanwhile
        self._to: tuple[str, int] = ("", 0)
        self.spoke = False  # it sent something for its destination

    # ---- what the ways differ in ----

    def came(self, *, full: bool) -> None:
        """It is there; with `full` only to hear that there is no place for it."""
        if full:
            reset(self.transport)

    def heard(self, data: bytes) -> None:
        """Take what it sends before `dial`."""

    def late(self) -> None:
        """It did not say what it wants in time."""
        self.transport.abort()

    def far_end(self) -> End:
        """Make the end of its destination."""
        return Far(self)

    def granted(self, far: End) -> None:
        """Its destination is there: tell it, if it is to be told."""

    def failed(self, error: BaseException) -> None:
        """There is no connection."""
        reset(self.transport)  # as the destination itself would refuse

    # ---- what happens ----

    def connection_made(self, transport: Any) -> None:
        """Take a place."""
        self.transport = transport
        clients = self.clients
        if clients.enter(self):
            self.came(full=clients.capacity.is_over)
        else:
            reset(transport)

    def end(self) -> None:
        """Go now."""
        reset(self.transport)

    def within(self, seconds: float) -> None:
        """Call `late` then, unless it is known what the client wants."""
        self.in_time()
        self._wait = self.clients.waits(seconds)
        self._wait.begin(self, self._loop)

    def in_time(self) -> None:
        """Do not call `late` any more."""
        wait, self._wait = self._wait, None
        if wait is not None:
            wait.end(self)

    def data_received(self, data: bytes | memoryview) -> None:
        """Carry on what came, or listen to it."""
        other = self.other
        if other is not None:
            self.spoke = True
            other.transport.write(data)
        elif self._waits:
            self._early += data
            if len(self._early) >= _EARLY_MOST:
                self.transport.pause_reading()
        else:
            self.heard(bytes(data))

    def eof_received(self) -> bool:
        """It sends no more, and may still want to hear."""
        if self.other is not None:
            return super().eof_received()
        self.finished = True
        return self._waits

    def connection_lost(self, error: BaseException | None) -> None:
        """Give up what was wanted for it."""
        super().connection_lost(error)
        self.in_time()
        self._waits = False
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.abort()
        task = self._task
        if task is None or task.done():
            self.clients.leave(self)
        else:
            task.cancel()
            task.add_done_callback(lambda _: self.clients.leave(self))

    # ---- dialling ----

    def dial(self, host: str, port: int, early: bytes = b"") -> None:
        """Connect it; `early` is what it sent for its destination already."""
        self.in_time()
        self._waits, self._early = True, early
        self._to = (host, port)
        try:
            self._opening = dial_at_once(self.clients, self._opened, host, port)
        except OSError as error:
            self._failed(error)
            return
        if self._opening is None:
            self.run(self._dial(host, port))

    def run(self, work: Any) -> None:
        """Have a task that ends with the client."""
        self._task = self._loop.create_task(work)

    async def _dial(self, host: str, port: int) -> None:
        try:
            await dial(self.clients.network, self.far_end(), host, port)
        except OSError as error:
            self._failed(error)

    def _opened(self, transport: Any, error: BaseException | None) -> None:
        if self._opening is None:
            return  # it was given up
        self._opening = None
        if error is None:
            transport.begin(self.far_end())
        else:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self._waits = False
        self.clients.log.debug("no connection for a client: %s", error)
        if not self.transport.is_closing():
            self.failed(error)

    def greeted(self) -> None:
        """The first of its destination has come."""
        if not self.spoke:
            self.clients.greeted(*self._to)

    def connected(self, far: End) -> None:
        """The destination is there: say so, then carry."""
        self._waits = False
        if self.transport.is_closing():
            far.transport.abort()
            return
        self.granted(far)
        join(self, far)
        early, self._early = self._early, b""
        if early:
            if len(early) >= _EARLY_MOST:
                self.transport.resume_reading()
            self.data_received(early)
        if self.finished:
            self.eof_received()


class Far(End):
    """A client's destination. It is joined as soon as it stands, before anything comes of it."""

    __slots__ = ("_guest",)

    def __init__(self, guest: Guest) -> None:
        super().__init__()
        self._guest: Guest | None = guest

    def connection_made(self, transport: Any) -> None:
        """Be joined."""
        self.transport = transport
        if self._guest is not None:
            self._guest.connected(self)

    def data_received(self, data: bytes | memoryview) -> None:
        """Note whether it speaks first."""
        guest, self._guest = self._guest, None
        if guest is not None:
            guest.greeted()
        super().data_received(data)
