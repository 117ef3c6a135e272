"""One network interface as policy sees it: a frozen value built from what the kernel told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tunnel.settings import Address, InterfaceAddress, Network


class InterfaceType(Enum):
    """The types that --bind and --prohibit name."""

    CELLULAR = "cellular"
    WIFI = "wifi"
    WIRED = "wired"
    BLUETOOTH = "bluetooth"
    LOOPBACK = "loopback"
    TUNNEL = "tunnel"
    OTHER = "other"


class Confidence(Enum):
    """How far the evidence for a type can be trusted."""

    CERTAIN = "certain"
    LIKELY = "likely"
    GUESS = "guess"


@dataclass(frozen=True, slots=True)
class Classification:
    """An interface's type, and why: `evidence` is a phrase such as 'sysfs DEVTYPE=wwan'."""

    type: InterfaceType
    evidence: str
    confidence: Confidence


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface with the state that decides whether a tunnel may use it now.

    `addresses` holds those past duplicate address detection only. `routed` holds the IP versions
    (4, 6) for which a default route on this interface is there (over a tunnel any route counts).
    `routers` are the link-layer addresses of the gateways, in their order, empty strings where
    unknown: they, `ssid`, `dns` and `search` tell one network from another. `operator`, `roaming`
    and `ssid` are None where nobody knows. `waiting` is what a network manager says of an interface
    that it could connect, `cut_off` names another program's rule that lets nothing over it.
    `prefixes` are the (router, prefix) pairs that routers advertised here.
    `reason` says in words why the interface is not usable, and is empty when it is.
    """

    index: int
    name: str
    classification: Classification
    up: bool = False
    carrier: bool = False
    mtu: int = 1500
    addresses: tuple[InterfaceAddress, ...] = ()
    gateways: tuple[Address, ...] = ()
    dns: tuple[Address, ...] = ()
    metric: int = 0
    routed: frozenset[int] = frozenset()
    expensive: bool = False
    constrained: bool = False
    ultra_constrained: bool = False
    routers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    ssid: str | None = None
    operator: str | None = None
    roaming: bool | None = None
    waiting: str = ""
    cut_off: str = ""
    prefixes: tuple[tuple[Address, Network], ...] = ()

    @property
    def type(self) -> InterfaceType:
        """The classified type."""
        return self.classification.type

    @property
    def reason(self) -> str:
        """Why the interface cannot carry the tunnel now; empty when it can."""
        if self.waiting and not self.routed:
            return self.waiting
        if not self.up:
            return "is down"
        if not self.carrier:
            return "has no carrier"
        if not self.addresses:
            return "has no address yet"
        if self.cut_off:
            return f"is cut off by {self.cut_off}"
        if not self.routed:
            return "has no default route"
        return ""

    @property
    def usable(self) -> bool:
        """Whether it can carry the tunnel now."""
        return not self.reason

    @property
    def satisfiable(self) -> bool:
        """Whether it could if somebody connected it or brought it up."""
        return not self.usable and (bool(self.waiting) or not self.up)
