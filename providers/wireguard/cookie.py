"""MACs and cookies: what keeps a stranger from costing us Diffie-Hellman (paper, 5.3 and 5.4.7).

Every initiation and response ends in two MACs. mac1 shows that the sender knows whom it talks to;
the engine checks it on arrival, before Python sees the message. mac2 is only asked for under
load: whoever has none gets a cookie, sealed so that only the sender of the message can read it,
and must show with it that it receives at the address it sends from.

    Macs          both keys that belong to a static public key
    CookieJar     our side as a sender: one cookie a peer, from its replies
    CookieIssuer  our side under load: the secret behind all cookies, and the replies
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from providers.wireguard.messages import (
    COOKIE_SECRET_TIME,
    COOKIE_USE_TIME,
    LABEL_COOKIE,
    LABEL_MAC1,
    MAC_BYTES,
    MACS_BYTES,
    NO_MAC,
    NONCE_BYTES,
    CookieReply,
    sender_of,
)
from providers.wireguard.noise import wipe
from tunnel import Address, hchacha20

_HCHACHA_NONCE: Final = 16  # of an XChaCha20 nonce's 24 bytes


def mac(key: bytes | bytearray, data: bytes | bytearray) -> bytes:
    """Return the 16-byte keyed BLAKE2s of data."""
    return hashlib.blake2s(data, key=key, digest_size=MAC_BYTES).digest()


def _xchacha(key: bytes, nonce: bytes) -> tuple[ChaCha20Poly1305, bytes]:
    """Return the inner cipher and nonce (draft-irtf-cfrg-xchacha-03, section 2)."""
    subkey = hchacha20(key, nonce[:_HCHACHA_NONCE])
    return ChaCha20Poly1305(subkey), bytes(4) + nonce[_HCHACHA_NONCE:]


def xseal(key: bytes, nonce: bytes, plain: bytes, associated: bytes) -> bytes:
    """Seal with XChaCha20-Poly1305; the nonce has 24 bytes."""
    cipher, short = _xchacha(key, nonce)
    return cipher.encrypt(short, plain, associated)


def xopen(key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
    """Open what `xseal` made. Raises InvalidTag."""
    cipher, short = _xchacha(key, nonce)
    return cipher.decrypt(short, sealed, associated)


class Macs:
    """The keys that messages to the owner of a static public key are protected with."""

    __slots__ = ("cookie_key", "mac1_key")

    def __init__(self, public: bytes) -> None:
        self.mac1_key = hashlib.blake2s(LABEL_MAC1 + public).digest()
        self.cookie_key = hashlib.blake2s(LABEL_COOKIE + public).digest()


class CookieJar:
    """The cookie that one peer gave us, and the message that it may answer with another."""

    __slots__ = ("_awaited", "_cookie", "_macs", "_received")

    def __init__(self, peer_public: bytes) -> None:
        self._macs = Macs(peer_public)
        self._cookie: bytearray | None = None
        self._received = 0
        self._awaited: tuple[int, bytes] | None = None  # sender index and mac1 of the last message

    def sign(self, packed: bytes, now: int) -> bytes:
        """Return an initiation or response with its MACs filled in."""
        body = packed[:-MACS_BYTES]
        mac1 = mac(self._macs.mac1_key, body)
        self._awaited = (sender_of(packed), mac1)
        if self._cookie is not None and now - self._received >= COOKIE_USE_TIME:
            self.wipe()
        mac2 = NO_MAC if self._cookie is None else mac(self._cookie, body + mac1)
        return body + mac1 + mac2

    def take(self, reply: CookieReply, now: int) -> bool:
        """Take a cookie, if it answers the last message that was signed. Each is taken once."""
        if self._awaited is None or self._awaited[0] != reply.receiver:
            return False
        try:
            cookie = xopen(self._macs.cookie_key, reply.nonce, reply.cookie, self._awaited[1])
        except InvalidTag:
            return False
        self.wipe()
        self._cookie, self._received, self._awaited = bytearray(cookie), now, None
        return True

    def wipe(self) -> None:
        """Forget the cookie."""
        wipe(self._cookie)
        self._cookie = None


class CookieIssuer:
    """The secret that cookies are made from, replaced 120 s after the first cookie from it.

    `secret` goes to the engine, which checks cookies, each time that `renewed` is true for it.
    """

    __slots__ = ("_expires", "secret")

    def __init__(self) -> None:
        self.secret = bytearray(secrets.token_bytes(32))
        self._expires: int | None = None

    @property
    def deadline(self) -> int | None:
        """When the secret must be replaced; None while no cookie was made from it."""
        return self._expires

    def rotate(self, now: int) -> bool:
        """Replace the secret when it is due; True if it is another one now."""
        if self._expires is None or now < self._expires:
            return False
        wipe(self.secret)
        self.secret[:] = secrets.token_bytes(32)
        self._expires = None
        return True

    def cookie(self, address: Address, port: int, now: int) -> bytes:
        """Return the cookie of a source address and port."""
        if self._expires is None:
            self._expires = now + COOKIE_SECRET_TIME
        return mac(self.secret, address.packed + port.to_bytes(2))

    def reply(
        self, macs: Macs, message: bytes, address: Address, port: int, now: int
    ) -> CookieReply:
        """Answer a message whose mac1 was right; `macs` belong to our own public key."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        mac1 = message[-MACS_BYTES:-MAC_BYTES]
        sealed = xseal(macs.cookie_key, nonce, self.cookie(address, port, now), mac1)
        return CookieReply(sender_of(message), nonce, sealed)

    def wipe(self) -> None:
        """Zero the secret."""
        wipe(self.secret)
