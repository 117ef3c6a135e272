"""What is in flight: the sent units that await acknowledgment, and what is known of each.

A unit is what was handed to the native core at once, one segment or dozens. Selective
acknowledgments cut units, so that every record is wholly delivered or wholly not. Each record
also carries what the delivery rate estimation needs (BBR draft, section 4.1.2): how much had been
delivered when it left, so that its acknowledgment tells a rate.

Positions are unwrapped sequence numbers; times are nanoseconds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

#: What both parts of a record that is cut have in common.
_COPIED: Final = (
    "app_limited", "delivered", "delivered_at", "first_idled", "first_sent_at", "idled",
    "in_flight", "lost", "lost_before", "sacked", "sent_at", "transmissions",
)  # fmt: skip


class Sent:
    """One record of the flight."""

    __slots__ = ("end", "start", *_COPIED)
    start: int
    end: int
    transmissions: int
    sacked: bool
    lost: bool
    sent_at: int
    first_idled: int
    first_sent_at: int
    idled: int
    delivered: int
    delivered_at: int
    in_flight: int
    lost_before: int
    app_limited: bool

    def __init__(self, start: int, end: int) -> None:
        """The rest of it is set as it leaves (DeliveryRate.on_sent)."""
        self.start = start
        self.end = end
        self.transmissions = 0
        self.sacked = False
        self.lost = False

    @property
    def length(self) -> int:
        """Sequence space that the record takes."""
        return self.end - self.start

    def split(self, at: int) -> Sent:
        """Cut the record at a position inside it; return the part behind it."""
        rest = Sent(at, self.end)
        for name in _COPIED:
            setattr(rest, name, getattr(self, name))
        self.end = at
        return rest


class Flight:
    """Records from SND.UNA to SND.NXT, in order and without gaps."""

    __slots__ = ("_records", "_starts", "lost", "sacked")

    def __init__(self) -> None:
        self._records: list[Sent] = []
        self._starts: list[int] = []
        self.sacked = 0  # sequence space selectively acknowledged
        self.lost = 0  # marked lost and not sent again

    def append(self, record: Sent) -> None:
        """Add a record for new data."""
        self._records.append(record)
        self._starts.append(record.start)

    def advance(self, position: int) -> Sent:
        """Take out everything below a cumulative acknowledgment, where nothing is marked.

        Return the newest record that it touches; one that it covers in part just becomes shorter.
        """
        records = self._records
        first = records[0]
        end = first.end
        if position < end:  # within one unit
            first.start = self._starts[0] = position
            return first
        if position == end:
            del records[0], self._starts[0]
            return first
        count = bisect_left(self._starts, position)
        last = records[count - 1]
        if last.end > position:
            count -= 1
            last.start = self._starts[count] = position
        del records[:count], self._starts[:count]
        return last

    def acknowledge(self, position: int) -> list[Sent]:
        """Take out everything below a cumulative acknowledgment."""
        self._cut(position)
        count = bisect_left(self._starts, position)
        done = self._records[:count]
        del self._records[:count], self._starts[:count]
        for record in done:
            self.sacked -= record.length if record.sacked else 0
            self.lost -= record.length if record.lost else 0
        return done

    def select(self, start: int, end: int) -> list[Sent]:
        """Mark [start, end) selectively acknowledged; return the records that this is new for."""
        self._cut(start)
        self._cut(end)
        fresh = []
        for i in range(bisect_left(self._starts, start), bisect_left(self._starts, end)):
            record = self._records[i]
            if not record.sacked:
                record.sacked = True
                self.sacked += record.length
                if record.lost:
                    record.lost = False
                    self.lost -= record.length
                fresh.append(record)
        return fresh

    def mark_lost(self, record: Sent) -> None:
        """Mark a record lost; it is no longer in flight."""
        if not record.lost and not record.sacked:
            record.lost = True
            self.lost += record.length

    def mark_sent_again(self, record: Sent) -> None:
        """Mark a lost record as in flight once more."""
        if record.lost:
            record.lost = False
            self.lost -= record.length

    def forget_selections(self) -> None:
        """The receiver may have reneged (RFC 2018, section 8): nothing selected counts."""
        for record in self._records:
            record.sacked = False
        self.sacked = 0

    def first_lost(self) -> Sent | None:
        """The lowest record that is to be sent again."""
        if not self.lost:
            return None
        return next(record for record in self._records if record.lost)

    def cut_first(self, record: Sent, length: int) -> None:
        """Cut a record so that it takes at most `length`."""
        if record.length > length:
            self._cut(record.start + length)

    @property
    def last(self) -> Sent | None:
        """The highest record."""
        return self._records[-1] if self._records else None

    @property
    def total(self) -> int:
        """Sequence space from SND.UNA to SND.NXT."""
        return self._records[-1].end - self._starts[0] if self._records else 0

    @property
    def outstanding(self) -> int:
        """What is thought to be in the network: neither selected nor lost (pipe of RFC 6675)."""
        return self.total - self.sacked - self.lost

    def __iter__(self) -> Iterator[Sent]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def _cut(self, position: int) -> None:
        i = bisect_left(self._starts, position)
        if i and self._records[i - 1].end > position:
            rest = self._records[i - 1].split(position)
            self._records.insert(i, rest)
            self._starts.insert(i, position)
