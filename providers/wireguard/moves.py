"""How a device goes from one path to another: at once, or after a proof.

A path is a number that the engine has sockets for; each peer's endpoint carries the one that its
packets leave on. Arrivals on another path are taken, but never change it: only this module does.

A peer follows the first authenticated packet that it sees, so the proof is a handshake begun on
the new path, while data goes on over the old one:

    initiation on new  --response on new-->  PROVEN: this peer's packets leave on the new path
          |  ^    |
          |  |    +----response on old-->    LEANING: data that left meanwhile over the old path had
          |  +---------------------------    moved the peer back before it answered. The way there
     no answer in PROOF_TIME                 is proven: packets leave on the new path, and without
          v                                  old ones about, another handshake shows the way back
    taken back: one packet over the old path brings the peer back to it

All peers that are being talked to take part. The proof ends when all have answered; when time is
up one answer is enough, since a device has one path and some peers are always gone.

Silence is the other half: where another path stands by, nothing authenticated for SILENCE_TIME
from any peer while sending makes the path a suspect, which whoever owns the paths is told.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from providers.wireguard.messages import SECOND
from providers.wireguard.timers import SILENCE_TIME
from tunnel import KEY_CURRENT

if TYPE_CHECKING:
    from providers.wireguard.device import Device
    from providers.wireguard.peer import Peer
    from tunnel import Endpoint, PeerInfo

PROOF_TIME: Final = 5 * SECOND
#: How long packets leave on a path before the way back is known too.
LEAN_TIME: Final = 1_500_000_000
#: When an initiation that is not answered is followed by another: one lost packet proves nothing.
PROOF_RETRY: Final = 1_600_000_000


class Standing(Enum):
    """How far a peer is in a proof."""

    WAITING = auto()
    ASKED = auto()
    LEANING = auto()
    PROVEN = auto()


@dataclass(slots=True)
class Proof:
    """A proof under way. Times are ns."""

    path: int
    ends: int
    again: int
    peers: dict[Peer, Standing] = field(default_factory=dict)


class Moves:
    """The paths of one device. `path` is in use; `outcome` is that of the last proof, when over."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._engine = device.engine
        self._proof: Proof | None = None
        self.path = 0
        self.outcome: bool | None = None
        self.suspect = False  # the path in use is silent; whoever acts on it resets this
        self.watchful = False

    @property
    def deadline(self) -> int | None:
        """When `handle_timeout` is due; None without a proof."""
        return None if self._proof is None else min(self._proof.ends, self._proof.again)

    def watch(self, watchful: bool, now: int) -> None:
        """Look for silence, or stop that, as another path stands by or does not."""
        if watchful != self.watchful:
            self.watchful = watchful
            for peer in self._device.peers:
                peer.timers.watchful = watchful
                self._device.look(peer, now)

    def silent(self, peer: Peer, now: int) -> None:
        """Note that a peer is silent: the path is suspect when none other is heard either."""
        others = (one for one in self._device.peers if one is not peer)
        heard = (self._engine.peer_info(one.id).last_received for one in others)
        if all(now - when >= SILENCE_TIME for when in heard):
            self.suspect = True

    # ---- at once ----

    def forced(self, path: int, now: int) -> None:
        """Go over to a path, and let peers learn it: handshakes with those we were talking to.

        Which of our addresses they last spoke to is forgotten; it belongs to the old path.
        """
        self.end_proof()
        self.path = path
        for peer in self._device.peers:
            info = self.forget_source(peer)
            if _is_talked_to(peer, info):
                peer.timers.restart()
                self._device.look(peer, now)

    def forget_source(self, peer: Peer) -> PeerInfo:
        """Let the routes choose the local address that the peer is spoken to from."""
        info = self._engine.peer_info(peer.id)
        end = info.endpoint
        if end is not None and (end.source is not None or end.path != self.path):
            self._engine.set_endpoint(peer.id, _on_path(end, self.path))
        return info

    def arrived(self, peer: Peer, source: Endpoint) -> None:
        """Follow a peer to the address that an authenticated message of its came from."""
        if source.path == self.path:
            self._engine.set_endpoint(peer.id, source)
        elif not peer.has_endpoint:
            self._engine.set_endpoint(peer.id, _on_path(source, self.path))
        peer.has_endpoint = True

    # ---- after a proof ----

    def begin_proof(self, path: int, now: int) -> None:
        """Begin to prove a path. `outcome` has the result, at the latest PROOF_TIME from now."""
        self.end_proof()
        self.outcome = None
        proof = self._proof = Proof(path, now + PROOF_TIME, now + PROOF_RETRY)
        for peer in self._device.peers:
            if _is_talked_to(peer, self._engine.peer_info(peer.id)):
                proof.peers[peer] = Standing.WAITING
                peer.timers.restart()
                self._device.look(peer, now)
        if not proof.peers:  # nobody to ask, and nobody to lose
            self._finish(proof, now)

    def handle_timeout(self, now: int) -> None:
        """Ask again, or end the proof, when it is time."""
        proof = self._proof
        if proof is None:
            return
        if now >= proof.ends:
            self._finish(proof, now)
        elif now >= proof.again:
            proof.again = now + PROOF_RETRY
            for peer, standing in list(proof.peers.items()):
                if standing is not Standing.PROVEN and not peer.removed:
                    peer.timers.restart()
                    self._device.look(peer, now)

    def asking(self, peer: Peer) -> Endpoint | None:
        """Return where an initiation has to go that is to prove a path; None for any other."""
        proof = self._proof
        standing = proof.peers.get(peer) if proof is not None else None
        end = self._engine.peer_info(peer.id).endpoint
        if proof is None or standing in (None, Standing.PROVEN) or end is None:
            return None
        if standing is Standing.WAITING:
            proof.peers[peer] = Standing.ASKED
        return _on_path(end, proof.path)

    def answered(self, peer: Peer, source: Endpoint, now: int) -> None:
        """Take the answer to the peer's newest initiation."""
        proof = self._proof
        if proof is None or proof.peers.get(peer) not in (Standing.ASKED, Standing.LEANING):
            return
        if source.path == proof.path:
            proof.peers[peer] = Standing.PROVEN
            self._engine.set_endpoint(peer.id, source)
            if all(one is Standing.PROVEN for one in proof.peers.values()):
                self._finish(proof, now)
        elif proof.peers[peer] is Standing.ASKED:
            proof.peers[peer] = Standing.LEANING
            proof.ends = min(proof.ends, now + LEAN_TIME)
            self._engine.set_endpoint(peer.id, _on_path(source, proof.path))
            peer.timers.restart()

    def confirm(self) -> None:
        """Show the path in use to all that we have a session with, with one packet."""
        for peer in self._device.peers:
            if self._engine.peer_info(peer.id).keys & KEY_CURRENT:
                self._engine.flush(peer.id)

    def end_proof(self) -> None:
        """End a proof without an answer; the endpoints are the caller's to set."""
        if self._proof is not None:
            self._proof, self.outcome = None, False

    def _finish(self, proof: Proof, now: int) -> None:
        standings = proof.peers.values()
        proven = not standings or Standing.PROVEN in standings
        self._proof, self.outcome = None, proven
        if proven:
            self.path, self.suspect = proof.path, False
        for peer in self._device.peers:
            info = self._engine.peer_info(peer.id)
            if info.endpoint is None or proof.peers.get(peer) is Standing.PROVEN:
                continue
            self._engine.set_endpoint(peer.id, _on_path(info.endpoint, self.path))
            if peer in proof.peers:
                self._carry_on(peer, info, now)

    def _carry_on(self, peer: Peer, info: PeerInfo, now: int) -> None:
        """Go on with a peer that did not answer over the path that was tried."""
        if info.keys & KEY_CURRENT and not self.outcome:
            # It may have followed the initiation: any packet of ours brings it back.
            peer.timers.completed()
            self._engine.flush(peer.id)
        else:
            peer.timers.restart()
        self._device.look(peer, now)


def _is_talked_to(peer: Peer, info: PeerInfo) -> bool:
    return info.endpoint is not None and bool(
        info.keys or info.staged or peer.timers.series is not None
    )


def _on_path(endpoint: Endpoint, path: int) -> Endpoint:
    """Return the far address on a path, with none of our addresses: they belong to another."""
    return replace(endpoint, path=path, source=None, source_interface=0)
