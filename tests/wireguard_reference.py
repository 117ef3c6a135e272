"""WireGuard's handshake written a second time, straight from the paper (5.4), as an oracle.

It shares nothing with the provider but the primitives of two libraries, and has no state: values
in, values out, in the paper's notation. No checks either, except the tags.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"


def HASH(data: bytes) -> bytes:
    return hashlib.blake2s(data).digest()


def MAC(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2s(data, key=key, digest_size=16).digest()


def KDF(n: int, key: bytes, data: bytes) -> list[bytes]:
    t0 = hmac.new(key, data, hashlib.blake2s).digest()
    out = [hmac.new(t0, b"\x01", hashlib.blake2s).digest()]
    for i in range(2, n + 1):
        out.append(hmac.new(t0, out[-1] + bytes([i]), hashlib.blake2s).digest())
    return out


def DH(private: bytes, public: bytes) -> bytes:
    key = X25519PrivateKey.from_private_bytes(private)
    return key.exchange(X25519PublicKey.from_public_bytes(public))


def pub(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def AEAD(key: bytes, plain: bytes, ad: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(bytes(12), plain, ad)


def AEAD_open(key: bytes, sealed: bytes, ad: bytes) -> bytes:
    return ChaCha20Poly1305(key).decrypt(bytes(12), sealed, ad)


@dataclass
class Result:
    """Where a side is: the message it made or read, chaining key and hash; then the keys."""

    message: bytes = b""
    chain: bytes = b""
    hash: bytes = b""
    peer_static: bytes = b""
    timestamp: bytes = b""
    keys: tuple[bytes, bytes] = (b"", b"")  # the initiator's to send with, and the responder's


def with_macs(body: bytes, receiver_public: bytes, cookie: bytes | None = None) -> bytes:
    mac1 = MAC(HASH(b"mac1----" + receiver_public), body)
    return body + mac1 + (bytes(16) if cookie is None else MAC(cookie, body + mac1))


def initiate(s: bytes, e: bytes, responder_public: bytes, sender: int, timestamp: bytes) -> Result:
    """Make the first message; s and e are private keys."""
    c = HASH(CONSTRUCTION)
    h = HASH(HASH(c + IDENTIFIER) + responder_public)
    epub = pub(e)
    (c,) = KDF(1, c, epub)
    h = HASH(h + epub)
    c, k = KDF(2, c, DH(e, responder_public))
    static = AEAD(k, pub(s), h)
    h = HASH(h + static)
    c, k = KDF(2, c, DH(s, responder_public))
    sealed = AEAD(k, timestamp, h)
    h = HASH(h + sealed)
    body = b"\1\0\0\0" + sender.to_bytes(4, "little") + epub + static + sealed
    return Result(with_macs(body, responder_public), c, h)


def respond(s: bytes, e: bytes, psk: bytes, sender: int, message: bytes) -> Result:
    """Read the first message and make the second."""
    c = HASH(CONSTRUCTION)
    h = HASH(HASH(c + IDENTIFIER) + pub(s))
    other, epub_i = message[4:8], message[8:40]
    (c,) = KDF(1, c, epub_i)
    h = HASH(h + epub_i)
    c, k = KDF(2, c, DH(s, epub_i))
    static_i = AEAD_open(k, message[40:88], h)
    h = HASH(h + message[40:88])
    c, k = KDF(2, c, DH(s, static_i))
    timestamp = AEAD_open(k, message[88:116], h)
    h = HASH(h + message[88:116])
    epub = pub(e)
    (c,) = KDF(1, c, epub)
    h = HASH(h + epub)
    (c,) = KDF(1, c, DH(e, epub_i))
    (c,) = KDF(1, c, DH(e, static_i))
    c, t, k = KDF(3, c, psk)
    h = HASH(h + t)
    empty = AEAD(k, b"", h)
    body = b"\2\0\0\0" + sender.to_bytes(4, "little") + other + epub + empty
    first, second = KDF(2, c, b"")
    return Result(with_macs(body, static_i), c, h, static_i, timestamp, (first, second))


def finish(s: bytes, e: bytes, psk: bytes, begun: Result, message: bytes) -> Result:
    """Read the second message."""
    c, h = begun.chain, begun.hash
    epub_r = message[12:44]
    (c,) = KDF(1, c, epub_r)
    h = HASH(h + epub_r)
    (c,) = KDF(1, c, DH(e, epub_r))
    (c,) = KDF(1, c, DH(s, epub_r))
    c, t, k = KDF(3, c, psk)
    h = HASH(h + t)
    AEAD_open(k, message[44:60], h)
    first, second = KDF(2, c, b"")
    return Result(message, c, h, keys=(first, second))
