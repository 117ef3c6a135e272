"""A set of half-open intervals [start, end) of integers, kept sorted and merged.

Received but out-of-order data, and what the peer has selectively acknowledged, are such sets. They
hold a handful of intervals in practice, so plain lists and bisection beat anything cleverer.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Ranges:
    """Sorted, disjoint, non-touching intervals."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> int:
        """Add [start, end); return how many integers were new."""
        if end <= start:
            return 0
        first = bisect_left(self._ends, start)  # the first that touches or lies behind
        last = bisect_right(self._starts, end)
        known = 0
        low, high = start, end
        for i in range(first, last):
            known += max(0, min(end, self._ends[i]) - max(start, self._starts[i]))
        if first < last:
            low = min(start, self._starts[first])
            high = max(end, self._ends[last - 1])
        self._starts[first:last] = [low]
        self._ends[first:last] = [high]
        return end - start - known

    def remove_below(self, limit: int) -> None:
        """Forget every integer below `limit`."""
        keep = bisect_right(self._ends, limit)
        del self._starts[:keep], self._ends[:keep]
        if self._starts and self._starts[0] < limit:
            self._starts[0] = limit

    def covering(self, value: int) -> tuple[int, int] | None:
        """Return the interval that holds `value`."""
        i = bisect_right(self._starts, value) - 1
        if i >= 0 and value < self._ends[i]:
            return self._starts[i], self._ends[i]
        return None

    def covers(self, start: int, end: int) -> bool:
        """Whether all of [start, end) is in the set."""
        found = self.covering(start)
        return found is not None and end <= found[1]

    def gaps(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of [start, end) that are not in the set."""
        position = start
        starts, ends = self._starts, self._ends
        for i in range(bisect_right(ends, start), len(starts)):
            low, high = starts[i], ends[i]
            if low >= end:
                break
            if low > position:
                yield position, low
            position = max(position, high)
        if position < end:
            yield position, end

    def clear(self) -> None:
        """Forget everything."""
        self._starts.clear()
        self._ends.clear()

    @property
    def total(self) -> int:
        """How many integers the set holds."""
        return sum(self._ends) - sum(self._starts)

    @property
    def end(self) -> int | None:
        """One more than the largest integer, None when empty."""
        return self._ends[-1] if self._ends else None

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._ends, strict=True)))

    def __len__(self) -> int:
        return len(self._starts)

    def __repr__(self) -> str:
        return f"Ranges({list(self)})"
