"""What the user wrote and the peer has not yet acknowledged: bounded, addressed by position."""

from __future__ import annotations


class SendBuffer:
    """Bytes from `start` on, in unwrapped sequence positions."""

    __slots__ = ("_data", "limit", "start")

    def __init__(self, start: int, limit: int) -> None:
        self._data = bytearray()
        self.start = start
        self.limit = limit

    @property
    def end(self) -> int:
        """One past the last byte written."""
        return self.start + len(self._data)

    @property
    def room(self) -> int:
        """How many more bytes `append` takes now."""
        return max(self.limit - len(self._data), 0)

    def append(self, data: bytes | bytearray | memoryview) -> int:
        """Take as much of `data` as there is room for; return how much that was."""
        room = self.room
        if len(data) > room:
            data = memoryview(data)[:room]
        self._data += data
        return len(data)

    def slice(self, start: int, end: int) -> bytes:
        """Return a copy of [start, end), which must lie inside.

        A copy, because the buffer may move while the native core still reads; 64 KB cost some
        microseconds.
        """
        with memoryview(self._data) as view:
            return bytes(view[start - self.start : end - self.start])

    def release(self, position: int) -> None:
        """Forget everything below `position`: it has been acknowledged."""
        if position > self.start:
            count = min(position, self.end) - self.start
            del self._data[:count]
            self.start += count
