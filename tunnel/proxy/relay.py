"""Two connections joined without a task: what comes from one is written to the other.

    client  <->  transport  End  |  End  transport  <->  destination

Each direction ends by itself: where one side has sent all that it will, the other is told, and goes
on sending. A side that does not read holds up its sender and nobody else. An error on one side
resets the other, so that neither takes a broken transfer for a whole one.

Neither is there a buffer between them. What the userspace stack has is handed on as it came. What a
kernel's socket has must be copied out of it, and is, into memory that it is sent from.
"""

from __future__ import annotations

import socket
import struct
import threading
from typing import Any, Final

AT_ONCE: Final = struct.pack("ii", 1, 0)
"""For SO_LINGER: a close sends a reset."""

CHUNK: Final = 64 * 1024
"""Bytes that are read of a socket at once; few enough to be handled while in the cache."""
FEW: Final = 4096  # while it is not known where they go


class End:
    """One of two; `other` is where what comes goes, None until both are there.

    A protocol of either kind, without its base class: the stack's transports give bytes that stay
    as they are, uvloop's fill a buffer.
    """

    __slots__ = ("finished", "other", "transport")

    def __init__(self) -> None:
        self.transport: Any = None
        self.other: End | None = None
        self.finished = False  # this side sends no more

    def connection_made(self, transport: Any) -> None:
        """Take the transport."""
        self.transport = transport

    def data_received(self, data: bytes | memoryview) -> None:
        """Carry on what came; a view is of memory that does not change any more."""
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
        other = self.other
        if other is not None and not other.finished and not other.transport.is_closing():
            other.transport.resume_reading()

    def read_size(self) -> int:
        """Return how many bytes to receive of a kernel's socket: as much as leaves at once."""
        other = self.other
        if other is None:
            return FEW
        unit: int | None = other.transport.get_extra_info("unit")
        return unit or CHUNK

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to receive of a kernel's socket: as much as leaves there at once.

        A buffer is filled and handed on at one go, so all sockets of a thread share one. Where it
        is well filled it is given away, and another taken; else its bytes are copied.
        """
        buffer: memoryview = getattr(_shared, "buffer", _NONE)
        if not buffer:
            buffer = _shared.buffer = memoryview(bytearray(CHUNK))
        other = self.other
        unit = other.transport.get_extra_info("unit") if other is not None else None
        return buffer[:unit] if unit else buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Carry on what came."""
        filled = _shared.buffer[:nbytes]
        if self.other is None or 2 * nbytes < CHUNK:
            self.data_received(bytes(filled))
        else:
            _shared.buffer = _NONE
            self.data_received(filled.toreadonly())


_NONE: Final = memoryview(b"")
_shared: Final = threading.local()  # `buffer`


def join(one: End, other: End) -> None:
    """Let two ends whose transports stand carry to each other from now on."""
    one.other, other.other = other, one


def reset(transport: Any) -> None:
    """Drop a connection so that its peer sees an error, and not an end that looks like any other.

    A kernel's socket sends an ordinary FIN on abort() where nothing is left unread.
    """
    kernel = transport.get_extra_info("socket")
    if kernel is not None and not transport.is_closing():
        kernel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
    transport.abort()
