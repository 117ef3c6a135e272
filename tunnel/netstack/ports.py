"""Initial sequence numbers and local ports that a stranger cannot guess (RFC 6528, RFC 6056)."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2s
from typing import Final

FIRST: Final = 32768
COUNT: Final = 65536 - FIRST
_ISN_TICK: Final = 4_000  # ns: the timer of RFC 9293, section 3.4.1
_BUCKETS: Final = 256


class Numbers:
    """Drawn from one secret of 32 random bytes."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._steps = [0] * _BUCKETS

    def _hash(self, purpose: bytes, flow: bytes) -> int:
        digest = blake2s(flow, key=self._secret, person=purpose, digest_size=8).digest()
        return int.from_bytes(digest, "big")

    def sequence(self, flow: bytes, now: int) -> int:
        """RFC 6528, section 3: ISN = M + F(connection, secret)."""
        return (now // _ISN_TICK + self._hash(b"isn", flow)) & 0xFFFFFFFF

    def clock_offset(self, flow: bytes) -> int:
        """An offset of timestamps for each connection (RFC 7323, section 5.4), in ms."""
        return self._hash(b"stamp", flow) & 0x7FFFFFFF

    def port(self, flow: bytes, free: Callable[[int], bool]) -> int | None:
        """RFC 6056, algorithm 4: sequential from an offset that the destination decides."""
        mixed = self._hash(b"port", flow)
        bucket = mixed >> 32 & (_BUCKETS - 1)
        for _ in range(COUNT):
            step = self._steps[bucket]
            self._steps[bucket] = step + 1
            port = FIRST + (mixed + step) % COUNT
            if free(port):
                return port
        return None
