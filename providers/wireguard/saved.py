"""SaveConfig: a device as it runs, as configuration, back into the file that it came from."""

from __future__ import annotations

from dataclasses import replace

from providers.wireguard.change import DeviceSnapshot, PeerSnapshot
from tunnel import saveconfig
from tunnel.config import Config, HostPort, PeerConfig


def save(config: Config, snapshot: DeviceSnapshot) -> bool:
    """Write the file anew where SaveConfig asks for it; tell whether it was written.

    To be called on an orderly way down, after the PreDown hooks and while the device still has
    its keys. Raises TunnelError; the file is then as it was.
    """
    if not config.interface.save_config or config.source is None:
        return False
    current = current_config(config, snapshot)
    try:
        saveconfig.write(saveconfig.render(current), config.source)
    finally:
        for secret in (current.interface.private_key, *(p.preshared_key for p in current.peers)):
            if secret is not None:
                secret.wipe()
    return True


def current_config(config: Config, snapshot: DeviceSnapshot) -> Config:
    """Return the configuration with the device's values in place of those it was started with.

    Endpoints are the addresses in use now, as `wg showconf` gives them. The result holds copies
    of the keys, which are the caller's to wipe.
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
