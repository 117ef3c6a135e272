"""WireGuard's use of the Noise handshake: who may speak, when, and what it leaves behind.

    initiator                                responder
    create_initiation  -- initiation -->     consume_initiation
    consume_response   <-- response ---      create_response
    SessionKeys                              SessionKeys

Each consume function works on state of its own and changes the peer only at its end, when every
check has passed; whatever happens, secrets that are no longer needed are zeroed on the one way
out. A refusal is a HandshakeError with its reason, which the device counts; nothing is answered.

An initiation of ours stays outstanding until its response came, a new one replaces it, or the
device gives it up; a wrong response does not end it, or anybody could prevent handshakes. Being a
responder in the meantime does not end it either, so two peers that start at the same moment need
not wait for a retry.

Source: WireGuard paper, 5.4.2 to 5.4.5. Times are ns; `now` counts sleep, `wall` is since 1970.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from providers.wireguard import noise
from providers.wireguard.messages import (
    INITIATION_INTERVAL,
    KEY_BYTES,
    PROLOGUE,
    PROTOCOL_NAME,
    SECOND,
    TIMESTAMP_BYTES,
    Initiation,
    Response,
)
from providers.wireguard.noise import NoiseError, SymmetricState, wipe
from tunnel import Secret

_TAI64_BASE: Final = 2**62 + 10  # TAI was 10 s ahead of UTC in 1970
_TIMESTAMP_STEP: Final = 1 << 24  # ns; finer time would tell observers about the machine's load


class Refusal(Enum):
    """Why a handshake message was not taken; the value is the counter's name."""

    INVALID = "handshake_invalid"
    UNKNOWN_PEER = "handshake_unknown_peer"
    LOW_ORDER_PEER = "handshake_low_order_peer"
    REPLAYED = "handshake_replayed"
    FLOODED = "handshake_flooded"
    UNSOLICITED = "handshake_unsolicited"


class HandshakeError(Exception):
    """A handshake message that must be dropped, or one that must not be made."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason.value)
        self.reason = reason


def tai64n(wall: int, after: bytes) -> bytes:
    """Return the 12-byte TAI64N label of a wall time, always greater than `after`.

    A wall clock that stands still or steps back gives the label after `after` instead, as a peer
    that has seen `after` would refuse anything else until the clock has caught up.
    """
    seconds, nanoseconds = divmod(wall, SECOND)
    label = _label(seconds + _TAI64_BASE, nanoseconds - nanoseconds % _TIMESTAMP_STEP)
    if label > after:
        return label
    seconds = int.from_bytes(after[:8])
    nanoseconds = int.from_bytes(after[8:]) + _TIMESTAMP_STEP
    return _label(seconds, nanoseconds) if nanoseconds < SECOND else _label(seconds + 1, 0)


def _label(seconds: int, nanoseconds: int) -> bytes:
    return seconds.to_bytes(8) + nanoseconds.to_bytes(4)


class Identity:
    """The device's own static key pair: a clamped copy of the private key, and its public half."""

    __slots__ = ("_key", "private", "public")

    def __init__(self, private: Secret) -> None:
        self.private = private.copy()
        self.private.clamp()
        self._key: X25519PrivateKey | None = X25519PrivateKey.from_private_bytes(
            self.private.reveal()
        )
        self.public = noise.public_bytes(self._key)

    @property
    def key(self) -> X25519PrivateKey:
        """The private key for Diffie-Hellman."""
        if self._key is None:
            raise ValueError("the private key has been wiped")
        return self._key

    def shared_with(self, public: bytes) -> bytearray | None:
        """Return the static-static secret; None for a low-order key, with which none exists."""
        try:
            return noise.dh(self.key, public)
        except NoiseError:
            return None

    def wipe(self) -> None:
        """Zero the private key. The library zeroes its copy when that is collected."""
        self.private.wipe()
        self._key = None


@dataclass(slots=True)
class SessionKeys:
    """The transport keys of a new session, for `Engine.install`; wiped by whoever made it."""

    local_index: int
    remote_index: int
    send: bytearray
    receive: bytearray
    initiator: bool

    def wipe(self) -> None:
        """Zero the keys."""
        wipe(self.send, self.receive)


@dataclass(slots=True)
class Outstanding:
    """An initiation of ours that waits for its response."""

    index: int
    ephemeral: X25519PrivateKey
    state: SymmetricState
    sent: int


@dataclass(slots=True)
class Consumed:
    """An initiation that was taken, and is to be answered."""

    peer: PeerHandshake
    sender: int
    ephemeral: bytes
    state: SymmetricState


class PeerHandshake:
    """What handshakes know of one peer."""

    __slots__ = (
        "consumed",
        "outstanding",
        "preshared",
        "received_timestamp",
        "remote_static",
        "sent_timestamp",
        "static_static",
    )

    def __init__(self, remote_static: bytes) -> None:
        self.remote_static = remote_static
        self.static_static: bytearray | None = None
        self.preshared = Secret(bytes(KEY_BYTES))
        self.received_timestamp = bytes(TIMESTAMP_BYTES)
        self.sent_timestamp = bytes(TIMESTAMP_BYTES)
        self.consumed: int | None = None
        self.outstanding: Outstanding | None = None

    def precompute(self, identity: Identity | None) -> None:
        """Take over another static key of ours: its shared secret, and no handshake under way."""
        self.forget()
        wipe(self.static_static)
        self.static_static = None if identity is None else identity.shared_with(self.remote_static)

    def forget(self) -> None:
        """Give up the outstanding initiation, if there is one."""
        if self.outstanding is not None:
            self.outstanding.state.wipe()
            self.outstanding = None

    def wipe(self) -> None:
        """Zero everything secret."""
        self.forget()
        wipe(self.static_static)
        self.static_static = None
        self.preshared.wipe()


def create_initiation(
    identity: Identity, peer: PeerHandshake, index: int, wall: int, now: int
) -> Initiation:
    """Return a new initiation, with a new ephemeral and timestamp; the one before is forgotten.

    Raises HandshakeError for a peer whose key is a low-order point.
    """
    peer.forget()
    if peer.static_static is None:
        raise HandshakeError(Refusal.LOW_ORDER_PEER)
    timestamp = tai64n(wall, peer.sent_timestamp)
    state = noise.start(PROTOCOL_NAME, PROLOGUE, peer.remote_static)
    ephemeral = X25519PrivateKey.generate()
    try:
        public, static, sealed = noise.write_first(
            state,
            ephemeral,
            identity.public,
            peer.remote_static,
            peer.static_static,
            timestamp,
        )
    except BaseException:
        state.wipe()
        raise
    peer.sent_timestamp = timestamp
    peer.outstanding = Outstanding(index, ephemeral, state, now)
    return Initiation(index, public, static, sealed)


def consume_initiation(
    identity: Identity,
    message: Initiation,
    find: Callable[[bytes], PeerHandshake | None],
    now: int,
) -> Consumed:
    """Check an initiation and return what its response needs. `find` looks a static key up.

    Raises HandshakeError; the peer is then as it was.
    """
    state = noise.start(PROTOCOL_NAME, PROLOGUE, identity.public)
    taken = False
    try:
        static = noise.read_first_static(state, identity.key, message.ephemeral, message.static)
        peer = find(static)
        if peer is None:
            raise HandshakeError(Refusal.UNKNOWN_PEER)
        if peer.static_static is None:
            raise HandshakeError(Refusal.LOW_ORDER_PEER)
        timestamp = noise.read_first_payload(state, peer.static_static, message.timestamp)
        if timestamp <= peer.received_timestamp:
            raise HandshakeError(Refusal.REPLAYED)
        if peer.consumed is not None and now - peer.consumed < INITIATION_INTERVAL:
            raise HandshakeError(Refusal.FLOODED)
        peer.received_timestamp = timestamp
        peer.consumed = now
        taken = True
        return Consumed(peer, message.sender, message.ephemeral, state)
    except NoiseError:
        raise HandshakeError(Refusal.INVALID) from None
    finally:
        if not taken:
            state.wipe()


def create_response(consumed: Consumed, index: int) -> tuple[Response, SessionKeys]:
    """Return the response to an initiation and the session's keys; the initiation is used up.

    Raises HandshakeError where the initiator's ephemeral is a low-order point.
    """
    peer, state = consumed.peer, consumed.state
    try:
        public, empty = noise.write_second(
            state,
            X25519PrivateKey.generate(),
            consumed.ephemeral,
            peer.remote_static,
            peer.preshared.reveal(),
            b"",
        )
        receive, send = state.split()
    except NoiseError:
        raise HandshakeError(Refusal.INVALID) from None
    finally:
        state.wipe()
    keys = SessionKeys(index, consumed.sender, send, receive, initiator=False)
    return Response(index, consumed.sender, public, empty), keys


def consume_response(identity: Identity, peer: PeerHandshake, message: Response) -> SessionKeys:
    """Check a response and return the session's keys; the initiation is then used up.

    Raises HandshakeError; the peer is then as it was, and its initiation still outstanding.
    """
    outstanding = peer.outstanding
    if outstanding is None or outstanding.index != message.receiver:
        raise HandshakeError(Refusal.UNSOLICITED)
    state = outstanding.state.copy()
    try:
        noise.read_second(
            state,
            outstanding.ephemeral,
            identity.key,
            message.ephemeral,
            peer.preshared.reveal(),
            message.empty,
        )
        send, receive = state.split()
    except NoiseError:
        raise HandshakeError(Refusal.INVALID) from None
    finally:
        state.wipe()
    peer.forget()
    return SessionKeys(message.receiver, message.sender, send, receive, initiator=True)
