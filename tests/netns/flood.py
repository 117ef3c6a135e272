"""Hostile datagrams for a WireGuard port, by the thousand: noise, handshakes, inner packets.

All come from a seeded generator, so that a run can be repeated. `INNER` lists what an
authenticated peer may hide in a data message; each entry makes one inner packet.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from providers.wireguard.cookie import Macs, mac
from tests.interop.speaker import Speaker

SIZES = {1: 148, 2: 92, 3: 64}
#: x-coordinates of small order (RFC 7748, section 6.1: the result would be all zeros).
LOW_ORDER = (bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f")


def noise(numbers: random.Random) -> bytes:
    """Return random bytes, a third of them with a plausible type, and some with its size too."""
    body = numbers.randbytes(numbers.choice((0, 1, 3, 4, 15, 16, 31, 32, 64, 92, 148, 160, 600)))
    if numbers.random() < 0.33:
        kind = numbers.randint(1, 4)
        body = struct.pack("<I", kind) + body
        if kind in SIZES and numbers.random() < 0.5:
            body = body.ljust(SIZES[kind], b"\0")[: SIZES[kind]]
    return body


class Handshakes:
    """Messages with a valid mac1 for one public key, and all that can be wrong behind it."""

    def __init__(self, numbers: random.Random, target: bytes, strangers: list[Speaker]) -> None:
        self.numbers = numbers
        self.key = Macs(target).mac1_key
        # Made before the flood: real initiations by peers that nobody knows, and by one that is
        # known, whose timestamp grows old with the second use.
        self.ready = [stranger.initiation() for stranger in strangers]

    def sign(self, body: bytes) -> bytes:
        """Return a message with its mac1, and a mac2 that is zero or wrong."""
        mac2 = bytes(16) if self.numbers.random() < 0.8 else self.numbers.randbytes(16)
        return body + mac(self.key, body) + mac2

    def make(self) -> bytes:
        """Return one message."""
        numbers, choice = self.numbers, self.numbers.random()
        if choice < 0.02:
            return numbers.choice(self.ready)
        if choice < 0.05:
            low = struct.pack("<II", 1, 1) + numbers.choice(LOW_ORDER)
            return self.sign(low + numbers.randbytes(76))
        if choice < 0.6:
            return self.sign(struct.pack("<I", 1) + numbers.randbytes(112))
        if choice < 0.85:
            return self.sign(struct.pack("<I", 2) + numbers.randbytes(56))
        if choice < 0.95:
            return struct.pack("<I", 3) + numbers.randbytes(60)
        kind = numbers.randint(1, 3)
        return self.sign(struct.pack("<I", kind) + numbers.randbytes(numbers.randrange(300)))


def ipv4(
    source: str,
    destination: str,
    body: bytes,
    *,
    protocol: int = 17,
    total: int | None = None,
    words: int = 5,
    fragment: int = 0,
    version: int = 4,
) -> bytes:
    """Return an IPv4 packet, right or wrong as asked."""
    head = struct.pack(
        "!BBHHHBBH4s4s",
        version << 4 | words,
        0,
        20 + len(body) if total is None else total,
        1,
        fragment,
        64,
        protocol,
        0,
        IPv4Address(source).packed,
        IPv4Address(destination).packed,
    )
    return head[:10] + checksum(head).to_bytes(2) + head[12:] + body


def ipv6(
    source: str, destination: str, body: bytes, *, following: int = 17, length: int | None = None
) -> bytes:
    """Return an IPv6 packet, right or wrong as asked."""
    size = len(body) if length is None else length
    addresses = IPv6Address(source).packed + IPv6Address(destination).packed
    return struct.pack("!IHBB", 6 << 28, size, following, 64) + addresses + body


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    total = sum(int.from_bytes(data[i : i + 2]) for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def tcp(numbers: random.Random, words: int, flags: int = 0x10, extra: int = 0) -> bytes:
    """Return a TCP segment whose data offset is `words`, with `extra` bytes after 20."""
    ports = struct.pack("!HH", 40_000, 9)
    rest = struct.pack("!IIBBHHH", numbers.getrandbits(32), 1, words << 4, flags, 512, 0, 0)
    return ports + rest + numbers.randbytes(extra)


class Inner:
    """Inner packets of a peer that may use `own` and `own6`, for the host behind the tunnel."""

    def __init__(
        self, numbers: random.Random, own: str, own6: str, to: str, to6: str, other: str
    ) -> None:
        self.numbers = numbers
        self.own, self.own6, self.to, self.to6, self.other = own, own6, to, to6, other
        self.kinds: tuple[Callable[[], bytes], ...] = (
            self.version, self.short, self.lengths4, self.lengths6, self.stolen, self.stolen6,
            self.fragments, self.fragments6, self.offsets, self.offsets6, self.datagrams,
            self.extensions, self.large, self.zeros, self.stream,
        )  # fmt: skip

    def make(self) -> bytes:
        """Return one packet of any kind."""
        return self.numbers.choice(self.kinds)()

    def body(self, most: int = 200) -> bytes:
        return self.numbers.randbytes(self.numbers.randrange(most))

    def version(self) -> bytes:
        wrong = self.numbers.choice([v for v in range(16) if v not in (4, 6)])
        return ipv4(self.own, self.to, self.body(), version=wrong)

    def short(self) -> bytes:
        whole = self.numbers.choice((ipv4(self.own, self.to, b""), ipv6(self.own6, self.to6, b"")))
        return whole[: self.numbers.randrange(1, len(whole))]

    def lengths4(self) -> bytes:
        body = self.body()
        total = self.numbers.choice((0, 1, 19, 21 + len(body), 0x7FFF, 0xFFF0, 0xFFFF))
        words = self.numbers.choice((0, 1, 4, 5, 5, 5, 6, 15))
        return ipv4(self.own, self.to, body, total=total, words=words)

    def lengths6(self) -> bytes:
        """Where header and payload length together pass 16 bits, others have crashed."""
        length = self.numbers.choice((self.numbers.randint(65_496, 65_535), 40_000, 9_999))
        return ipv6(self.own6, self.to6, self.body(), length=length)

    def stolen(self) -> bytes:
        source = self.numbers.choice((self.other, self.to, "127.0.0.1", "0.0.0.0", "224.0.0.1"))
        return ipv4(source, self.to, self.body())

    def stolen6(self) -> bytes:
        source = self.numbers.choice(("::1", "::", "fe80::1", "ff02::1", self.to6))
        return ipv6(source, self.to6, self.body())

    def fragments(self) -> bytes:
        more, offset = self.numbers.choice((0, 0x2000)), self.numbers.choice((0, 1, 2, 185, 8191))
        return ipv4(self.own, self.to, self.body(), fragment=more | offset)

    def fragments6(self) -> bytes:
        offset = self.numbers.choice((0, 8, 65_528)) | self.numbers.randint(0, 1)
        header = struct.pack("!BBHI", self.numbers.choice((6, 17, 44, 60)), 0, offset, 7)
        return ipv6(self.own6, self.to6, header + self.body(), following=44)

    def offsets(self) -> bytes:
        segment = tcp(self.numbers, self.numbers.randrange(16), extra=self.numbers.randrange(40))
        cut = self.numbers.choice((len(segment), self.numbers.randrange(len(segment))))
        return ipv4(self.own, self.to, segment[:cut], protocol=6)

    def offsets6(self) -> bytes:
        segment = tcp(self.numbers, self.numbers.randrange(16), extra=self.numbers.randrange(40))
        cut = self.numbers.choice((len(segment), self.numbers.randrange(len(segment))))
        return ipv6(self.own6, self.to6, segment[:cut], following=6)

    def datagrams(self) -> bytes:
        body = self.body()
        length = self.numbers.choice((0, 7, 8 + len(body), 9 + len(body), 0xFFFF))
        return ipv4(self.own, self.to, struct.pack("!HHHH", 5000, 9, length, 0) + body)

    def extensions(self) -> bytes:
        """Chains of options headers that are long, end nowhere, or point past the end."""
        chain = b"".join(
            bytes([self.numbers.choice((0, 43, 60)), 0]) + bytes(6)
            for _ in range(self.numbers.randrange(30))
        )
        last = bytes([17, self.numbers.choice((0, 1, 200, 255))]) + self.body(30)
        return ipv6(self.own6, self.to6, chain + last, following=self.numbers.choice((0, 60)))

    def large(self) -> bytes:
        if self.numbers.random() < 0.9:
            return ipv4(self.own, self.to, self.numbers.randbytes(1380))
        size = self.numbers.choice((4000, 9000, 30_000, 60_000))
        return ipv4(self.own, self.to, bytes(size))

    def zeros(self) -> bytes:
        return bytes(self.numbers.choice((0, 0, 16, 1420)))

    def stream(self) -> bytes:
        """What would be coalesced if it were right: one flow, numbers that go wild."""
        flags = self.numbers.choice((0x10, 0x18, 0x02, 0x04, 0x3F))
        return ipv4(self.own, self.to, tcp(self.numbers, 5, flags, 40), protocol=6)
