"""Putting fragments together, within limits (RFC 791, section 3.2; RFC 8200, 4.5; RFC 5722).

A datagram whose fragments overlap is given up whole, and stays so until its time is over: no piece
of it can be trusted. An exact repetition is only a duplicate. IPv4 gets the same rule, as in Linux.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tunnel.netstack.ip import TCP, UDP, Packet
from tunnel.netstack.rtt import SECOND

MOST_DATAGRAMS: Final = 64
MOST_BYTES: Final = 1 << 20
MOST_PIECES: Final = 128
WAIT: Final = 30 * SECOND
_LARGEST: Final = 65_535

Name = tuple[bytes, bytes, int, int]


class Late(NamedTuple):
    """A datagram that was not completed; `first` is its first fragment, if that came."""

    first: Packet | None


class _Partial:
    __slots__ = ("bytes", "first", "pieces", "refused", "total", "until")

    def __init__(self, until: int) -> None:
        self.until = until
        self.pieces: dict[int, bytes] = {}
        self.bytes = 0
        self.total: int | None = None
        self.first: Packet | None = None
        self.refused = False


class Reassembly:
    """Fragments of all datagrams. The oldest datagram goes when there is no room."""

    def __init__(self) -> None:
        self._partials: dict[Name, _Partial] = {}
        self._bytes = 0
        self.refused = 0
        """Datagrams given up: overlap, sizes that cannot be, or no room."""

    def add(self, packet: Packet, now: int) -> Packet | None:
        """Take a fragment; return the whole packet when this was the last one missing."""
        fragment = packet.fragment
        assert fragment is not None
        if fragment.offset == 0 and not fragment.more:
            return packet._replace(fragment=None)  # atomic: it stands alone (RFC 6946)
        protocol = packet.protocol if packet.version == 4 else 0
        name = packet.source, packet.destination, fragment.identification, protocol
        partial = self._partials.get(name)
        if partial is not None and partial.until <= now:
            self._forget(name)
            partial = None
        if partial is None:
            if len(self._partials) >= MOST_DATAGRAMS:
                self._forget(next(iter(self._partials)))
                self.refused += 1
            partial = self._partials[name] = _Partial(now + WAIT)
        if partial.refused:
            return None
        data = bytes(packet.payload)
        if not self._fits(partial, fragment.offset, data, fragment.more):
            self._refuse(partial)
            return None
        if fragment.offset in partial.pieces:
            return None
        partial.pieces[fragment.offset] = data
        partial.bytes += len(data)
        self._bytes += len(data)
        if fragment.offset == 0:
            partial.first = packet._replace(
                payload=memoryview(data), whole=memoryview(bytes(packet.whole))
            )
        if not fragment.more:
            partial.total = fragment.offset + len(data)
        while self._bytes > MOST_BYTES:
            self._forget(next(iter(self._partials)))
            self.refused += 1
        if partial.total != partial.bytes or self._partials.get(name) is not partial:
            return None
        self._forget(name)
        return self._whole(partial)

    @staticmethod
    def _fits(partial: _Partial, offset: int, data: bytes, more: bool) -> bool:
        end = offset + len(data)
        if not data or end > _LARGEST or (more and len(data) % 8):
            return False
        if partial.pieces.get(offset) == data and (more or partial.total == end):
            return True
        if len(partial.pieces) >= MOST_PIECES:
            return False
        if partial.total is not None and (end > partial.total or not more):
            return False
        if not more and any(at + len(piece) > end for at, piece in partial.pieces.items()):
            return False
        return all(end <= at or offset >= at + len(piece) for at, piece in partial.pieces.items())

    def _refuse(self, partial: _Partial) -> None:
        self._bytes -= partial.bytes
        self.refused += 1
        partial.refused = True
        partial.pieces.clear()
        partial.bytes = 0
        partial.first = None

    def _forget(self, name: Name) -> _Partial:
        partial = self._partials.pop(name)
        self._bytes -= partial.bytes
        return partial

    @staticmethod
    def _whole(partial: _Partial) -> Packet | None:
        first = partial.first
        assert first is not None  # it completed, so the piece at 0 is there
        payload = memoryview(b"".join(partial.pieces[at] for at in sorted(partial.pieces)))
        problem = 0 if first.version == 4 or first.protocol in (TCP, UDP, 58) else first.problem
        return first._replace(payload=payload, fragment=None, problem=problem)

    def next_deadline(self) -> int | None:
        """When the oldest datagram is given up."""
        for partial in self._partials.values():
            return partial.until
        return None

    def expire(self, now: int) -> list[Late]:
        """Give up what is too late."""
        late: list[Late] = []
        while self._partials:
            name, partial = next(iter(self._partials.items()))
            if partial.until > now:
                break
            self._forget(name)
            if not partial.refused:
                late.append(Late(partial.first))
        return late
