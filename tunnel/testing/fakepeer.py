"""What FakeEngine keeps of a peer, and the few things it must know of packets."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from tunnel.engine import KEY_CURRENT, KEY_NEXT, KEY_PREVIOUS, Endpoint
from tunnel.settings import Address


@dataclass(slots=True)
class Session:
    """One session's keys. `counter` is the next to send with."""

    local_index: int
    remote_index: int
    send_key: bytes
    receive_key: bytes
    initiator: bool
    created: int
    counter: int = 0
    seen: set[int] = field(default_factory=set)


@dataclass(slots=True)
class FakePeer:
    """A peer; the fields mean what those of PeerInfo mean."""

    endpoint: Endpoint | None = None
    previous: Session | None = None
    current: Session | None = None
    next: Session | None = None
    staged: list[bytes] = field(default_factory=list)
    asked: bool = False
    last_minute: bool = False
    idle: bool = False
    times: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("last_sent", "last_received", "unanswered_since", "unacked_since"), 0
        )
    )
    traffic: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets"), 0
        )
    )

    def sessions(self) -> dict[int, Session | None]:
        """Return the sessions by their KEY_* bit."""
        return {KEY_PREVIOUS: self.previous, KEY_CURRENT: self.current, KEY_NEXT: self.next}


def mac(key: bytes, data: bytes) -> bytes:
    """Return a keyed BLAKE2s-128."""
    return hashlib.blake2s(data, key=key, digest_size=16).digest()


def trimmed(packet: bytes) -> bytes:
    """Return an IP packet without its padding."""
    if not packet:
        return packet
    four = packet[0] >> 4 == 4
    return packet[: int.from_bytes(packet[2:4]) if four else 40 + int.from_bytes(packet[4:6])]


def address_of(packet: bytes, *, source: bool) -> Address:
    """Return an IP packet's source or destination."""
    if packet[0] >> 4 == 4:
        return IPv4Address(packet[12:16] if source else packet[16:20])
    return IPv6Address(packet[8:24] if source else packet[24:40])
