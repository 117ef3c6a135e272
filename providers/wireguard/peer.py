"""One peer as the device sees it: its handshakes, timers, allowed IPs, and how it is doing."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from providers.wireguard.cookie import CookieJar
from providers.wireguard.handshake import PeerHandshake
from providers.wireguard.messages import SECOND
from providers.wireguard.timers import TimerState

if TYPE_CHECKING:
    from tunnel import Network


class Phase(Enum):
    """How a peer is doing, for the status.

    NEW --> TRYING --> UP --> RESTING (its keys were erased after a long silence)
             ^  |      |         |
             |  +--> FAILED      |     any --> TRYING when a handshake starts, or, from UP,
             +---------+---------+     when one is not answered; any --> UP when one completes
    """

    NEW = "new"
    TRYING = "trying"
    UP = "up"
    RESTING = "resting"
    FAILED = "failed"


class Peer:
    """A peer. `id` is the engine's. Equal only to itself."""

    __slots__ = (
        "allowed_ips",
        "awaited",
        "handshake",
        "handshake_at",
        "handshake_wall",
        "has_endpoint",
        "id",
        "jar",
        "note",
        "phase",
        "public_key",
        "removed",
        "rtt",
        "sendable",
        "sent_aside",
        "silent_since",
        "timers",
    )

    def __init__(self, identifier: int, public_key: bytes) -> None:
        self.id = identifier
        self.public_key = public_key
        self.handshake = PeerHandshake(public_key)
        self.jar = CookieJar(public_key)
        self.timers = TimerState()
        self.allowed_ips: dict[Network, None] = {}  # an ordered set
        self.has_endpoint = False
        self.removed = False
        self.phase = Phase.NEW
        self.rtt: int | None = None  # ns, of the newest handshake that we began
        self.handshake_at: int | None = None  # on the engine's clock
        self.handshake_wall = 0
        self.silent_since: int | None = None  # first initiation that nothing answered
        self.awaited = False  # its newest handshake message came after a silence
        self.sendable = True  # whether the newest message could be sent
        self.sent_aside = 0  # bytes over a path not in use, which the engine does not count
        self.note = ""  # why there is no endpoint, from whoever looks names up

    @property
    def usable(self) -> bool:
        """Whether handshakes with this peer are possible: not with a low-order public key."""
        return self.handshake.static_static is not None

    def reason(self, now: int, *, has_identity: bool) -> str | None:
        """Say in words why there is no session; None when there is one."""
        if self.phase in (Phase.UP, Phase.RESTING):
            return None
        if not has_identity:
            return "the interface has no private key"
        if not self.usable:
            return "its public key is a low-order point: nothing is sent to it"
        if not self.has_endpoint:
            return self.note or "no endpoint: waiting for the peer"
        if self.silent_since is None:
            return "no handshake yet: waiting for traffic or the peer"
        if not self.sendable:
            return "handshakes cannot be sent: no usable path to its endpoint"
        return f"no answer for {(now - self.silent_since) // SECOND} s"

    def wipe(self) -> None:
        """Zero everything secret."""
        self.handshake.wipe()
        self.jar.wipe()
