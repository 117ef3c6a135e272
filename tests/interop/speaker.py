"""A WireGuard peer without a device: handshakes by our own code, packets by `cryptography`.

For tests that must send what no well-behaved peer would, or that must know every key. It has no
sockets: it makes datagrams and reads them.
"""

from __future__ import annotations

import base64
import struct
import time

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from providers.wireguard.cookie import CookieJar
from providers.wireguard.handshake import (
    Identity,
    PeerHandshake,
    consume_response,
    create_initiation,
)
from providers.wireguard.messages import Response, parse
from tunnel import Secret

DATA = 4
_HEADER = struct.Struct("<IIQ")


def key64(raw: bytes) -> str:
    """Return a key as wg(8) writes it."""
    return base64.b64encode(raw).decode("ascii")


class Speaker:
    """Speaks to the owner of one public key (base64), always as initiator."""

    def __init__(self, private: bytes, remote: str) -> None:
        self.identity = Identity(Secret(private))
        self.peer = PeerHandshake(base64.b64decode(remote))
        self.peer.precompute(self.identity)
        self.jar = CookieJar(self.peer.remote_static)
        self.index = 0
        self.ephemeral = b""
        self.counter = 0

    @property
    def public(self) -> str:
        """Our public key in base64."""
        return key64(self.identity.public)

    def initiation(self, index: int = 1) -> bytes:
        """Return a new initiation; the session before it goes on until `accept`."""
        message = create_initiation(self.identity, self.peer, index, time.time_ns(), 0)
        assert self.peer.outstanding
        self.ephemeral = self.peer.outstanding.ephemeral.private_bytes_raw()
        return self.jar.sign(message.pack(), 0)

    def accept(self, data: bytes) -> None:
        """Take a response: packets can be sealed and opened from here on."""
        message = parse(data)
        assert isinstance(message, Response), data[:4].hex()
        keys = consume_response(self.identity, self.peer, message)
        self.index = keys.remote_index
        self.counter = 0
        self._send, self._receive = (
            ChaCha20Poly1305(bytes(key)) for key in (keys.send, keys.receive)
        )
        keys.wipe()

    def seal(self, packet: bytes) -> bytes:
        """Return the data message that carries these bytes, whatever they are."""
        header = _HEADER.pack(DATA, self.index, self.counter)
        sealed = self._send.encrypt(bytes(4) + header[8:], packet, None)
        self.counter += 1
        return header + sealed

    def open(self, data: bytes) -> bytes:
        """Return what a data message carries, padding included."""
        kind, _, _ = _HEADER.unpack_from(data)
        assert kind == DATA
        return self._receive.decrypt(bytes(4) + data[8:16], data[16:], None)
