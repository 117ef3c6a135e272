"""Two connections joined without a task: what comes from one is written to the other.

    client  <->  transport  End  |  End  transport  <->  destination

Each direction ends by itself: where one side has sent all that it will, the other is told, and goes
on sending. A side that does not read holds up its sender and nobody else. An error on one side
resets the other, so that neither takes a broken transfer for a whole one.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, Final

_AT_ONCE: Final = struct.pack("ii", 1, 0)


class End(asyncio.Protocol):
    """One of two; `other` is where what comes goes, None until both are there."""

    __slots__ = ("finished", "other", "transport")

    def __init__(self) -> None:
        self.transport: Any = None
        self.other: End | None = None
        self.finished = False  # this side sends no more

    def connection_made(self, transport: Any) -> None:
        """Take the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Carry on what came."""
        if self.other is not None:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        """Tell the other side; this one is closed when both have ended."""
        self.finished = True
        other = self.other
        if other is None:
            return False
        if other.finished:
            self.transport.close()
            other.transport.close()
        elif not other.transport.is_closing():
            other.transport.write_eof()
        return True

    def connection_lost(self, error: BaseException | None) -> None:
        """End the other side: in order when this one ended so, else with a reset."""
        other, self.other = self.other, None
        if other is None:
            return
        if error is None and self.finished:
            other.transport.close()
        else:  # what it has not read yet is lost: it may never read it, and nobody waits for that
            reset(other.transport)

    def pause_writing(self) -> None:
        """This side reads slowly, so the other is not read from."""
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """This side has caught up."""
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()


def join(one: End, other: End) -> None:
    """Let two ends whose transports stand carry to each other from now on."""
    one.other, other.other = other, one


def reset(transport: Any) -> None:
    """Drop a connection so that its peer sees an error, and not an end that looks like any other.

    A kernel's socket sends an ordinary FIN on abort() where nothing is left unread.
    """
    kernel = transport.get_extra_info("socket")
    if kernel is not None and not transport.is_closing():
        kernel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    transport.abort()
