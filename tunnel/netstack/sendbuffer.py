"""What the user wrote and the peer has not yet acknowledged: bounded, addressed by position.

Large writes of immutable bytes are kept as they are, and units are views into them. Small writes
are gathered, so that neither their number nor their bookkeeping counts.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

_GATHERED: Final = 16_384  # writes below this many bytes are gathered
_CHUNK: Final = 65_536  # until a chunk holds this many


class SendBuffer:
    """Bytes from `start` on, in unwrapped sequence positions."""

    __slots__ = ("_chunks", "_starts", "end", "limit", "start", "urgent")

    def __init__(self, start: int, limit: int) -> None:
        self._chunks: list[memoryview | bytearray] = []  # a bytearray is still being filled
        self._starts: list[int] = []
        self.start = start
        self.end = start  # one past the last byte written
        self.limit = limit
        self.urgent = 0  # SND.UP: the position behind the last urgent byte; 0 while there was none

    @property
    def room(self) -> int:
        """How many more bytes `append` takes now."""
        return max(self.limit - (self.end - self.start), 0)

    def append(self, data: bytes | bytearray | memoryview) -> int:
        """Take as much of `data` as there is room for; return how much that was.

        Immutable bytes are kept without a copy, so the part taken keeps all of `data` alive.
        """
        size = len(data)
        room = self.limit - (self.end - self.start)
        if size > room:
            size = max(room, 0)
            data = memoryview(data)[:size]
        if size >= _GATHERED:
            view = memoryview(data)
            self._add(view if view.readonly else memoryview(bytes(view)))
        elif size:
            last = self._chunks[-1] if self._chunks else None
            if isinstance(last, bytearray) and len(last) < _CHUNK:
                last += data
            else:
                self._add(bytearray(data))
        self.end += size
        return size

    def _add(self, chunk: memoryview | bytearray) -> None:
        self._chunks.append(chunk)
        self._starts.append(self.end)

    def contiguous(self, start: int) -> int:
        """Return how many bytes from `start` on `slice` gives without a copy."""
        i = bisect_right(self._starts, start) - 1
        return self._starts[i] + len(self._chunks[i]) - start

    def slice(self, start: int, end: int) -> bytes | memoryview:
        """Return [start, end), which must lie inside: a view into one chunk, else a copy."""
        i = bisect_right(self._starts, start) - 1
        chunk = self._chunks[i]
        begin = start - self._starts[i]
        length = end - start
        if begin + length <= len(chunk):
            if isinstance(chunk, bytearray):  # it may grow, and could not under a view
                return bytes(memoryview(chunk)[begin : begin + length])
            return chunk[begin : begin + length]
        parts = [memoryview(chunk)[begin:]]
        length -= len(chunk) - begin
        while length > 0:
            i += 1
            part = memoryview(self._chunks[i])[:length]
            parts.append(part)
            length -= len(part)
        joined = b"".join(parts)
        for part in parts:
            part.release()  # or the chunk being filled could not grow
        return joined

    def release(self, position: int) -> None:
        """Forget everything below `position`: it has been acknowledged."""
        if position <= self.start:
            return
        self.start = min(position, self.end)
        starts = self._starts
        done = len(starts) if self.start == self.end else bisect_right(starts, self.start) - 1
        if done > 0:
            del self._chunks[:done], starts[:done]
