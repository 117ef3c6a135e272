"""Deadlines of many owners in one heap: O(log n) to set one, O(1) to ask for the next.

A deadline that moves later, which is what nearly all do, leaves its entry where it is: when that
comes to the top it is put back at the new time. One that moves earlier, or is dropped, leaves a
dead entry behind, which is thrown away when it surfaces.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Owner = TypeVar("Owner", bound=Hashable)


class Schedule(Generic[Owner]):
    """At most one deadline (ns) an owner."""

    def __init__(self) -> None:
        self._deadlines: dict[Owner, int] = {}
        self._entries: dict[Owner, tuple[int, int]] = {}  # the live entry of each: when, serial
        self._heap: list[tuple[int, int, Owner]] = []  # the serial keeps owners from comparison
        self._serial = 0

    def set(self, owner: Owner, deadline: int | None) -> None:
        """Give an owner another deadline, or none."""
        if deadline is None:
            self._deadlines.pop(owner, None)
            self._entries.pop(owner, None)
            return
        self._deadlines[owner] = deadline
        entry = self._entries.get(owner)
        if entry is None or entry[0] > deadline:
            self._push(owner, deadline)

    def _push(self, owner: Owner, when: int) -> None:
        self._serial += 1
        self._entries[owner] = (when, self._serial)
        heapq.heappush(self._heap, (when, self._serial, owner))

    def next(self) -> int | None:
        """Return the earliest deadline."""
        while self._heap:
            when, serial, owner = self._heap[0]
            if self._entries.get(owner) != (when, serial):
                heapq.heappop(self._heap)
            elif self._deadlines[owner] > when:
                heapq.heappop(self._heap)
                self._push(owner, self._deadlines[owner])
            else:
                return when
        return None

    def take_due(self, now: int, most: int) -> Iterator[Owner]:
        """Yield owners whose deadline has come, so many at most, the earliest first; such a one
        then has none.
        """
        while most and (when := self.next()) is not None and when <= now:
            most -= 1
            owner = heapq.heappop(self._heap)[2]
            del self._deadlines[owner], self._entries[owner]
            yield owner

    def __len__(self) -> int:
        return len(self._deadlines)
