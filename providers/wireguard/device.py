"""The WireGuard device without I/O: engine events, configuration and time in, engine calls out.

    configure(change, now)      a DeviceChange, checked whole before anything of it is done
    handle_event(event, now)    what the engine reports
    handle_timeout(now)         to be called at next_deadline()
    moves                       goes to another path, after a proof or without
    snapshot()                  the device as it is

`now` is the engine's clock in ns, which counts sleep; `wall` gives the time since 1970 in ns and
is only used for handshake timestamps, and to say when handshakes were. Messages that a peer sends
raise nothing here: a refused one is counted by its reason.
"""

from __future__ import annotations

import errno
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from providers.wireguard.change import DeviceChange, DeviceSnapshot, PeerChange
from providers.wireguard.cookie import CookieIssuer, Macs
from providers.wireguard.handshake import (
    HandshakeError,
    Identity,
    PeerHandshake,
    Refusal,
    SessionKeys,
    consume_initiation,
    consume_response,
    create_initiation,
    create_response,
)
from providers.wireguard.indices import IndexTable
from providers.wireguard.messages import (
    HANDSHAKE_DS,
    REKEY_JITTER,
    SECOND,
    CookieReply,
    Initiation,
    Response,
    parse,
)
from providers.wireguard.moves import Moves
from providers.wireguard.peer import Peer, Phase
from providers.wireguard.peertable import PeerTable
from providers.wireguard.schedule import Schedule
from providers.wireguard.snapshot import check_change, endpoint_of, peer_snapshot
from providers.wireguard.timers import SILENCE_TIME, Action, decide
from tunnel import EngineError, EventKind, Secret

if TYPE_CHECKING:
    from tunnel import Endpoint, Engine, Event

_ROUNDS_MAX: Final = 4  # of actions at one look; each moves its due time on, so two are rare
_LOOKS_MAX: Final = 16  # initiations take up to a millisecond each
_COUNTED: Final = (
    *(reason.value for reason in Refusal),
    "handshake_not_installed",
    "cookie_refused",
    "cookie_replies",
)


class Device:
    """One interface's WireGuard. The engine is the caller's; its peers are the device's."""

    def __init__(
        self,
        engine: Engine,
        *,
        wall: Callable[[], int],
        draw_index: Callable[[], int] = lambda: secrets.randbits(32),
        draw_jitter: Callable[[], int] = lambda: secrets.randbelow(REKEY_JITTER),
    ) -> None:
        self.engine = engine
        self.identity: Identity | None = None
        self.peers = PeerTable(engine)
        self.counts: Counter[str] = Counter(dict.fromkeys(_COUNTED, 0))
        self.was_up = False  # with any peer, since the start
        self.returned = False  # a peer after a silence; whoever acts on it resets this
        self._wall = wall
        self._draw_jitter = draw_jitter
        self._own_macs: Macs | None = None
        self._issuer = CookieIssuer()
        self._indices: IndexTable[Peer] = IndexTable(draw_index)
        self._schedule: Schedule[Peer] = Schedule()
        self.moves = Moves(self)
        engine.set_cookie_secret(self._issuer.secret)

    def close(self) -> None:
        """Remove all peers and zero every secret."""
        for peer in self.peers:
            self._remove(peer)
        if self.identity is not None:
            self.engine.set_identity(None)
            self.identity.wipe()
            self.identity = None
        self._issuer.wipe()

    # ---- time ----

    def next_deadline(self) -> int | None:
        """Return when handle_timeout is to be called, None for never."""
        deadlines = (self._schedule.next(), self._issuer.deadline, self.moves.deadline)
        return min((one for one in deadlines if one is not None), default=None)

    def handle_timeout(self, now: int) -> None:
        """Do what is due, for so many peers at most that others have their turn in between."""
        if self._issuer.rotate(now):
            self.engine.set_cookie_secret(self._issuer.secret)
        self.moves.handle_timeout(now)
        for peer in list(self._schedule.take_due(now, _LOOKS_MAX)):
            self.look(peer, now)

    def _look_soon(self, peers: list[Peer], now: int) -> None:
        """Do what is due for a few peers, and for thousands more when it is next time."""
        for peer in peers[:_LOOKS_MAX]:
            self.look(peer, now)
        for peer in peers[_LOOKS_MAX:]:
            self._schedule.set(peer, now)

    def look(self, peer: Peer, now: int) -> None:
        """Do what is due for one peer, and note when to look again."""
        for _ in range(_ROUNDS_MAX):
            decision = decide(peer.timers, self.engine.peer_info(peer.id), now)
            if not decision.actions:
                break
            for action in decision.actions:
                self._act(peer, action, now)
        if decision.resting:
            # Asked for first and looked at again afterwards: a packet between the two is seen.
            self.engine.idle(peer.id)
            decision = decide(peer.timers, self.engine.peer_info(peer.id), now)
        self._schedule.set(peer, now if decision.actions else decision.deadline)

    def _act(self, peer: Peer, action: Action, now: int) -> None:
        match action:
            case Action.INITIATE:
                self._initiate(peer, now)
            case Action.GIVE_UP:
                self._forget(peer)
                peer.timers.given_up(now)
                self.engine.drop_staged(peer.id)
                self.peers.enter(peer, Phase.FAILED)
            case Action.KEEPALIVE:
                peer.timers.keepalive_sent(now)
                if not self.engine.flush(peer.id):
                    peer.timers.want()
            case Action.ERASE:
                self.engine.erase_keys(peer.id)
                peer.timers.erased()
                if peer.phase is Phase.UP:
                    self.peers.enter(peer, Phase.RESTING)
            case Action.SUSPECT:
                peer.timers.suspected = now
                self.moves.silent(peer, now)

    # ---- events ----

    def handle_event(self, event: Event, now: int) -> None:
        """Take one event of the engine's."""
        if event.kind is EventKind.MESSAGE and event.endpoint is not None:
            self._on_message(event.data, event.endpoint, now)
        elif event.kind is EventKind.COOKIE_WANTED and event.endpoint is not None:
            self._on_cookie_wanted(event.data, event.endpoint, now)
        elif event.peer is not None and (peer := self.peers.find(event.peer)) is not None:
            if event.kind is EventKind.HANDSHAKE_NEEDED:
                peer.timers.want()
            elif event.kind is EventKind.KEY_CONFIRMED:
                self._complete(peer, now)
                if self.engine.peer_info(peer.id).staged:
                    self.engine.flush(peer.id)
            elif event.kind is EventKind.ENDPOINT:
                peer.has_endpoint = True
            self.look(peer, now)

    def _on_message(self, data: bytes, source: Endpoint, now: int) -> None:
        message = parse(data)
        try:
            if message is None or self.identity is None:
                raise HandshakeError(Refusal.INVALID)
            match message:
                case Initiation():
                    self._on_initiation(self.identity, message, len(data), source, now)
                case Response():
                    self._on_response(self.identity, message, len(data), source, now)
                case CookieReply():
                    self._on_cookie_reply(message, now)
        except HandshakeError as error:
            self.counts[error.reason.value] += 1

    def _on_initiation(
        self, identity: Identity, message: Initiation, size: int, source: Endpoint, now: int
    ) -> None:
        consumed = consume_initiation(identity, message, self._find_handshake, now)
        peer = self.peers.by_key[consumed.peer.remote_static]
        index = self._indices.take(peer)
        self._indices.keep(index, now)
        response, keys = create_response(consumed, index)
        self._arrived(peer, size, source, now)
        # Installed before the response leaves: the peer's first packet may follow it at once.
        if self._install(peer, keys, now):
            self._send(peer, response.pack(), now, source)
        self.look(peer, now)

    def _on_response(
        self, identity: Identity, message: Response, size: int, source: Endpoint, now: int
    ) -> None:
        peer = self._indices.find(message.receiver)
        if peer is None or peer.handshake.outstanding is None:
            raise HandshakeError(Refusal.UNSOLICITED)
        sent = peer.handshake.outstanding.sent
        keys = consume_response(identity, peer.handshake, message)
        self._indices.keep(message.receiver, now)
        self._arrived(peer, size, source, now)
        if self._install(peer, keys, now):
            peer.rtt = now - sent
            self._complete(peer, now)
            self.moves.answered(peer, source, now)
            # The first packet under the new keys confirms them to the responder.
            self.engine.flush(peer.id)
        self.look(peer, now)

    def _on_cookie_reply(self, message: CookieReply, now: int) -> None:
        peer = self._indices.find(message.receiver)
        if peer is None or not peer.jar.take(message, now):
            self.counts["cookie_refused"] += 1

    def _on_cookie_wanted(self, data: bytes, source: Endpoint, now: int) -> None:
        if self._own_macs is not None:
            reply = self._issuer.reply(self._own_macs, data, source.address, source.port, now)
            self.engine.send(source, reply.pack(), HANDSHAKE_DS)
            self.counts["cookie_replies"] += 1

    # ---- handshakes ----

    def connect(self, now: int, *public_keys: bytes) -> None:
        """Begin handshakes with peers that are there, without waiting for traffic."""
        peers = [self.peers.by_key[key] for key in public_keys if key in self.peers.by_key]
        for peer in peers:
            peer.timers.want()
        self._look_soon(peers, now)

    def erase_keys(self, now: int) -> None:
        """Erase all sessions and handshakes, as before a suspend; traffic starts new ones."""
        for peer in self.peers:
            self._forget(peer)
            self.engine.erase_keys(peer.id)
            peer.timers.erased_all(now)
            peer.silent_since = None
            self.peers.enter(peer, Phase.RESTING if peer.phase is Phase.UP else Phase.NEW)

    def _initiate(self, peer: Peer, now: int) -> None:
        if self.identity is None or not peer.has_endpoint or not peer.usable:
            peer.timers.given_up(now)
            self.engine.drop_staged(peer.id)
            return
        self._forget(peer)
        index = self._indices.take(peer)
        message = create_initiation(self.identity, peer.handshake, index, self._wall(), now)
        peer.timers.initiated(now, self._draw_jitter())
        elsewhere = self.moves.asking(peer)
        if elsewhere is None:  # else it says nothing of the path in use
            if peer.silent_since is None:
                peer.silent_since = now
            if peer.phase is not Phase.UP or peer.timers.attempts > 1:
                self.peers.enter(peer, Phase.TRYING)
            if peer.timers.attempts > 1:
                self.moves.forget_source(peer)  # it may be why nothing came back
        self._send(peer, message.pack(), now, elsewhere)

    def _send(self, peer: Peer, packed: bytes, now: int, to: Endpoint | None) -> None:
        """Send a message where the peer is, or over another path if `to` is on one."""
        signed = peer.jar.sign(packed, now)
        if to is None or to.path == self.moves.path:
            peer.sendable = self.engine.send_to_peer(peer.id, signed, HANDSHAKE_DS)
        elif self.engine.send(to, signed, HANDSHAKE_DS):
            peer.sent_aside += len(signed)

    def _install(self, peer: Peer, keys: SessionKeys, now: int) -> bool:
        local, remote = keys.local_index, keys.remote_index
        try:
            self.engine.install(peer.id, local, remote, keys.send, keys.receive, keys.initiator)
        except EngineError as error:
            if error.errno not in (errno.EEXIST, errno.ENOMEM):
                raise
            self.counts["handshake_not_installed"] += 1
            return False
        finally:
            keys.wipe()
        peer.timers.derived(now)
        return True

    def _arrived(self, peer: Peer, size: int, source: Endpoint, now: int) -> None:
        """Account for an authenticated handshake message, and follow the peer to its address."""
        since = self.engine.peer_info(peer.id).unanswered_since or peer.silent_since
        peer.awaited = since is not None and now - since >= SILENCE_TIME
        self.engine.touch(peer.id, size)
        self.moves.arrived(peer, source)

    def _complete(self, peer: Peer, now: int) -> None:
        self._forget(peer)
        peer.timers.completed()
        peer.silent_since = None
        self.returned = self.returned or peer.awaited
        peer.handshake_at = now
        peer.handshake_wall = self._wall()
        self.was_up = True
        self.peers.enter(peer, Phase.UP)

    def _forget(self, peer: Peer) -> None:
        """Give up an outstanding initiation and its index."""
        if peer.handshake.outstanding is not None:
            self._indices.release(peer.handshake.outstanding.index)
            peer.handshake.forget()

    def _find_handshake(self, public_key: bytes) -> PeerHandshake | None:
        peer = self.peers.by_key.get(public_key)
        return None if peer is None else peer.handshake

    # ---- configuration ----

    def configure(self, change: DeviceChange, now: int) -> None:
        """Carry out a change but for port and mark. Raises ValueError, with nothing changed."""
        check_change(change)
        if change.private_key is not None:
            self._set_private_key(change.private_key, now)
        if change.replace_peers:
            for peer in self.peers:
                self._remove(peer)
        changed = [self._configure_peer(one) for one in change.peers]
        self._look_soon([one for one in changed if one and not one.removed], now)

    def _set_private_key(self, private: Secret, now: int) -> None:
        wanted = Identity(private) if private else None
        old = self.identity
        if old is not None and wanted is not None and old.private == wanted.private:
            wanted.wipe()
            return
        self.identity = wanted
        self._own_macs = None if wanted is None else Macs(wanted.public)
        self.engine.set_identity(None if wanted is None else wanted.public)
        if wanted is not None and (self_as_peer := self.peers.by_key.get(wanted.public)):
            self._remove(self_as_peer)
        self.erase_keys(now)
        for peer in self.peers:
            peer.handshake.precompute(wanted)
            self.peers.enter(peer, Phase.NEW)
        if old is not None:
            old.wipe()

    def _configure_peer(self, change: PeerChange) -> Peer | None:
        peer = self.peers.by_key.get(change.public_key)
        if change.remove:
            if peer is not None:
                self._remove(peer)
            return None
        if peer is None:
            if change.update_only or (self.identity and self.identity.public == change.public_key):
                return None
            peer = self.peers.add(change.public_key)
            peer.timers.watchful = self.moves.watchful
            peer.handshake.precompute(self.identity)
        if change.preshared_key is not None:
            peer.handshake.preshared.wipe()
            peer.handshake.preshared = change.preshared_key.copy()
        if change.endpoint is not None:
            endpoint = replace(endpoint_of(*change.endpoint), path=self.moves.path)
            self.engine.set_endpoint(peer.id, endpoint)
            peer.timers.keepalive_now = bool(peer.timers.interval) and not peer.has_endpoint
            peer.has_endpoint = True
        if change.replace_allowed_ips:
            # Those that come again stay: in between their packets would find no peer.
            wanted = {network for adds, network in change.allowed_ips if adds}
            for network in [one for one in peer.allowed_ips if one not in wanted]:
                self.peers.disallow(peer, network)
        for adds, network in change.allowed_ips:
            (self.peers.allow if adds else self.peers.disallow)(peer, network)
        if change.persistent_keepalive is not None:
            if change.persistent_keepalive and not peer.timers.interval:
                peer.timers.keepalive_now = True
            peer.timers.interval = change.persistent_keepalive * SECOND
        return peer

    def _remove(self, peer: Peer) -> None:
        self._forget(peer)
        self._schedule.set(peer, None)
        self.peers.remove(peer)

    # ---- what it is ----

    def snapshot(self) -> DeviceSnapshot:
        """Return the device as it is, without port and mark; the keys in it are the live ones."""
        private = None if self.identity is None else self.identity.private
        peers = tuple(peer_snapshot(peer, self.engine.peer_info(peer.id)) for peer in self.peers)
        return DeviceSnapshot(private_key=private, peers=peers)
