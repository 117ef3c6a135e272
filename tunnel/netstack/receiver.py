"""The receiving half: what has come in, what the peer may send, and when it hears of it.

Bytes in order wait for the reader; bytes out of order wait in pieces for the gap before them. The
window is what the buffer has room for; its right edge never moves back (RFC 9293, section 3.8.6).
It opens only in steps worth a segment (section 3.8.6.2.2), and the buffer grows with what the path
and the reader carry in a round trip, within a budget that all connections share.

Acknowledgments wait for the second full segment or 40 ms (RFC 9293, section 3.8.6.3), except where
the sender needs to know at once: out of order, a gap filled, a duplicate (RFC 5681, section 4.2).
SACK blocks come newest first (RFC 2018, section 4), a duplicate before them (RFC 2883).
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from typing import Final

from tunnel.netstack.budget import Budget
from tunnel.netstack.ranges import Ranges
from tunnel.netstack.rtt import MILLISECOND

DELAY: Final = 40 * MILLISECOND
_UNMEASURED: Final = 100 * MILLISECOND  # for a round trip: our SYN was repeated, or a cookie
_QUICK: Final = 16  # segments at the start that are acknowledged without delay
MAX_PIECES: Final = 512  # out of order, or one for so many bytes of the window:
_PIECE: Final = 512  # a peer that sends single bytes gains nothing

Payload = bytes | memoryview
_COPIED: Final = 2048  # below this a copy is cheaper than what a view keeps alive


def kept(payload: Payload) -> Payload:
    """Return something that stays as it is: a large read-only view itself, else a copy."""
    if len(payload) >= _COPIED and (isinstance(payload, bytes) or payload.readonly):
        return payload
    return bytes(payload)


def _position(piece: tuple[int, Payload]) -> int:
    return piece[0]


class Receiver:
    """From the peer's initial sequence number on; positions are unwrapped."""

    __slots__ = (
        "_budget", "_capacity", "_carried", "_duplicate", "_most", "_newest", "_offset",
        "_patience", "_pieces", "_quick", "_ranges", "_read_bytes", "_ready", "_round_at",
        "_round_bytes", "_step", "ack_at", "ack_now", "acked", "duplicate_acks", "echo_congestion",
        "edge", "fin", "nxt", "readable", "segment", "urgent",
    )  # fmt: skip

    def __init__(
        self, start: int, capacity: int, most: int, budget: Budget, segment: int = 536,
        patience: int = 0,
    ) -> None:  # fmt: skip
        self.nxt = start + 1  # RCV.NXT
        self.fin: int | None = None  # the position of the peer's FIN
        self.segment = segment
        self.ack_now = False
        self.ack_at = 0  # 0: no acknowledgment is owed
        self.echo_congestion = False  # RFC 3168: ECE until CWR
        self.acked = self.nxt  # Last.ACK.sent
        self.edge = self.nxt  # the right edge of the window as the peer knows it
        self.duplicate_acks = 0  # owed at once, one for each segment out of order
        self.readable = 0  # bytes in order that wait for the reader
        self.urgent = self.nxt  # RCV.UP: the position behind the urgent data
        self._capacity = capacity
        self._step = min(segment, capacity // 2)  # smaller steps of the edge are silly
        self._most = most
        self._budget = budget
        self._ready: deque[Payload] = deque()
        self._offset = 0  # what of the first of them has been read
        self._ranges = Ranges()
        self._pieces: list[tuple[int, Payload]] = []
        self._newest: list[int] = []  # a position in each block, newest first
        self._duplicate: tuple[int, int] | None = None
        self._quick = _QUICK
        self._patience = patience
        self._round_at = self._round_bytes = self._read_bytes = self._carried = 0

    # ---- what comes in ----

    def accept(self, start: int, payload: Payload, now: int) -> bool:
        """Take payload that overlaps the window; return whether bytes became readable."""
        end = start + len(payload)
        nxt = self.nxt
        if start == nxt < end <= self.edge and not self._pieces:
            self._deliver(kept(payload), end)
            self._owe(now)
            return True
        right = self.window_end
        if start < nxt:
            if end <= nxt:
                self._note_duplicate(start, end)
                return False
            self._duplicate = (start, nxt)
            payload = payload[nxt - start :]
            start = nxt
        if end > right:  # beyond the window: not taken, so not acknowledged
            payload = payload[: right - start]
            end = right
        if end <= start:
            self.ack_now = True
            return False
        if start > nxt:
            self._hold(start, end, payload)
            return False
        self._deliver(kept(payload), end)
        if self._pieces:
            self._fill()
            self.ack_now = True
        self._owe(now)
        return True

    def _deliver(self, data: Payload, end: int) -> None:
        self._ready.append(data)
        self.readable += end - self.nxt
        self.nxt = end

    def _owe(self, now: int) -> None:
        if self.nxt - self.acked >= 2 * self.segment:
            self.ack_now = True
        elif self._quick > 0:
            self._quick -= 1
            if not self._patience or self.nxt - self.acked >= self.segment:
                self.ack_now = True
            elif not self.ack_at:
                self.ack_at = now + self._patience
        elif not self.ack_at:
            self.ack_at = now + DELAY

    def greet(self, now: int) -> None:
        """Owe the acknowledgment of the peer's SYN."""
        if self._patience:
            self.ack_at = now + self._patience
        else:
            self.ack_now = True

    def _note_duplicate(self, start: int, end: int) -> None:
        self._duplicate = (start, end)
        self.ack_now = True

    def _hold(self, start: int, end: int, payload: Payload) -> None:
        self.ack_now = True
        self.duplicate_acks += 1
        known = self._ranges.covering(start)
        if known is not None and end <= known[1]:
            self._note_duplicate(start, end)
        elif len(self._pieces) < MAX_PIECES or len(self._pieces) < self._capacity // _PIECE:
            for low, high in list(self._ranges.gaps(start, end)):
                piece = kept(payload[low - start : high - start])
                insort(self._pieces, (low, piece), key=_position)
            self._ranges.add(start, end)
        else:
            return
        self._newest.insert(0, start)
        del self._newest[8:]

    def _fill(self) -> None:
        """Move the pieces that are in order now."""
        taken = 0
        for low, data in self._pieces:
            if low > self.nxt:
                break
            taken += 1
            if low + len(data) > self.nxt:
                self._deliver(data[self.nxt - low :], low + len(data))
        del self._pieces[:taken]
        self._ranges.remove_below(self.nxt)

    def finish(self, position: int) -> None:
        """Note the peer's FIN; `finished` tells when all before it has come."""
        if self.fin is None:
            self.fin = position
        self.ack_now = True

    def take_fin(self) -> bool:
        """Step over the FIN when everything before it is here; True the one time it happens."""
        if self.fin is None or self.nxt != self.fin:
            return False
        self.nxt += 1
        return True

    def urge(self, position: int) -> bool:
        """Take an urgent pointer; return whether it tells of urgent data not yet known.

        It never goes back, whatever comes (RFC 9293, section 3.8.5).
        """
        if position <= self.urgent:
            return False
        self.urgent = position
        return self.urgent_left > 0

    @property
    def urgent_left(self) -> int:
        """How many bytes the reader has still to take until the urgent data ends."""
        end, came = self.urgent, self.nxt
        if self.fin is not None:  # behind it nothing can be urgent
            end, came = min(end, self.fin), min(came, self.fin)
        return max(end - came + self.readable, 0)

    # ---- what is said ----

    def blocks(self, most: int) -> tuple[tuple[int, int], ...]:
        """Return the SACK blocks of the next acknowledgment; a duplicate is reported once."""
        found: list[tuple[int, int]] = []
        if self._duplicate is not None:
            found.append(self._duplicate)
            self._duplicate = None
        if self._pieces:
            keep: list[int] = []
            seen: set[tuple[int, int]] = set()
            for position in self._newest:
                block = self._ranges.covering(position)
                if block is not None and block not in seen:
                    seen.add(block)
                    keep.append(position)
                    found.append(block)
            self._newest = keep
        return tuple(found[:most])

    @property
    def owes_blocks(self) -> bool:
        """Whether the next acknowledgment has more to say than its number."""
        return bool(self._pieces) or self._duplicate is not None

    def acknowledged(self) -> None:
        """An acknowledgment of everything leaves."""
        self.acked = self.nxt
        self.edge = self.window_end
        self.ack_now = False
        self.ack_at = 0
        self.duplicate_acks = 0

    @property
    def window_end(self) -> int:
        """The right edge that an acknowledgment sent now would tell."""
        edge = self.nxt + self._capacity - self.readable
        # A silly step is not worth telling: less than a segment and less than half the buffer.
        if edge - self.edge >= self._step and edge > self.edge:
            return edge
        return self.edge if self.edge > self.nxt else self.nxt

    # ---- the reader ----

    def take(self, most: int) -> list[Payload]:
        """Give up to `most` bytes, uncopied; a window that opens by enough is told at once."""
        parts: list[Payload] = []
        left = most
        ready, offset = self._ready, self._offset
        while ready and left > 0:
            head = ready[0]
            size = len(head) - offset
            if size <= left:
                parts.append(head[offset:] if offset else head)
                ready.popleft()
                offset = 0
                left -= size
            else:
                parts.append(head[offset : offset + left])
                offset += left
                left = 0
        self._offset = offset
        taken = most - left
        self.readable -= taken
        self._read_bytes += taken
        nxt, edge = self.nxt, self.edge
        opened = nxt + self._capacity - self.readable - edge
        if opened >= self._step and opened > 0:
            told = edge - nxt
            if told < 2 * self.segment or opened >= self._capacity // 2:
                self.ack_now = True
        return parts

    def read(self, most: int) -> bytes:
        """Give up to `most` bytes in one piece: a large one as it came, small ones joined."""
        ready = self._ready
        if ready and not self._offset and len(ready[0]) >= _COPIED:
            most = min(most, len(ready[0]))
        parts = self.take(most)
        if len(parts) == 1 and isinstance(parts[0], bytes):
            return parts[0]
        return b"".join(parts)

    def tune(self, now: int, rtt: int) -> None:
        """Once a round trip: room for twice what the reader took in it, so that growth shows.

        Four times while the sender still doubles: it needs the room before it can be measured.
        """
        if now - self._round_at < (rtt or _UNMEASURED):
            return
        carried = self._read_bytes - self._round_bytes
        gain = 4 if 4 * carried > 5 * self._carried else 2
        self._round_at, self._round_bytes, self._carried = now, self._read_bytes, carried
        wanted = min(gain * carried + 16 * self.segment, self._most)
        if carried and wanted > self._capacity:
            self._capacity += self._budget.take(wanted - self._capacity)
            self._step = min(self.segment, self._capacity // 2)

    def release(self) -> None:
        """Give everything back: the connection is over for the peer, the reader may still read."""
        self._pieces.clear()
        self._ranges.clear()
        self._budget.give_back()
