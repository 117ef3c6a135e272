"""UnitLink: units of packets on a link descriptor, without waiting, for the userspace stack.

A read takes everything that waits, checksums verified, in one call of the core. A write hands one
unit after another to the kernel, header and payload from where they lie; whoever is at the other
end completes the checksums and cuts the units (virtio_net_hdr). On a link without that header the
core does both here.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence
from struct import iter_unpack
from typing import Final

from tunnel._core import ffi, lib
from tunnel.flow import FlowClosed
from tunnel.primitives import EngineError, octets

READ_BYTES: Final = 1 << 18  # few enough to be handled while in the cache
READ_SPANS: Final = 1024
_SPAN: Final = "=IIHH"
_SPAN_BYTES: Final[int] = ffi.sizeof("tc_span")
_BROKEN: Final[int] = lib.TC_SPAN_BROKEN
_VNET: Final = struct.Struct("=BBHHHH")
_NEEDS_CHECKSUM: Final = 1
_TCPV4: Final = 1
_TCPV6: Final = 4
_UDP: Final = 5
_PLAIN: Final = bytes(_VNET.size)

#: Header, payload, segment size, start of the transport header, checksum field's offset from there:
#: `tunnel.netstack.ip.Outgoing`, as a tuple.
Unit = tuple[bytes | bytearray, bytes | memoryview, int, int, int]


class UnitLink:
    """A link descriptor, which stays the caller's and is made non-blocking."""

    def __init__(self, fd: int, link_flags: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.readable_fd = fd
        """Readable while `read` has something; `fd` is writable while `write` may take more."""
        self._flags = link_flags
        self._memory = bytearray(READ_BYTES)
        self._view = memoryview(self._memory)
        self._buffer = octets(self._memory)
        self._spans = ffi.new(f"tc_span[{READ_SPANS}]")
        self._span_view = memoryview(ffi.buffer(self._spans))
        self._refused = ffi.new("uint32_t *")
        self.broken = 0
        """Packets with wrong checksums, which were dropped."""

    def read(self) -> list[tuple[memoryview, int]]:
        """Return the units that wait with their segment sizes (0: a plain packet); [] for none.

        They are valid until the next read. Raises FlowClosed at the end, EngineError on failure.
        """
        count = self._take()
        if count <= 0:
            if count in (0, -errno.EAGAIN):
                return []
            if count in (-errno.EPIPE, -errno.ECONNRESET):
                raise FlowClosed("packet link: the other end is closed")
            raise EngineError("flow read", -count)
        view = self._view
        found: list[tuple[memoryview, int]] = []
        for offset, length, segment, flags in iter_unpack(
            _SPAN, self._span_view[: count * _SPAN_BYTES]
        ):
            if flags & _BROKEN:
                self.broken += 1
            else:
                found.append((view[offset : offset + length], segment))
        return found

    def _take(self) -> int:
        count: int = lib.tc_flow_read(
            self.fd, self._flags, lib.TC_FLOW_VERIFIED, self._buffer, READ_BYTES, self._spans,
            READ_SPANS,
        )  # fmt: skip
        return count

    def close(self) -> None:
        """Be done with it; the descriptor stays open."""

    def write(self, units: Sequence[Unit]) -> int:
        """Write units in order; return how many were taken before the link was full.

        Raises FlowClosed, EngineError. While an interface is down, packets are lost as on any.
        """
        if not self._flags & lib.TC_LINK_VNET_HDR:
            return self._write_plain(units)
        fd = self.fd
        done = 0
        try:
            for header, payload, segment, transport, checksum in units:
                os.writev(fd, (vnet(header, segment, transport, checksum) + header, payload))
                done += 1
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return done
            if error.errno != errno.EIO:
                raise _failure(error.errno or 0) from error
            return len(units)
        return done

    def _write_plain(self, units: Sequence[Unit]) -> int:
        data = bytearray()
        spans = ffi.new("tc_span[]", len(units))
        for i, (header, payload, segment, _, checksum) in enumerate(units):
            span = spans[i]
            span.offset = len(data)
            data += header
            data += payload
            span.length = len(data) - span.offset
            span.segment = segment
            span.flags = lib.TC_SPAN_NEEDS_CHECKSUM if checksum else 0
        taken: int = lib.tc_flow_write(
            self.fd, self._flags, octets(data), len(data), spans, len(units), self._refused
        )
        if taken >= 0:
            return taken
        if taken == -errno.EAGAIN:
            return 0
        if taken == -errno.EIO:
            return len(units)
        raise _failure(-taken)


def _failure(code: int) -> Exception:
    if code in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
        return FlowClosed("packet link: the other end is closed")
    return EngineError("flow write", code)


def vnet(header: bytes | bytearray, segment: int, transport: int, checksum: int) -> bytes:
    """Return the virtio_net_hdr of a unit (`Unit` without its payload)."""
    if not checksum:
        return _PLAIN
    if not segment:
        return _VNET.pack(_NEEDS_CHECKSUM, 0, 0, 0, transport, checksum)
    tcp = checksum == 16
    kind = _UDP if not tcp else _TCPV4 if header[0] >> 4 == 4 else _TCPV6
    return _VNET.pack(_NEEDS_CHECKSUM, kind, len(header), segment, transport, checksum)
