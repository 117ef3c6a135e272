"""Cutting a packet that is larger than its route's MTU (RFC 791, section 2.3; RFC 8200, 4.5)."""

from __future__ import annotations

from collections.abc import Iterator

from tunnel.netstack.ip import HOPS, Outgoing, Route, checksum

_FRAGMENT = 44


def cut(route: Route, protocol: int, payload: bytes, identification: int) -> Iterator[Outgoing]:
    """Yield the fragments of what follows the IP header."""
    head = 20 if route.version == 4 else 48
    step = (route.mtu - head) // 8 * 8
    for offset in range(0, len(payload), step):
        piece = payload[offset : offset + step]
        more = offset + step < len(payload)
        if route.version == 4:
            header = bytearray(route.header(protocol, len(piece), identification=0))
            header[4:6] = (identification & 0xFFFF).to_bytes(2, "big")
            header[6:8] = (more << 13 | offset >> 3).to_bytes(2, "big")
            header[10:12] = b"\0\0"
            header[10:12] = checksum(header).to_bytes(2, "big")
            yield Outgoing(header, piece)
        else:
            place = (offset | more).to_bytes(2, "big") + identification.to_bytes(4, "big")
            header6 = route.header(_FRAGMENT, len(piece) + 8, hops=HOPS)
            yield Outgoing(header6 + bytes((protocol, 0)) + place, piece)
