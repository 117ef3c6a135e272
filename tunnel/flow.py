"""PacketFlow: batches of IP packets on a link, for providers that handle packets in Python.

What crosses into Python is a batch: one call of the core reads all packets that wait into one
buffer, another writes a whole batch. The core cuts and joins super-segments, so that Python sees
plain packets and the kernel still gets few and large writes.
"""

from __future__ import annotations

import asyncio
import errno
import os
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate
from struct import iter_unpack
from typing import Final

from tunnel._core import ffi, lib
from tunnel.errors import TunnelError
from tunnel.primitives import Buffer, EngineError, octets

READ_BYTES: Final = 1 << 20
READ_PACKETS: Final = 2048
_SPAN: Final = "=IIHH"
_SPAN_BYTES: Final[int] = ffi.sizeof("tc_span")
_READS_A_TURN: Final = 8
"""Batches that may be read without a wait before the event loop gets a turn."""


class FlowClosed(TunnelError):
    """The flow was closed, here or at its other end."""


class PacketFlow:
    """Packets of one link descriptor, which stays the caller's and is made non-blocking.

    Runs on the event loop of whoever awaits; one reader and any number of writers. With `units`
    super-segments of TCP and UDP come and go whole, and `sizes` tells their segment sizes.
    """

    def __init__(self, fd: int, link_flags: int, *, units: bool = False) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._flags = link_flags
        self._units = units
        self._closed = False
        memory = bytearray(READ_BYTES)
        self._view = memoryview(memory)
        # Lent by the memory itself: a view that lends it further crashes the interpreter when the
        # garbage collector clears the view first.
        self._buffer = octets(memory)
        self._spans = ffi.new(f"tc_span[{READ_PACKETS}]")
        self._span_view = memoryview(ffi.buffer(self._spans))
        self._refused = ffi.new("uint32_t *")
        self._reads = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._writing = asyncio.Lock()
        self.sizes: Sequence[int] = ()
        """Payload bytes a segment of each packet of the last read, 0 for plain packets."""
        self.refused = 0
        """Malformed packets that `write_packets` skipped."""
        self.lost = 0
        """Packets that were written while the link was down."""

    async def read_packets(self) -> list[memoryview]:
        """Return the packets that wait, at least one. They are valid until the next read.

        Raises FlowClosed at the end, EngineError when the link fails.
        """
        self._reads += 1
        if self._reads % _READS_A_TURN == 0:
            await asyncio.sleep(0)
        while True:
            self._check_open()
            count = lib.tc_flow_read(
                self._fd,
                self._flags,
                self._units,
                self._buffer,
                READ_BYTES,
                self._spans,
                READ_PACKETS,
            )
            if count > 0:
                break
            if count == -errno.EPIPE:
                raise FlowClosed("packet flow: the other end is closed")
            if count != -errno.EAGAIN:
                raise EngineError("flow read", -count)
            await self._wait(read=True)
        view = self._view
        spans = self._span_view[: count * _SPAN_BYTES]
        if self._units:
            found = list(iter_unpack(_SPAN, spans))
            self.sizes = [size for _, _, size, _ in found]
            return [view[offset : offset + length] for offset, length, _, _ in found]
        return [
            view[offset : offset + length] for offset, length, _, _ in iter_unpack(_SPAN, spans)
        ]

    async def write_packets(
        self, packets: Sequence[Buffer], sizes: Iterable[int] | None = None
    ) -> None:
        """Write packets in order, waiting while the link is full. The buffers may be reused after.

        `sizes` gives segment sizes where some are super-segments, as `self.sizes` does. Raises
        FlowClosed, or EngineError when the link fails; while the link is merely down, packets are
        lost, as on any network interface.
        """
        if not packets:
            return
        data = b"".join(packets)
        spans = _spans(packets, sizes)
        async with self._writing:
            await self._write(data, spans, len(packets))

    async def _write(self, data: bytes, spans: array[int], count: int) -> None:
        buffer = octets(data)
        first = ffi.cast("tc_span *", ffi.from_buffer(spans))
        done = 0
        while done < count:
            self._check_open()
            taken = lib.tc_flow_write(
                self._fd,
                self._flags,
                buffer,
                len(data),
                first + done,
                count - done,
                self._refused,
            )
            self.refused += self._refused[0]
            if taken > 0:
                done += taken
            elif taken == -errno.EAGAIN:
                await self._wait(read=False)
            elif taken == -errno.EIO:
                self.lost += count - done
                return
            elif taken in (-errno.EPIPE, -errno.ECONNRESET):
                raise FlowClosed("packet flow: the other end is closed")
            else:
                raise EngineError("flow write", -taken)

    def close(self) -> None:
        """Wake everybody who waits with FlowClosed. The descriptor stays open."""
        self._closed = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _check_open(self) -> None:
        if self._closed:
            raise FlowClosed("packet flow: closed")

    async def _wait(self, *, read: bool) -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        add, remove = (
            (loop.add_reader, loop.remove_reader) if read else (loop.add_writer, loop.remove_writer)
        )
        add(self._fd, _wake, waiter)
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            remove(self._fd)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _spans(packets: Sequence[Buffer], sizes: Iterable[int] | None) -> array[int]:
    """Return tc_span[] as 32-bit words: offset, length, then segment and flags in one."""
    count = len(packets)
    lengths = [len(packet) for packet in packets]
    words = [0] * (3 * count)
    words[3::3] = list(accumulate(lengths))[:-1]
    words[1::3] = lengths
    if sizes is not None:
        words[2::3] = [_segment_word(size) for size in sizes]
    return array("I", words)


def _segment_word(size: int) -> int:
    return (size & 0xFFFF) | (lib.TC_SPAN_NEEDS_CHECKSUM << 16 if size else 0)
