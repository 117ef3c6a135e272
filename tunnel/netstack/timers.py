"""Deadlines of many things in one heap.

A deadline that moves later costs nothing: its entry stays, and is put back when it comes up. One
that moves earlier gets a second entry, and the first is skipped when it comes up.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from typing import Final, Generic, Protocol, TypeVar

_LEAST: Final = 1024


class Timed(Protocol):
    """What has a deadline: `due` is the true one, `queued` that of its newest entry."""

    due: int | None
    queued: int | None


T = TypeVar("T", bound=Timed)


class Timers(Generic[T]):
    """Times are nanoseconds."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, T]] = []
        self._serial = 0
        self._clean_at = _LEAST

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, item: T, due: int | None) -> None:
        """Give an item another deadline, None for none."""
        item.due = due
        queued = item.queued
        if due is not None and (queued is None or due < queued):
            self._push(item, due)

    def _push(self, item: T, due: int) -> None:
        item.queued = due
        self._serial += 1
        heappush(self._heap, (due, self._serial, item))
        if len(self._heap) > self._clean_at:
            self._clean()

    def _clean(self) -> None:
        """Drop the entries of what has no deadline any more, which they would keep in memory."""
        self._heap = [
            entry
            for entry in self._heap
            if entry[2].queued == entry[0] and entry[2].due is not None
        ]
        heapify(self._heap)
        self._clean_at = max(2 * len(self._heap), _LEAST)

    def next_deadline(self) -> int | None:
        """When `expired` has something."""
        heap = self._heap
        while heap:
            when, _, item = heap[0]
            if item.queued == when and item.due == when:
                return when
            if item.queued != when:  # another entry stands for it
                heappop(heap)
            elif item.due is None:  # it is over
                heappop(heap)
                item.queued = None
            else:  # it moved later
                item.queued = item.due
                self._serial += 1
                heapreplace(heap, (item.due, self._serial, item))
        return None

    def expired(self, now: int) -> list[T]:
        """Take the items that are due, each once; their deadline is gone."""
        found: list[T] = []
        while self._heap and self._heap[0][0] <= now:
            when, _, item = heappop(self._heap)
            if item.queued != when:
                continue
            item.queued = None
            if item.due is None:
                continue
            if item.due <= now:
                item.due = None
                found.append(item)
            else:
                self._push(item, item.due)
        return found
