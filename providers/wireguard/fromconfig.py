"""From a tunnel's configuration to the changes that its device is told. Pure functions."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from providers.wireguard.change import DeviceChange, PeerChange
from providers.wireguard.messages import KEY_BYTES
from tunnel import Address, Secret

if TYPE_CHECKING:
    from tunnel import Config, HostPort, PeerConfig


def literal(endpoint: HostPort | None) -> tuple[Address, int] | None:
    """Return an endpoint that is written as an address; None where it needs resolving."""
    if endpoint is None:
        return None
    try:
        return ipaddress.ip_address(endpoint.host), endpoint.port
    except ValueError:
        return None


def first_change(config: Config) -> DeviceChange:
    """Return the change that makes an empty device agree with a configuration."""
    return change_between(None, config)


def change_between(old: Config | None, new: Config) -> DeviceChange:
    """Return the change from one configuration to another; what is the same in both is left alone.

    A peer's endpoint in particular: it may have moved since. Ports and marks are not part of it.
    """
    before = {} if old is None else {peer.public_key: peer for peer in old.peers}
    after = {peer.public_key: peer for peer in new.peers}
    gone = [PeerChange(key, remove=True) for key in before if key not in after]
    kept = [_peer_change(before.get(key), peer) for key, peer in after.items()]
    key = new.interface.private_key
    return DeviceChange(private_key=None if key is None else key.copy(), peers=tuple(gone + kept))


def _peer_change(old: PeerConfig | None, new: PeerConfig) -> PeerChange:
    moved = old is None or old.endpoint != new.endpoint
    removed = [] if old is None else [net for net in old.allowed_ips if net not in new.allowed_ips]
    psk = new.preshared_key
    return PeerChange(
        new.public_key,
        preshared_key=Secret(bytes(KEY_BYTES)) if psk is None else psk.copy(),
        endpoint=literal(new.endpoint) if moved else None,
        persistent_keepalive=new.persistent_keepalive,
        allowed_ips=(
            *((False, network) for network in removed),
            *((True, network) for network in new.allowed_ips),
        ),
    )
