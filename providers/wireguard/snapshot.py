"""Between the values of a change or a snapshot and those of device and engine."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from providers.wireguard.change import DeviceChange, PeerChange, PeerSnapshot
from providers.wireguard.messages import KEEPALIVE_MAX_SECONDS, KEY_BYTES, SECOND
from tunnel import Address, Endpoint

if TYPE_CHECKING:
    from providers.wireguard.peer import Peer
    from tunnel import PeerInfo

_PORT_MAX: Final = 0xFFFF
_MARK_MAX: Final = 0xFFFF_FFFF


def check_change(change: DeviceChange) -> None:
    """Raise ValueError, which names the value, unless all of a change can be carried out."""
    _check_range("listen port", change.listen_port, 0, _PORT_MAX)
    _check_range("mark", change.fwmark, 0, _MARK_MAX)
    for peer in change.peers:
        _check_peer(peer)


def _check_peer(peer: PeerChange) -> None:
    if len(peer.public_key) != KEY_BYTES:
        raise ValueError(f"a public key has {KEY_BYTES} bytes, not {len(peer.public_key)}")
    _check_range("keepalive", peer.persistent_keepalive, 0, KEEPALIVE_MAX_SECONDS)
    if peer.endpoint is not None:
        address, port = peer.endpoint
        _check_range("endpoint port", port, 1, _PORT_MAX)
        endpoint_of(address, port)


def _check_range(what: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise ValueError(f"{what} {value} is not from {low} to {high}")


def endpoint_of(address: Address, port: int) -> Endpoint:
    """Return the engine's form of an endpoint. A scope id must be an interface's number."""
    scope = getattr(address, "scope_id", None) or "0"
    if not (scope.isascii() and scope.isdigit()):
        raise ValueError(f"endpoint scope {scope!r} is not an interface number")
    if not isinstance(address, ipaddress.IPv4Address):
        address = ipaddress.IPv6Address(int(address))  # without the scope
    return Endpoint(address, port, scope=int(scope))


def endpoint_shown(endpoint: Endpoint) -> tuple[Address, int]:
    """Return an endpoint for a snapshot: its scope, if any, in the address."""
    if endpoint.scope:
        return ipaddress.IPv6Address(f"{endpoint.address}%{endpoint.scope}"), endpoint.port
    return endpoint.address, endpoint.port


def peer_snapshot(peer: Peer, info: PeerInfo) -> PeerSnapshot:
    """Return a peer as it is now."""
    return PeerSnapshot(
        public_key=peer.public_key,
        preshared_key=peer.handshake.preshared,
        endpoint=None if info.endpoint is None else endpoint_shown(info.endpoint),
        persistent_keepalive=peer.timers.interval // SECOND,
        allowed_ips=tuple(peer.allowed_ips),
        last_handshake=peer.handshake_wall,
        rx_bytes=info.rx_bytes,
        tx_bytes=info.tx_bytes + peer.sent_aside,
    )
