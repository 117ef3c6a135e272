"""Scripts of segments in the spirit of packetdrill: one line a moment, time in milliseconds.

    0   connect                     the user: connect, listen, write N, urgent N (as urgent data),
                                    read N, close, abort
    0   > S 0 mss 1360              the connection must send this, now
    10  < SA 0 ack 1 win 1000       the peer sends this
    10  > A 1 ack 1
    10  state ESTABLISHED           also: event ESTABLISHED, event CLOSED RESET, quiet, left N
                                    (so many bytes until the urgent data ends)

Positions count from each side's initial sequence number, which are close to the end of the number
space, so that every script wraps. `1:1001` is a thousand bytes. Flags are S F R P A U E C. Fields:
ack, win, mss, ws, sackok, ts VALUE:ECHO, uto, sack LOW-HIGH,..., ce (arrives marked), ect (leaves
capable), cut (into segments of this size), urg (the urgent pointer; 0 is none). Of what is sent,
fields that a line does not name are not looked at; but whatever is sent needs a line, at its exact
time. Payload bytes depend on their position and are compared. On a SYN `0:100` is the hundred bytes
behind it.
"""

from __future__ import annotations

from tunnel.netstack.connection import Connection
from tunnel.netstack.endpoint import Event, EventKind, Reason
from tunnel.netstack.segment import Flag, Options, Segment
from tunnel.netstack.sequence import wrap
from tunnel.netstack.settings import Settings

MS = 1_000_000
START = 1_000 * MS
ISS, IRS = 0xFFFFFC00, 0xFFFFFE00
LETTERS = {"S": Flag.SYN, "F": Flag.FIN, "R": Flag.RST, "P": Flag.PSH, "A": Flag.ACK,
           "U": Flag.URG, "E": Flag.ECE, "C": Flag.CWR}  # fmt: skip
#: Plain settings, in which a script shows one thing at a time.
PLAIN = Settings(
    timestamps=False, selective=False, scaling=False, congestion="newreno", pacing=False,
    receive_buffer=60_000, receive_most=60_000, segment=1000,
)  # fmt: skip
OPENED = """
0   connect
0   > S 0
10  < SA 0 ack 1 win 60000 mss 1000
10  > A 1 ack 1
10  event ESTABLISHED
"""
ACCEPTED = """
0   listen
0   < S 0 win 60000 mss 1000
0   > SA 0 ack 1
10  < A 1 ack 1 win 60000
10  event ESTABLISHED
"""
#: How to get into each state that knows the peer, by 100 ms.
STATES = {
    "SYN-RECEIVED": "0 listen\n0 < S 0 win 60000 mss 1000\n0 > SA 0 ack 1",
    "ESTABLISHED": OPENED,
    "FIN-WAIT-1": OPENED + "20 close\n20 > FA 1 ack 1",
    "FIN-WAIT-2": OPENED + "20 close\n20 > FA 1 ack 1\n30 < A 1 ack 2 win 60000",
    "CLOSE-WAIT": OPENED + "20 < FA 1 ack 1 win 60000\n20 > A 1 ack 2\n20 event FINISHED",
    "CLOSING": OPENED
    + "20 close\n20 > FA 1 ack 1\n30 < FA 1 ack 1 win 60000\n30 > A 2 ack 2\n30 event FINISHED",
    "LAST-ACK": OPENED
    + "20 < FA 1 ack 1 win 60000\n20 > A 1 ack 2\n20 event FINISHED\n20 close\n20 > FA 1 ack 2",
    "TIME-WAIT": OPENED
    + "20 close\n20 > FA 1 ack 1\n30 < FA 1 ack 2 win 60000\n30 > A 2 ack 2\n30 event FINISHED",
}


def content(start: int, end: int) -> bytes:
    """The payload of [start, end), in either direction."""
    return bytes(position % 251 for position in range(start, end))


class Script:
    """One connection under a script."""

    def __init__(self, settings: Settings = PLAIN, clock_offset: int = 0) -> None:
        self.connection = Connection(1000, 80, iss=ISS, settings=settings,
                                     clock_offset=clock_offset)  # fmt: skip
        self.now = START
        self.sent: list[tuple[int, Segment]] = []
        self.events: list[Event] = []
        self._written = self._read = 1

    def run(self, text: str) -> None:
        """Play some lines; at the end nothing that was sent may be without a line."""
        for number, line in enumerate(text.strip().splitlines(), 1):
            line = line.split("#")[0].strip()
            if not line:
                continue
            moment, _, rest = line.partition(" ")
            self._advance(START + int(float(moment) * MS), line)
            try:
                self._play(rest.split())
            except AssertionError as error:
                raise AssertionError(f"line {number}: {line}\n  {error}") from None
        self._no_more("the end")

    def _no_more(self, where: str) -> None:
        said = [f"{(at - START) / MS:g} > {self.describe(one)}" for at, one in self.sent]
        assert not said, f"before {where}, sent without a line: {said}"

    def _advance(self, moment: int, line: str) -> None:
        assert moment >= self.now, f"{line}: time runs backwards"
        while (due := self.connection.next_deadline()) is not None and due < moment:
            self.now = max(due, self.now)
            self.connection.handle_timeout(self.now)
            self._collect()
        if moment > self.now:
            self._no_more(line)
        self.now = moment
        due = self.connection.next_deadline()
        if due is not None and due <= moment:
            self.connection.handle_timeout(moment)
        self._collect()

    def _collect(self) -> None:
        self.sent += [(self.now, one) for one in self.connection.segments_to_send(self.now)]
        self.events += self.connection.take_events()

    def _play(self, words: list[str]) -> None:
        connection = self.connection
        match words:
            case ["connect"]:
                connection.connect(self.now)
            case ["listen"]:
                connection.listen()
            case ["close"]:
                connection.close()
            case ["abort"]:
                connection.abort(self.now)
            case ["write" | "urgent" as how, count]:
                end = self._written + int(count)
                data = content(self._written, end)
                assert connection.write(data, urgent=how == "urgent") == int(count)
                self._written = end
            case ["read", count]:
                data = connection.read(int(count))
                assert data == content(self._read, self._read + int(count)), f"read {len(data)}"
                self._read += int(count)
            case ["state", name]:
                assert connection.state.value == name, f"state is {connection.state.value}"
            case ["event", kind, *reason]:
                event = Event(EventKind[kind], Reason[reason[0]] if reason else None)
                assert event in self.events, f"events are {self.events}"
            case ["left", count]:
                assert connection.urgent == int(count), f"{connection.urgent} bytes are left"
            case ["quiet"]:
                self._no_more("quiet")
            case ["<", *fields]:
                connection.receive(self._segment(fields), self.now)
            case [">", *fields]:
                self._expect(fields)
            case _:
                raise ValueError(f"no such line: {words}")
        self._collect()

    def arrive(self, text: str) -> None:
        """Let a segment come, and what follows from it wait for the next line."""
        self.connection.receive(self._segment(text.split()), self.now)

    def _segment(self, fields: list[str]) -> Segment:
        """Read the peer's segment."""
        flags, (start, end), rest = self._fields(fields)
        first = start + bool(flags & Flag.SYN)  # data lies behind a SYN
        options = Options(
            mss=int(rest["mss"]) if "mss" in rest else None,
            window_shift=int(rest["ws"]) if "ws" in rest else None,
            sack_permitted="sackok" in rest,
            timestamp=pair(rest["ts"], ":") if "ts" in rest else None,
            sack=tuple(
                (wrap(low + ISS), wrap(high + ISS))
                for low, high in (pair(one, "-") for one in rest.get("sack", "").split(",") if one)
            ),
            user_timeout=int(rest["uto"]) if "uto" in rest else None,
        )
        return Segment(
            80, 1000, wrap(IRS + start), wrap(ISS + int(rest["ack"])) if "ack" in rest else 0,
            flags, int(rest.get("win", "0")), options, content(first, first + end - start),
            "ce" in rest, urgent=int(rest.get("urg", "0")),
        )  # fmt: skip

    @staticmethod
    def _fields(fields: list[str]) -> tuple[int, tuple[int, int], dict[str, str]]:
        flags = sum(LETTERS[letter] for letter in fields[0])
        start, _, end = fields[1].partition(":")
        rest: dict[str, str] = {}
        words = iter(fields[2:])
        for word in words:
            rest[word] = "" if word in ("sackok", "ce", "ect") else next(words)
        return int(flags), (int(start), int(end or start)), rest

    def _expect(self, fields: list[str]) -> None:
        assert self.sent, f"nothing was sent; {self.connection.state.value}"
        at, one = self.sent.pop(0)
        said = f"{(at - START) / MS:g} > {self.describe(one)}"
        flags, (start, end), rest = self._fields(fields)
        assert at == self.now, said
        assert one.flags == flags, said
        assert self._position(one) == start, said
        assert bytes(one.payload) == content(start, end), said
        told = dict(zip(*[iter(self._told(one))] * 2, strict=True))
        for name, value in rest.items():
            assert told.get(name) == value, f"{name}: {said}"

    @staticmethod
    def _position(one: Segment) -> int:
        return wrap(one.sequence - ISS + (1 << 31)) - (1 << 31)

    @staticmethod
    def _told(one: Segment) -> list[str]:
        options = one.options
        words = ["ack", str(wrap(one.acknowledgment - IRS)), "win", str(one.window)]
        words += [] if options.mss is None else ["mss", str(options.mss)]
        words += [] if options.window_shift is None else ["ws", str(options.window_shift)]
        words += ["sackok", ""] if options.sack_permitted else []
        words += ["ts", "{}:{}".format(*options.timestamp)] if options.timestamp else []
        words += [] if options.user_timeout is None else ["uto", str(options.user_timeout)]
        blocks = [f"{wrap(low - IRS)}-{wrap(high - IRS)}" for low, high in options.sack]
        words += ["sack", ",".join(blocks)] if blocks else []
        words += ["urg", str(one.urgent)]
        return [*words, "cut", str(one.cut)] + (["ect", ""] if one.capable else [])

    def describe(self, one: Segment) -> str:
        """Return a segment as a line would write it."""
        flags = "".join(letter for letter, bit in LETTERS.items() if one.flags & bit)
        start = self._position(one)
        place = f"{start}:{start + len(one.payload)}" if one.payload else str(start)
        return " ".join([flags, place, *self._told(one)])


def pair(text: str, separator: str) -> tuple[int, int]:
    low, _, high = text.partition(separator)
    return int(low), int(high)


def play(text: str, settings: Settings = PLAIN, clock_offset: int = 0) -> Script:
    """Play a script from the start."""
    script = Script(settings, clock_offset)
    script.run(text)
    return script
