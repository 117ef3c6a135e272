"""How a device as it runs looks as configuration, for SaveConfig."""

from __future__ import annotations

from dataclasses import replace

from providers.wireguard.change import DeviceSnapshot, PeerSnapshot
from tunnel.config import Config, HostPort, PeerConfig


def current_config(config: Config, snapshot: DeviceSnapshot) -> Config:
    """Return the configuration with the device's values in place of those it was started with.

    Endpoints are the addresses in use now, as `wg showconf` gives them. The result holds copies
    of the keys, so that the snapshot need not be kept.
    """
    key = snapshot.private_key
    interface = replace(
        config.interface,
        private_key=key.copy() if key else None,
        listen_port=snapshot.listen_port,
        fwmark=snapshot.fwmark,
    )
    return replace(config, interface=interface, peers=tuple(map(_peer, snapshot.peers)))


def _peer(peer: PeerSnapshot) -> PeerConfig:
    return PeerConfig(
        public_key=peer.public_key,
        preshared_key=peer.preshared_key.copy() if peer.preshared_key else None,
        endpoint=HostPort(str(peer.endpoint[0]), peer.endpoint[1]) if peer.endpoint else None,
        allowed_ips=peer.allowed_ips,
        persistent_keepalive=peer.persistent_keepalive,
    )
