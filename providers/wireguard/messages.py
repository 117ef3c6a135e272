"""Every message of the protocol that Python handles, and every constant, on one page.

All integers are little-endian. Data messages (type 4) never come here: they are the engine's.
Sources: the WireGuard paper (Donenfeld, NDSS 2017; sections in brackets) and, for what the paper
leaves open, the values that the kernel's module uses.

    initiation    148   type 4 | sender 4 | ephemeral 32 | static 32+16 | timestamp 12+16 | macs
    response       92   type 4 | sender 4 | receiver 4 | ephemeral 32 | empty 0+16 | macs
    cookie reply   64   type 4 | receiver 4 | nonce 24 | cookie 16+16
    macs           32   mac1 16 | mac2 16

The type is one byte followed by three zero bytes; all four are compared as one number.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

SECOND: Final = 1_000_000_000  # ns; all times and durations here are in ns
MILLISECOND: Final = 1_000_000

# ---- timers (6.1 to 6.5) ----
REKEY_AFTER_TIME: Final = 120 * SECOND  # kept by the engine, which asks for the handshake
REJECT_AFTER_TIME: Final = 180 * SECOND  # kept by the engine at each packet
REKEY_TIMEOUT: Final = 5 * SECOND
REKEY_JITTER: Final = 334 * MILLISECOND
REKEY_ATTEMPT_TIME: Final = 90 * SECOND
KEEPALIVE_TIMEOUT: Final = 10 * SECOND
NEW_HANDSHAKE_TIME: Final = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT
ZEROING_TIME: Final = 3 * REJECT_AFTER_TIME
KEEPALIVE_MAX_SECONDS: Final = 65535

# ---- cookies and flood limits (5.1, 5.3, 5.4.7) ----
COOKIE_SECRET_TIME: Final = 120 * SECOND
COOKIE_USE_TIME: Final = 115 * SECOND  # less than the secret's life by the longest way of a message
INITIATION_INTERVAL: Final = 20 * MILLISECOND  # one initiation of a peer in this time is processed
#: Between two initiations of ours in any case, so that on no path they arrive closer than that.
INITIATION_SPACING: Final = 100 * MILLISECOND

# ---- identifiers (5.4) ----
PROTOCOL_NAME: Final = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
PROLOGUE: Final = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
LABEL_MAC1: Final = b"mac1----"
LABEL_COOKIE: Final = b"cookie--"

HANDSHAKE_DS: Final = 0x88  # DSCP AF41, not ECN-capable

KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
MAC_BYTES: Final = 16
TIMESTAMP_BYTES: Final = 12
NONCE_BYTES: Final = 24

TYPE_INITIATION: Final = 1
TYPE_RESPONSE: Final = 2
TYPE_COOKIE_REPLY: Final = 3

_INITIATION: Final = struct.Struct("<II32s48s28s16s16s")
_RESPONSE: Final = struct.Struct("<III32s16s16s16s")
_COOKIE_REPLY: Final = struct.Struct("<II24s32s")
_MACS: Final = struct.Struct("<16s16s")

INITIATION_BYTES: Final = _INITIATION.size
RESPONSE_BYTES: Final = _RESPONSE.size
COOKIE_REPLY_BYTES: Final = _COOKIE_REPLY.size
MACS_BYTES: Final = _MACS.size
NO_MAC: Final = bytes(MAC_BYTES)


@dataclass(frozen=True, slots=True)
class Initiation:
    """The first message (5.4.2). `static` and `timestamp` are sealed."""

    sender: int
    ephemeral: bytes
    static: bytes
    timestamp: bytes
    mac1: bytes = NO_MAC
    mac2: bytes = NO_MAC

    def pack(self) -> bytes:
        """Return the 148 bytes."""
        return _INITIATION.pack(
            TYPE_INITIATION,
            self.sender,
            self.ephemeral,
            self.static,
            self.timestamp,
            self.mac1,
            self.mac2,
        )


@dataclass(frozen=True, slots=True)
class Response:
    """The second message (5.4.3). `empty` is a tag over nothing."""

    sender: int
    receiver: int
    ephemeral: bytes
    empty: bytes
    mac1: bytes = NO_MAC
    mac2: bytes = NO_MAC

    def pack(self) -> bytes:
        """Return the 92 bytes."""
        return _RESPONSE.pack(
            TYPE_RESPONSE,
            self.sender,
            self.receiver,
            self.ephemeral,
            self.empty,
            self.mac1,
            self.mac2,
        )


@dataclass(frozen=True, slots=True)
class CookieReply:
    """The answer of a responder under load (5.4.7)."""

    receiver: int
    nonce: bytes
    cookie: bytes

    def pack(self) -> bytes:
        """Return the 64 bytes."""
        return _COOKIE_REPLY.pack(TYPE_COOKIE_REPLY, self.receiver, self.nonce, self.cookie)


Message = Initiation | Response | CookieReply

_KINDS: Final[dict[int, tuple[struct.Struct, type[Message]]]] = {
    TYPE_INITIATION: (_INITIATION, Initiation),
    TYPE_RESPONSE: (_RESPONSE, Response),
    TYPE_COOKIE_REPLY: (_COOKIE_REPLY, CookieReply),
}


def parse(data: bytes) -> Message | None:
    """Return the message that these bytes are, None where type or size is not one of ours."""
    if len(data) < 4:
        return None
    kind = _KINDS.get(int.from_bytes(data[:4], "little"))
    if kind is None or len(data) != kind[0].size:
        return None
    layout, make = kind
    return make(*layout.unpack(data)[1:])


def sender_of(data: bytes) -> int:
    """Return the sender index of a packed initiation or response."""
    return int.from_bytes(data[4:8], "little")
