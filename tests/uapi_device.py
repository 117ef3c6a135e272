"""A device for the UAPI server's tests: it keeps what it is told, as the protocol says, no more."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from providers.wireguard.change import DeviceChange, DeviceSnapshot, PeerChange, PeerSnapshot
from tunnel.secret import Secret
from tunnel.settings import Network


def _kept(secret: Secret | None) -> Secret | None:
    return secret.copy() if secret else None


@dataclass
class FakeDevice:
    """Answers UapiServer. `error` is raised by the next change, which then changes nothing."""

    private_key: Secret | None = None
    listen_port: int = 0
    fwmark: int = 0
    peers: dict[bytes, PeerSnapshot] = field(default_factory=dict)
    owners: dict[Network, bytes] = field(default_factory=dict)
    error: Exception | None = None
    changes: int = 0

    def get_snapshot(self) -> DeviceSnapshot:
        return DeviceSnapshot(
            self.private_key, self.listen_port, self.fwmark, tuple(self.peers.values())
        )

    async def configure(self, change: DeviceChange) -> None:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        self.changes += 1
        if change.private_key is not None:
            self.private_key = _kept(change.private_key)
        if change.listen_port is not None:
            self.listen_port = change.listen_port
        if change.fwmark is not None:
            self.fwmark = change.fwmark
        if change.replace_peers:
            self.peers.clear()
        for peer in change.peers:
            self._configure_peer(peer)

    def _configure_peer(self, change: PeerChange) -> None:
        if change.remove:
            self.peers.pop(change.public_key, None)
            return
        peer = self.peers.get(change.public_key)
        if peer is None:
            if change.update_only:
                return
            peer = PeerSnapshot(change.public_key)
        networks: dict[Network, None] = {}
        if not change.replace_allowed_ips:
            networks = dict.fromkeys(peer.allowed_ips)
        for adds, network in change.allowed_ips:
            networks.pop(network, None)
            if adds:
                networks[network] = None
                owner = self.peers.get(self.owners.get(network, b""))
                if owner is not None and owner.public_key != change.public_key:
                    rest = tuple(n for n in owner.allowed_ips if n != network)
                    self.peers[owner.public_key] = replace(owner, allowed_ips=rest)
                self.owners[network] = change.public_key
        peer = replace(peer, allowed_ips=tuple(networks))
        if change.preshared_key is not None:
            peer = replace(peer, preshared_key=_kept(change.preshared_key))
        if change.endpoint is not None:
            peer = replace(peer, endpoint=change.endpoint)
        if change.persistent_keepalive is not None:
            peer = replace(peer, persistent_keepalive=change.persistent_keepalive)
        self.peers[change.public_key] = peer
