"""Initial sequence numbers and local ports that a stranger cannot guess (RFC 6528, RFC 6056)."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2s
from typing import Final

FIRST: Final = 32768
COUNT: Final = 65536 - FIRST
_ISN_TICK: Final = 4_000  # ns: the timer of RFC 9293, section 3.4.1
_BUCKETS: Final = 256
_KNOWN: Final = 1024  # offsets that are remembered


class Numbers:
    """Drawn from one secret of 32 random bytes."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._steps = [0] * _BUCKETS
        self._offsets: dict[bytes, int] = {}  # a store, not a table

    def _hash(self, purpose: bytes, flow: bytes) -> int:
        digest = blake2s(flow, key=self._secret, person=purpose, digest_size=8).digest()
        return int.from_bytes(digest, "big")

    def start(self, flow: bytes, now: int) -> tuple[int, int]:
        """Return a connection's first sequence number and the offset of its timestamps (ms).

        RFC 6528, section 3: ISN = M + F(connection, secret); RFC 7323, section 5.4. Both are parts
        of one hash, which does not tell one from the other.
        """
        mixed = self._hash(b"flow", flow)
        return (now // _ISN_TICK + mixed) & 0xFFFFFFFF, mixed >> 33

    def clock_offset(self, flow: bytes) -> int:
        """Return the offset alone."""
        return self._hash(b"flow", flow) >> 33

    def port(self, flow: bytes, free: Callable[[int], bool]) -> int | None:
        """RFC 6056, algorithm 4: sequential from an offset that the destination decides."""
        known = self._offsets.get(flow)
        mixed = self._hash(b"port", flow) if known is None else known
        if known is None:
            if len(self._offsets) >= _KNOWN:
                self._offsets.clear()
            self._offsets[flow] = mixed
        bucket = mixed >> 32 & (_BUCKETS - 1)
        for _ in range(COUNT):
            step = self._steps[bucket]
            self._steps[bucket] = step + 1
            port = FIRST + (mixed + step) % COUNT
            if free(port):
                return port
        return None
