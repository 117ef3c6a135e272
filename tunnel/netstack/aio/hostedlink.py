"""HostedLink: a link whose engine lends its worker's turns (native/src/host.h).

While it has them the stack's own thread takes packets from the engine's sockets and seals what it
sends, so that no packet of a dialogue waits for another thread to wake. Bulk goes the ordinary way.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tunnel._core import lib
from tunnel.netstack.aio.unitlink import READ_BYTES, READ_SPANS, Unit, UnitLink, vnet
from tunnel.primitives import check, octets

if TYPE_CHECKING:
    from tunnel.engine import Engine

_LENGTH: Final = struct.Struct("=I")
_FEW_BYTES: Final = 8192  # of what leaves in one turn of a dialogue


class HostedLink(UnitLink):
    """The stack's end of the link of an engine with one worker."""

    def __init__(self, fd: int, link_flags: int, engine: Engine) -> None:
        """Raises ValueError for an engine of several workers, EngineError where it has a host."""
        super().__init__(fd, link_flags)
        self._engine = engine
        entered = lib.tc_host_enter(engine.handle, fd, link_flags)
        self.readable_fd = check("host_enter", entered)

    def close(self) -> None:
        """Give the turns back for good."""
        if self._engine.handle is not None:
            lib.tc_host_leave(self._engine.handle)

    def _take(self) -> int:
        handle = self._engine.handle
        if handle is None:
            return -errno.EPIPE
        count: int = lib.tc_host_read(handle, self._buffer, READ_BYTES, self._spans, READ_SPANS)
        return count

    def write(self, units: Sequence[Unit]) -> int:
        """Send units; or, without the turns or where it is bulk, write them to the link."""
        handle = self._engine.handle
        if handle is None or not lib.tc_host_keep(handle, 1):
            return super().write(units)
        parts: list[bytes | bytearray | memoryview] = []
        size = 0
        for header, payload, segment, transport, checksum in units:
            length = len(header) + len(payload)
            size += length
            if size > _FEW_BYTES:
                lib.tc_host_keep(handle, 0)
                return super().write(units)
            lead = _LENGTH.pack(length) + vnet(header, segment, transport, checksum)
            parts += (lead, header, payload)
        data = b"".join(parts)
        if lib.tc_host_write(handle, octets(data), len(data)) < 0:  # it stopped just now
            return super().write(units)
        return len(units)
