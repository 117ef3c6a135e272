"""The Noise protocol layer: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, and nothing of WireGuard.

Terms and tokens are those of the Noise specification, revision 34 (sections 5, 7.5 and 9):

    IKpsk2:
      <- s
      ...
      -> e, es, s, ss      write_first,  read_first_static, read_first_payload
      <- e, ee, se, psk    write_second, read_second

A SymmetricState is what both sides agree on so far: the chaining key (`chain`), the running hash
of everything said (`hash`), and the key and counter that seal the next part. Its chain and key
are bytearrays; whoever owns a state wipes it. The values that the libraries hand out (shared
secrets, HMAC results) are immutable and live until they are collected; SECURITY.md lists them.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

HASH_BYTES: Final = 32

Buffer = bytes | bytearray


class NoiseError(Exception):
    """A message that must be refused; nothing of it may be used."""


def wipe(*buffers: bytearray | None) -> None:
    """Zero buffers in place."""
    for buffer in buffers:
        if buffer is not None:
            buffer[:] = bytes(len(buffer))


def kdf(key: Buffer, material: Buffer, outputs: int) -> list[bytearray]:
    """Return 1 to 3 keys: HKDF (RFC 5869) over HMAC-BLAKE2s (Noise, section 4.3)."""
    extracted = hmac.digest(key, material, "blake2s")
    results: list[bytearray] = []
    previous = b""
    for number in range(1, outputs + 1):
        previous = hmac.digest(extracted, previous + bytes([number]), "blake2s")
        results.append(bytearray(previous))
    return results


def public_bytes(private: X25519PrivateKey) -> bytes:
    """Return the public half."""
    return private.public_key().public_bytes_raw()


def dh(private: X25519PrivateKey, public: Buffer) -> bytearray:
    """Return the shared secret. Raises NoiseError when it is all zeros: a low-order point."""
    try:
        return bytearray(private.exchange(X25519PublicKey.from_public_bytes(bytes(public))))
    except ValueError:
        raise NoiseError("the Diffie-Hellman result is all zeros") from None


class SymmetricState:
    """The chaining key, the hash, and the key of the next payload (Noise, section 5.2)."""

    __slots__ = ("_counter", "_key", "chain", "hash")

    def __init__(self, protocol_name: bytes) -> None:
        if len(protocol_name) <= HASH_BYTES:
            self.hash = protocol_name.ljust(HASH_BYTES, b"\0")
        else:
            self.hash = hashlib.blake2s(protocol_name).digest()
        self.chain = bytearray(self.hash)
        self._key: bytearray | None = None
        self._counter = 0

    def copy(self) -> SymmetricState:
        """Return an independent copy, to be wiped on its own."""
        other = object.__new__(SymmetricState)
        other.hash = self.hash
        other.chain = bytearray(self.chain)
        other._key = None if self._key is None else bytearray(self._key)
        other._counter = self._counter
        return other

    def wipe(self) -> None:
        """Zero the chain and the key."""
        wipe(self.chain, self._key)

    def mix_hash(self, data: Buffer) -> None:
        """Add to what both sides have said."""
        self.hash = hashlib.blake2s(self.hash + bytes(data)).digest()

    def mix_key(self, material: Buffer) -> None:
        """Stir in a shared secret; gives a new key."""
        chain, key = kdf(self.chain, material, 2)
        self._take(chain, key)

    def mix_key_and_hash(self, material: Buffer) -> None:
        """Stir in a preshared key, which the hash then depends on too."""
        chain, confirmation, key = kdf(self.chain, material, 3)
        self.mix_hash(confirmation)
        wipe(confirmation)
        self._take(chain, key)

    def mix_dh(self, private: X25519PrivateKey, public: Buffer) -> None:
        """Stir in a Diffie-Hellman result, which is wiped."""
        secret = dh(private, public)
        try:
            self.mix_key(secret)
        finally:
            wipe(secret)

    def _take(self, chain: bytearray, key: bytearray) -> None:
        self.wipe()
        self.chain, self._key, self._counter = chain, key, 0

    def _cipher(self) -> tuple[ChaCha20Poly1305, bytes]:
        if self._key is None:
            raise NoiseError("there is no key yet")
        nonce = bytes(4) + self._counter.to_bytes(8, "little")
        self._counter += 1
        return ChaCha20Poly1305(self._key), nonce

    def seal(self, plain: Buffer) -> bytes:
        """Encrypt and authenticate, bound to the hash so far (EncryptAndHash)."""
        cipher, nonce = self._cipher()
        sealed = cipher.encrypt(nonce, bytes(plain), self.hash)
        self.mix_hash(sealed)
        return sealed

    def open(self, sealed: Buffer) -> bytes:
        """Decrypt (DecryptAndHash). Raises NoiseError unless the tag is right."""
        cipher, nonce = self._cipher()
        try:
            plain = cipher.decrypt(nonce, bytes(sealed), self.hash)
        except InvalidTag:
            raise NoiseError("authentication failed") from None
        self.mix_hash(sealed)
        return plain

    def split(self) -> tuple[bytearray, bytearray]:
        """Return the transport keys: the initiator sends with the first."""
        first, second = kdf(self.chain, b"", 2)
        return first, second


def start(protocol_name: bytes, prologue: bytes, responder_static: bytes) -> SymmetricState:
    """Return the state before the first message (the pre-message `<- s`)."""
    state = SymmetricState(protocol_name)
    state.mix_hash(prologue)
    state.mix_hash(responder_static)
    return state


def _mix_ephemeral(state: SymmetricState, public: Buffer) -> None:
    # With a PSK in the pattern an ephemeral also goes into the chain (Noise, section 9.2).
    state.mix_hash(public)
    state.mix_key(public)


def write_first(
    state: SymmetricState,
    ephemeral: X25519PrivateKey,
    static_public: bytes,
    responder_static: bytes,
    static_static: Buffer,
    payload: Buffer,
) -> tuple[bytes, bytes, bytes]:
    """Initiator: return ephemeral, sealed static and sealed payload of the first message.

    `static_static` is the shared secret of both static keys, which a peer computes once.
    """
    public = public_bytes(ephemeral)
    _mix_ephemeral(state, public)  # e
    state.mix_dh(ephemeral, responder_static)  # es
    sealed_static = state.seal(static_public)  # s
    state.mix_key(static_static)  # ss
    return public, sealed_static, state.seal(payload)


def read_first_static(
    state: SymmetricState, static: X25519PrivateKey, ephemeral: bytes, sealed_static: bytes
) -> bytes:
    """Responder: return the initiator's static key, which says whose message it is."""
    _mix_ephemeral(state, ephemeral)  # e
    state.mix_dh(static, ephemeral)  # es
    return state.open(sealed_static)  # s


def read_first_payload(
    state: SymmetricState, static_static: Buffer, sealed_payload: bytes
) -> bytes:
    """Responder: return the payload, which proves that the initiator has its static key."""
    state.mix_key(static_static)  # ss
    return state.open(sealed_payload)


def write_second(
    state: SymmetricState,
    ephemeral: X25519PrivateKey,
    initiator_ephemeral: bytes,
    initiator_static: bytes,
    preshared: Buffer,
    payload: Buffer,
) -> tuple[bytes, bytes]:
    """Responder: return ephemeral and sealed payload of the second message."""
    public = public_bytes(ephemeral)
    _mix_ephemeral(state, public)  # e
    state.mix_dh(ephemeral, initiator_ephemeral)  # ee
    state.mix_dh(ephemeral, initiator_static)  # se
    state.mix_key_and_hash(preshared)  # psk
    return public, state.seal(payload)


def read_second(
    state: SymmetricState,
    ephemeral: X25519PrivateKey,
    static: X25519PrivateKey,
    responder_ephemeral: bytes,
    preshared: Buffer,
    sealed_payload: bytes,
) -> bytes:
    """Initiator: return the payload of the second message."""
    _mix_ephemeral(state, responder_ephemeral)  # e
    state.mix_dh(ephemeral, responder_ephemeral)  # ee
    state.mix_dh(static, responder_ephemeral)  # se
    state.mix_key_and_hash(preshared)  # psk
    return state.open(sealed_payload)
