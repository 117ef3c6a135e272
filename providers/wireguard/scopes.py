"""Scopes of link-local endpoints: written as a name, needed as a number."""

from __future__ import annotations

import socket
from dataclasses import replace
from ipaddress import IPv6Address

from providers.wireguard.change import DeviceChange, PeerChange
from tunnel.values import quoted


def numbered(change: DeviceChange) -> DeviceChange:
    """Return a change with interface numbers for scopes. Raises ValueError for an absent one."""
    return replace(change, peers=tuple(map(_numbered_peer, change.peers)))


def _numbered_peer(peer: PeerChange) -> PeerChange:
    address, port = peer.endpoint or (None, 0)
    scope = address.scope_id if isinstance(address, IPv6Address) else None
    if scope is None or scope.isdecimal():
        return peer
    try:
        number = socket.if_nametoindex(scope)
    except OSError:
        raise ValueError(f"endpoint: there is no interface {quoted(scope)}") from None
    return replace(peer, endpoint=(IPv6Address(f"{str(address).partition('%')[0]}%{number}"), port))
