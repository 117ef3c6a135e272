"""What an acknowledgment says, read from the wire: the point, what was selected, a duplicate.

SACK blocks that cannot be are left out. The first block may be a DSACK (RFC 2883, section 4): it
lies below the acknowledged point, or inside the second block.
"""

from __future__ import annotations

from typing import NamedTuple

from tunnel.netstack.segment import Options
from tunnel.netstack.sequence import unwrap


class Ack(NamedTuple):
    """An acknowledgment, in unwrapped positions."""

    position: int
    sack: tuple[tuple[int, int], ...] = ()
    duplicate: tuple[int, int] | None = None  # DSACK
    congested: bool = False  # ECE
    echoed_at: int = 0  # when the echoed timestamp was sent (ns, floored to its tick); 0: none


def blocks_of(
    options: Options, position: int, sent: int, largest_window: int
) -> tuple[tuple[tuple[int, int], ...], tuple[int, int] | None]:
    """Return the blocks that select something, and the duplicate, of an acknowledgment.

    `sent` is SND.NXT. A duplicate larger than the peer's window ever was is not believed.
    """
    duplicate = None
    sack: list[tuple[int, int]] = []
    blocks = [(unwrap(left, position), unwrap(right, position)) for left, right in options.sack]
    for i, (low, high) in enumerate(blocks):
        if low >= high:
            continue
        inside = i == 0 and len(blocks) > 1 and blocks[1][0] <= low and high <= blocks[1][1]
        if i == 0 and (high <= position or inside):
            if high - low <= largest_window:
                duplicate = low, high
        elif position <= low and high <= sent:
            sack.append((low, high))
    return tuple(sack), duplicate
