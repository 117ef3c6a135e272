"""Scopes of link-local endpoints: names of interfaces become numbers, as the engine has them."""

from __future__ import annotations

import socket
from dataclasses import replace
from ipaddress import IPv6Address

from providers.wireguard.change import DeviceChange, PeerChange


def numbered(change: DeviceChange) -> DeviceChange:
    """Return a change in which the scopes of link-local endpoints are interface numbers."""
    return replace(change, peers=tuple(_peer(peer) for peer in change.peers))


def _peer(peer: PeerChange) -> PeerChange:
    if peer.endpoint is None:
        return peer
    address, port = peer.endpoint
    scope = address.scope_id if isinstance(address, IPv6Address) else None
    if scope is None or scope.isdigit():
        return peer
    try:
        number = socket.if_nametoindex(scope)
    except OSError as error:
        raise ValueError(f"endpoint scope {scope!r} is not an interface of this machine") from error
    plain = str(address).partition("%")[0]
    return replace(peer, endpoint=(IPv6Address(f"{plain}%{number}"), port))
