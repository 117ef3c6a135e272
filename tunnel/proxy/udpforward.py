"""Forwarding UDP: every sender gets a socket of its own on the other network.

An answer goes back to the sender whose socket it came to. A flow ends when nothing has passed for a
while; where there are too many, the one that has been quiet for longest makes room.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import OrderedDict
from typing import Any, Final

from tunnel.errors import TunnelError
from tunnel.proxy.dialer import Dialer

IDLE_SECONDS: Final = 180.0
FLOWS_MOST: Final = 1024
_WAITING_MOST: Final = 16
"""Datagrams of a flow whose socket is not open yet."""


class _Flow(asyncio.DatagramProtocol):
    """One sender and its socket."""

    def __init__(self, owner: UdpForward, sender: Any) -> None:
        self._owner = owner
        self.sender = sender
        self.used = owner.now()
        self.waiting: list[bytes] = []
        self.opening: asyncio.Task[None] | None = None
        self.transport: asyncio.DatagramTransport | None = None

    def send(self, data: bytes) -> None:
        if self.transport is not None:
            _send(self.transport, data)
        elif len(self.waiting) < _WAITING_MOST:
            self.waiting.append(data)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self._owner.answer(data, self)

    def close(self) -> None:
        if self.opening is not None:
            self.opening.cancel()
        if self.transport is not None:
            self.transport.close()


class UdpForward(asyncio.DatagramProtocol):
    """Carries what arrives on one network at a place to one destination on another."""

    def __init__(self, network: Dialer, host: str, port: int, *, most: int = FLOWS_MOST) -> None:
        self._network = network
        self._to = (host, port)
        self._most = most
        self._flows: OrderedDict[Any, _Flow] = OrderedDict()
        self._transport: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def now(self) -> float:
        """Seconds of the event loop's clock."""
        return self._loop.time()

    async def listen(self, network: Dialer, host: str, port: int) -> None:
        """Begin to take datagrams. Raises OSError."""
        self._transport, _ = await network.create_datagram_endpoint(lambda: self, (host, port))
        self._timer = self._loop.call_later(IDLE_SECONDS / 4, self._sweep)

    async def aclose(self) -> None:
        """Close all sockets."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()
        for flow in self._flows.values():
            flow.close()
        opening = [flow.opening for flow in self._flows.values() if flow.opening is not None]
        await asyncio.gather(*opening, return_exceptions=True)
        self._flows.clear()

    def answer(self, data: bytes, flow: _Flow) -> None:
        """Send an answer back to whom it is for."""
        if self._flows.get(flow.sender) is flow:
            self._touch(flow)
        if self._transport is not None:
            _send(self._transport, data, flow.sender)

    def _touch(self, flow: _Flow) -> None:
        """Something has passed: it is the last to make room."""
        flow.used = self.now()
        self._flows.move_to_end(flow.sender)

    def datagram_received(self, data: bytes, sender: Any) -> None:
        """Take a datagram."""
        flow = self._flows.get(sender)
        if flow is None:
            if len(self._flows) >= self._most:
                self._flows.popitem(last=False)[1].close()
            flow = self._flows[sender] = _Flow(self, sender)
            flow.opening = self._loop.create_task(self._open(flow))
        self._touch(flow)
        flow.send(data)

    async def _open(self, flow: _Flow) -> None:
        try:
            await self._network.create_datagram_endpoint(lambda: flow, None, self._to)
        except (OSError, TunnelError):
            self._flows.pop(flow.sender, None)  # the next datagram tries again
            return
        waiting, flow.waiting = flow.waiting, []
        for data in waiting:
            flow.send(data)

    def _sweep(self) -> None:
        self._timer = self._loop.call_later(IDLE_SECONDS / 4, self._sweep)
        quiet = [flow for flow in self._flows.values() if self.now() - flow.used >= IDLE_SECONDS]
        for flow in quiet:
            del self._flows[flow.sender]
            flow.close()


def _send(transport: asyncio.DatagramTransport, data: bytes, place: Any = None) -> None:
    """Send a datagram, an empty one too, which event loops take for nothing to send."""
    kernel = None if data else transport.get_extra_info("socket")
    if kernel is None:
        transport.sendto(data, place)
        return
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(kernel.fileno())) as twin:
        twin.sendmsg([b""], (), 0, place)
