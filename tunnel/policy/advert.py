"""Router advertisements: which router gave which prefix (RFC 4861, section 4.2). Pure.

The kernel makes addresses and routes of advertisements, and forgets which router an address came
from. Where two routers on one link advertise a prefix each, that is what decides: a packet with an
address of the one is likely to be dropped by the other's provider (RFC 8028, section 3).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT = 133, 134
HOP_LIMIT = 255
"""What shows that a packet was not forwarded (RFC 4861, section 6.1.2)."""
SOLICITATION = struct.pack("!BBHI", ROUTER_SOLICITATION, 0, 0, 0)  # the kernel does the checksum
PREFIXES_KEPT = 64
"""A link: whoever sends more has something else in mind than addresses."""

_HEADER = struct.Struct("!BBHBBHII")
_OPTION = struct.Struct("!BB")
_PREFIX = struct.Struct("!BBBBIII16s")
_PREFIX_OPTION = 3
_ON_LINK_OR_AUTONOMOUS = 0xC0
_FOREVER = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Advert:
    """One advertisement: prefixes with their valid lifetimes in seconds."""

    prefixes: tuple[tuple[IPv6Network, int], ...]


def parse(data: bytes) -> Advert | None:
    """Read one ICMPv6 message; None for what is no router advertisement or is malformed."""
    if len(data) < _HEADER.size or data[0] != ROUTER_ADVERTISEMENT or data[1] != 0:
        return None
    found: list[tuple[IPv6Network, int]] = []
    offset = _HEADER.size
    while offset < len(data):
        if offset + _OPTION.size > len(data):
            return None
        kind, units = _OPTION.unpack_from(data, offset)
        size = units * 8
        if size == 0 or offset + size > len(data):
            return None
        if kind == _PREFIX_OPTION and size == _PREFIX.size:
            _, _, length, flags, valid, _, _, prefix = _PREFIX.unpack_from(data, offset)
            if length <= 128 and flags & _ON_LINK_OR_AUTONOMOUS:
                network = IPv6Network((prefix, length), strict=False)
                if not network.is_link_local:
                    found.append((network, valid))
        offset += size
    return Advert(tuple(found))


class Adverts:
    """What the routers of all links have advertised. `now` is in seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._until: dict[int, dict[tuple[IPv6Address, IPv6Network], float]] = {}

    def hear(self, index: int, router: IPv6Address, advert: Advert, now: float) -> bool:
        """Take an advertisement; True where a prefix is new, or ends."""
        before = self.prefixes(index, now)
        known = self._until.setdefault(index, {})
        for network, valid in advert.prefixes:
            until = float("inf") if valid == _FOREVER else now + valid
            known.pop((router, network), None)
            known[router, network] = until
        for pair in [pair for pair, until in known.items() if until <= now]:
            del known[pair]
        while len(known) > PREFIXES_KEPT:
            del known[next(iter(known))]
        return self.prefixes(index, now) != before

    def prefixes(self, index: int, now: float) -> tuple[tuple[IPv6Address, IPv6Network], ...]:
        """Return the (router, prefix) pairs of a link that are valid now, in one order."""
        return tuple(sorted(p for p, until in self._until.get(index, {}).items() if until > now))

    def keep(self, indices: frozenset[int]) -> None:
        """Forget the links that are not there any more."""
        for index in self._until.keys() - indices:
            del self._until[index]
