"""Session indices: random 32-bit numbers, each in use once, that say whose a message is.

An index is taken for an initiation or a response. One whose handshake came to nothing is released;
one that became a session is kept until that cannot be left: the engine's keys are erased
ZEROING_TIME after the newest, so it is held for that long. Random, so that they tell an observer
nothing about how many peers or handshakes there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from providers.wireguard.messages import ZEROING_TIME

Owner = TypeVar("Owner")


class IndexTable(Generic[Owner]):
    """Index -> owner. `draw` gives random 32-bit numbers."""

    def __init__(self, draw: Callable[[], int]) -> None:
        self._draw = draw
        self._owners: dict[int, Owner] = {}
        self._kept: deque[tuple[int, int]] = deque()  # (when to let go, index), in order

    def take(self, owner: Owner) -> int:
        """Return a new index of the owner's."""
        index = self._draw()
        while index in self._owners:
            index = self._draw()
        self._owners[index] = owner
        return index

    def keep(self, index: int, now: int) -> None:
        """Hold an index for as long as a session that starts now may live."""
        while self._kept and self._kept[0][0] <= now:
            self._owners.pop(self._kept.popleft()[1], None)
        self._kept.append((now + ZEROING_TIME, index))

    def release(self, index: int) -> None:
        """Let go of an index that never became a session."""
        self._owners.pop(index, None)

    def find(self, index: int) -> Owner | None:
        """Return the owner of an index."""
        return self._owners.get(index)

    def __len__(self) -> int:
        return len(self._owners)
