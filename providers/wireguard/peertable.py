"""The peers of a device, by key and by the engine's number, and who owns which allowed IP.

The engine has the same in its own tables, which packets are looked up in; everything that changes
one changes the other here, and nowhere else. A network belongs to the peer that claimed it last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from providers.wireguard.peer import Peer, Phase
from providers.wireguard.snapshot import endpoint_shown

if TYPE_CHECKING:
    from tunnel import Address, Engine, Network


class PeerTable:
    """Peers in the order in which they were added."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.by_key: dict[bytes, Peer] = {}
        self._by_id: dict[int, Peer] = {}
        self._owners: dict[Network, Peer] = {}
        self.phases: Counter[Phase] = Counter()

    def __iter__(self) -> Iterator[Peer]:
        return iter(list(self.by_key.values()))

    def __len__(self) -> int:
        return len(self.by_key)

    def find(self, identifier: int) -> Peer | None:
        """Return the peer with an engine's number."""
        return self._by_id.get(identifier)

    def places(self) -> list[tuple[Address, int]]:
        """Return where peers are, as far as that is known."""
        placed = (peer for peer in self.by_key.values() if peer.has_endpoint)
        ends = (self._engine.peer_info(peer.id).endpoint for peer in placed)
        return [endpoint_shown(end) for end in ends if end is not None]

    def add(self, public_key: bytes) -> Peer:
        """Add a peer."""
        peer = Peer(self._engine.add_peer(), public_key)
        self.by_key[public_key] = peer
        self._by_id[peer.id] = peer
        self.phases[peer.phase] += 1
        return peer

    def remove(self, peer: Peer) -> None:
        """Remove a peer: its keys in the engine, its networks, its secrets."""
        self._engine.remove_peer(peer.id)
        for network in peer.allowed_ips:
            del self._owners[network]
        peer.allowed_ips.clear()
        del self.by_key[peer.public_key], self._by_id[peer.id]
        self.phases[peer.phase] -= 1
        peer.removed = True
        peer.wipe()

    def enter(self, peer: Peer, phase: Phase) -> None:
        """Move a peer to another phase."""
        self.phases[peer.phase] -= 1
        self.phases[phase] += 1
        peer.phase = phase

    def allow(self, peer: Peer, network: Network) -> None:
        """Give a network to a peer, taking it from the one that has it."""
        self._engine.allow(peer.id, network)
        owner = self._owners.get(network)
        if owner is not None:
            del owner.allowed_ips[network]
        self._owners[network] = peer
        peer.allowed_ips[network] = None

    def disallow(self, peer: Peer, network: Network) -> None:
        """Take a network from a peer, if it has it."""
        if network in peer.allowed_ips:
            self._engine.disallow(peer.id, network)
            del peer.allowed_ips[network], self._owners[network]
