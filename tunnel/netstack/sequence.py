"""Sequence numbers: 32 bits that wrap (RFC 9293, section 3.4).

Inside a connection, sequence numbers are *unwrapped*: plain integers that only grow, counted from
the initial sequence number. They compare, subtract and sort as integers do. `wrap` and `unwrap`
translate at the edge, where segments are read and written; nothing else in the stack knows that
the wire has 32 bits.
"""

from __future__ import annotations

from typing import Final

MODULUS: Final = 1 << 32
_MASK: Final = MODULUS - 1
_HALF: Final = 1 << 31


def wrap(position: int) -> int:
    """Return the 32 bits that go on the wire for an unwrapped position."""
    return position & _MASK


def unwrap(wire: int, near: int) -> int:
    """Return the unwrapped position that a wire value means: the one closest to `near`.

    Right as long as the true position lies within 2**31 of `near`, which windows of at most 2**30
    bytes guarantee (RFC 7323, section 2.3). May be negative for a value from before the start.
    """
    return near + ((wire - near + _HALF) & _MASK) - _HALF
