"""Memory for receive windows, shared by all connections, so that many of them stay bounded."""

from __future__ import annotations


class Pool:
    """What all connections may have together, beyond what each starts with. Bytes."""

    __slots__ = ("left",)

    def __init__(self, total: int) -> None:
        self.left = total

    def budget(self) -> Budget:
        """Return one connection's access to the pool."""
        return Budget(self)


class Budget:
    """One connection's part of a pool."""

    __slots__ = ("_pool", "taken")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.taken = 0

    def take(self, wanted: int) -> int:
        """Take up to `wanted` bytes; return how many there were."""
        granted = max(min(wanted, self._pool.left), 0)
        self._pool.left -= granted
        self.taken += granted
        return granted

    def give_back(self) -> None:
        """Return all of it."""
        self._pool.left += self.taken
        self.taken = 0


class RateLimit:
    """At most `count` of something in each `interval` (ns); challenge ACKs (RFC 5961, 7)."""

    __slots__ = ("_count", "_interval", "_since", "_used")

    def __init__(self, count: int, interval: int) -> None:
        self._count = count
        self._interval = interval
        self._since: int | None = None
        self._used = 0

    def allows(self, now: int) -> bool:
        """Count one, if it may be."""
        if self._since is None or now - self._since >= self._interval:
            self._since = now
            self._used = 0
        self._used += 1
        return self._used <= self._count
