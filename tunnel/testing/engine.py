"""FakeEngine: the calls of `tunnel.Engine` in Python, for tests of what drives it.

It keeps the engine's rules (sessions slide from next to current to previous, old keys are refused,
keys due for renewal ask for a handshake, keepalives ask for no answer) but handles one packet at a
time, in virtual time. Data is really sealed, so that two devices only understand one another when
they agreed on keys. Packets are written with `write`; those that come out are in `delivered`.
`calls` records each call by name with its arguments, keys left out.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
from collections.abc import Callable
from typing import Any, Final

from tunnel.engine import (
    KEY_ALL,
    KEY_CURRENT,
    KEY_NEXT,
    KEY_PREVIOUS,
    Endpoint,
    EngineError,
    Event,
    EventKind,
    PeerInfo,
)
from tunnel.primitives import AuthenticationError, open_, seal
from tunnel.settings import Address, Network
from tunnel.testing.clock import VirtualClock
from tunnel.testing.fakepeer import FakePeer, Session, address_of, mac, trimmed

_SECOND: Final = 1_000_000_000
_REKEY_AFTER_TIME: Final = 120 * _SECOND
_LAST_MINUTE: Final = 165 * _SECOND
_REJECT_AFTER_TIME: Final = 180 * _SECOND
_STAGED: Final = 128
_SIZES: Final = {1: 148, 2: 92, 3: 64}

Outlet = Callable[[Endpoint, bytes, int], bool]


class FakeEngine:
    """An engine. `outlet` takes what it sends and says whether that could be sent."""

    def __init__(self, clock: VirtualClock, outlet: Outlet = lambda to, data, ds: True) -> None:
        self.outlet = outlet
        self.calls: list[tuple[Any, ...]] = []
        self.delivered: list[tuple[int, bytes]] = []
        self.under_load = False
        self.dropped = 0
        self.peers: dict[int, FakePeer] = {}
        self.allowed: dict[Network, int] = {}
        self._clock = clock
        self._events: list[Event] = []
        self._mac1_key: bytes | None = None
        self._cookie_secret = bytes(32)
        self._next_id = 0

    # ---- what a test does with it ----

    def write(self, packet: bytes) -> None:
        """Take an IP packet from the inside."""
        identifier = self.find_allowed(address_of(packet, source=False))
        if identifier is None:
            self.dropped += 1
            return
        peer = self.peers[identifier]
        self._stir(identifier, peer)
        if peer.endpoint is None:
            self.dropped += 1
        elif not self._seal(identifier, peer, packet):
            peer.staged = [*peer.staged, packet][-_STAGED:]
            self._want(identifier, peer)

    def deliver(self, data: bytes, source: Endpoint) -> None:
        """Take a datagram from the outside."""
        kind = int.from_bytes(data[:4], "little")
        if kind in _SIZES and len(data) == _SIZES[kind]:
            self._deliver_message(kind, data, source)
        elif kind == 4 and len(data) >= 32:
            self._deliver_data(data, source)
        else:
            self.dropped += 1

    # ---- calls ----

    def now(self) -> int:
        """Return the time."""
        return self._clock.now

    def read_events(self) -> list[Event]:
        """Return what happened since the last call."""
        events, self._events = self._events, []
        return events

    def counters(self) -> dict[str, int]:
        """Return the counters: only what was dropped."""
        return {"dropped": self.dropped}

    def set_identity(self, public_key: bytes | None) -> None:
        """Set the key that mac1 is checked with."""
        self.calls.append(("set_identity", public_key))
        self._mac1_key = (
            None if public_key is None else hashlib.blake2s(b"mac1----" + public_key).digest()
        )

    def set_cookie_secret(self, secret: bytes | bytearray) -> None:
        """Set the secret of cookies."""
        self.calls.append(("set_cookie_secret",))
        self._cookie_secret = bytes(secret)

    def add_peer(self) -> int:
        """Add a peer; numbers are not used again."""
        self._next_id += 1
        self.peers[self._next_id] = FakePeer()
        return self._next_id

    def remove_peer(self, peer: int) -> None:
        """Remove a peer."""
        self.calls.append(("remove_peer", peer))
        self.clear_allowed(peer)
        del self.peers[peer]
        self._events = [event for event in self._events if event.peer != peer]

    def peer_info(self, peer: int) -> PeerInfo:
        """Return a peer's state."""
        one = self._peer(peer)
        return PeerInfo(
            endpoint=one.endpoint,
            key_created=one.current.created if one.current else 0,
            staged=len(one.staged),
            keys=sum(bit for bit, session in one.sessions().items() if session),
            **one.times,
            **one.traffic,
        )

    def set_endpoint(self, peer: int, endpoint: Endpoint | None) -> None:
        """Set where a peer is."""
        self.calls.append(("set_endpoint", peer, endpoint))
        self._peer(peer).endpoint = endpoint
        self._peer(peer).asked = False

    def install(
        self,
        peer: int,
        local_index: int,
        remote_index: int,
        send_key: bytes | bytearray,
        receive_key: bytes | bytearray,
        initiator: bool,
    ) -> None:
        """Install a session's keys."""
        self.calls.append(("install", peer, local_index, remote_index, initiator))
        one = self._peer(peer)
        if any(self._find(local_index)):
            raise EngineError("install", errno.EEXIST)
        keys = bytes(send_key), bytes(receive_key)
        session = Session(local_index, remote_index, *keys, initiator, self._clock.now)
        if not initiator:
            one.previous, one.next = None, session
        else:
            one.previous = one.next or one.current
            one.current, one.next, one.last_minute = session, None, False
        one.asked = False

    def erase_keys(self, peer: int, which: int = KEY_ALL) -> None:
        """Forget keys."""
        self.calls.append(("erase_keys", peer, which))
        one = self._peer(peer)
        one.previous = None if which & KEY_PREVIOUS else one.previous
        one.current = None if which & KEY_CURRENT else one.current
        one.next = None if which & KEY_NEXT else one.next
        one.asked = False

    def flush(self, peer: int) -> bool:
        """Send what is staged, or a keepalive."""
        self.calls.append(("flush", peer))
        one = self._peer(peer)
        if one.endpoint is None or not self._usable(one):
            return False
        packets, one.staged = one.staged or [b""], []
        for packet in packets:
            self._seal(peer, one, packet)
        return True

    def drop_staged(self, peer: int) -> None:
        """Drop what is staged."""
        self.calls.append(("drop_staged", peer))
        self._peer(peer).staged.clear()
        self._peer(peer).asked = False

    def idle(self, peer: int) -> None:
        """Ask for ACTIVE at the next packet."""
        self.calls.append(("idle", peer))
        self._peer(peer).idle = True

    def touch(self, peer: int, size: int) -> None:
        """Account for an authenticated handshake message."""
        self._received(self._peer(peer), size, data=False)

    def send_to_peer(self, peer: int, data: bytes, ds: int = 0) -> bool:
        """Send a handshake message."""
        self.calls.append(("send_to_peer", peer, data, ds))
        one = self._peer(peer)
        one.asked = False
        if one.endpoint is None or not self.outlet(one.endpoint, data, ds):
            return False
        self._sent(one, len(data), data=False)
        return True

    def send(self, endpoint: Endpoint, data: bytes, ds: int = 0) -> bool:
        """Send a handshake message to an address."""
        self.calls.append(("send", endpoint, data, ds))
        return self.outlet(endpoint, data, ds)

    def allow(self, peer: int, network: Network) -> None:
        """Give a network to a peer."""
        self.allowed[network] = peer

    def disallow(self, peer: int, network: Network) -> None:
        """Take a network from a peer."""
        if self.allowed.get(network) != peer:
            raise EngineError("disallow", errno.ENOENT)
        del self.allowed[network]

    def clear_allowed(self, peer: int) -> None:
        """Take all networks from a peer."""
        self.allowed = {net: owner for net, owner in self.allowed.items() if owner != peer}

    def find_allowed(self, address: Address) -> int | None:
        """Return the owner of the longest prefix."""
        nets = [net for net in self.allowed if address in net]
        return self.allowed[max(nets, key=lambda net: net.prefixlen)] if nets else None

    # ---- inside ----

    def _peer(self, peer: int) -> FakePeer:
        if peer not in self.peers:
            raise EngineError("peer", errno.ENOENT)
        return self.peers[peer]

    def _find(self, index: int) -> tuple[int, int, Session] | tuple[()]:
        for identifier, peer in self.peers.items():
            for bit, session in peer.sessions().items():
                if session is not None and session.local_index == index:
                    return identifier, bit, session
        return ()

    def _usable(self, peer: FakePeer) -> Session | None:
        session = peer.current
        return session if session and self._age(session) < _REJECT_AFTER_TIME else None

    def _age(self, session: Session) -> int:
        return self._clock.now - session.created

    def _seal(self, identifier: int, peer: FakePeer, packet: bytes) -> bool:
        session = self._usable(peer)
        if session is None or peer.endpoint is None:
            return False
        counter, session.counter = session.counter, session.counter + 1
        padded = packet.ljust(-(-len(packet) // 16) * 16, b"\0")
        header = b"\4\0\0\0" + session.remote_index.to_bytes(4, "little")
        header += counter.to_bytes(8, "little")
        message = header + seal(session.send_key, counter, padded)
        if self.outlet(peer.endpoint, message, 0):
            self._sent(peer, len(message), data=bool(packet))
        if session.initiator and self._age(session) >= _REKEY_AFTER_TIME:
            self._want(identifier, peer)
        return True

    def _deliver_message(self, kind: int, data: bytes, source: Endpoint) -> None:
        if kind != 3:
            body, mac1, mac2 = data[:-32], data[-32:-16], data[-16:]
            if self._mac1_key is None or not hmac.compare_digest(mac(self._mac1_key, body), mac1):
                self.dropped += 1
                return
            place = source.address.packed + source.port.to_bytes(2)
            cookie = mac(self._cookie_secret, place)
            if self.under_load and not hmac.compare_digest(mac(cookie, body + mac1), mac2):
                self._events.append(Event(EventKind.COOKIE_WANTED, data=data, endpoint=source))
                return
        self._events.append(Event(EventKind.MESSAGE, data=data, endpoint=source))

    def _deliver_data(self, data: bytes, source: Endpoint) -> None:
        found = self._find(int.from_bytes(data[4:8], "little"))
        counter = int.from_bytes(data[8:16], "little")
        if not found or self._age(found[2]) >= _REJECT_AFTER_TIME or counter in found[2].seen:
            self.dropped += 1
            return
        identifier, bit, session = found
        try:
            packet = trimmed(open_(session.receive_key, counter, data[16:]))
        except AuthenticationError:
            self.dropped += 1
            return
        peer = self.peers[identifier]
        session.seen.add(counter)
        if bit == KEY_NEXT:
            peer.previous, peer.current, peer.next = peer.current, session, None
            peer.asked = peer.last_minute = False
            self._events.append(Event(EventKind.KEY_CONFIRMED, identifier))
        # What arrives on another path than we send on is taken, and moves nothing.
        if peer.endpoint != source and (peer.endpoint is None or peer.endpoint.path == source.path):
            peer.endpoint = source
            self._events.append(Event(EventKind.ENDPOINT, identifier, endpoint=source))
        self._stir(identifier, peer)
        self._received(peer, len(data), data=bool(packet))
        if session.initiator and self._age(session) >= _LAST_MINUTE and not peer.last_minute:
            peer.last_minute = True
            self._want(identifier, peer)
        if packet and self.find_allowed(address_of(packet, source=True)) == identifier:
            self.delivered.append((identifier, packet))

    def _want(self, identifier: int, peer: FakePeer) -> None:
        if not peer.asked:
            peer.asked = True
            self._events.append(Event(EventKind.HANDSHAKE_NEEDED, identifier))

    def _stir(self, identifier: int, peer: FakePeer) -> None:
        if peer.idle:
            peer.idle = False
            self._events.append(Event(EventKind.ACTIVE, identifier))

    def _sent(self, peer: FakePeer, size: int, *, data: bool) -> None:
        peer.traffic["tx_bytes"] += size
        peer.traffic["tx_packets"] += 1
        peer.times["last_sent"] = self._clock.now
        peer.times["unacked_since"] = 0
        if data and not peer.times["unanswered_since"]:
            peer.times["unanswered_since"] = self._clock.now

    def _received(self, peer: FakePeer, size: int, *, data: bool) -> None:
        peer.traffic["rx_bytes"] += size
        peer.traffic["rx_packets"] += 1
        peer.times["last_received"] = self._clock.now
        peer.times["unanswered_since"] = 0
        if data and not peer.times["unacked_since"]:
            peer.times["unacked_since"] = self._clock.now
