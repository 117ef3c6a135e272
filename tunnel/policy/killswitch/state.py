"""What the kill switch shall let through, as frozen values. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tunnel.errors import UsageError
from tunnel.settings import Address, Inbound, InterfaceAddress, Network, Portal


class Phase(Enum):
    """The states of contract.md.

    `blocked`: nothing leaves but what keeps the network alive. `connecting`: the tunnel's own
    packets to its server do, and what goes into the tunnel waits there. `connected`: it gets out.
    """

    OFF = "off"
    BLOCKED = "blocked"
    CONNECTING = "connecting"
    CONNECTED = "connected"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A far end of the tunnel's own packets (UDP)."""

    address: Address
    port: int


@dataclass(frozen=True, slots=True)
class Resolver:
    """A DNS server that the daemon asks for endpoint names, over the interface that named it."""

    interface: str
    address: Address


@dataclass(frozen=True, slots=True)
class Desired:
    """All that the firewall is made from.

    `interfaces` are those that the tunnel's own packets may leave on; None: any but the tunnel.
    `excluded` are the networks that go past the tunnel because its routes exclude them.
    `confirm` is the time at which everything opens again unless it is confirmed, None: never;
    `portal_until` that at which the portal's opening ends.
    """

    phase: Phase = Phase.BLOCKED
    tunnel: str = ""
    mark: int = 0
    interfaces: tuple[str, ...] | None = ()
    endpoints: tuple[Endpoint, ...] = ()
    resolvers: tuple[Resolver, ...] = ()
    addresses: tuple[InterfaceAddress, ...] = ()
    local_networks: bool = False
    excluded: tuple[Network, ...] = ()
    inbound: tuple[Inbound, ...] = ()
    portal: Portal | None = None
    portal_until: float = 0.0
    confirm: float | None = None

    @property
    def open_tunnel(self) -> bool:
        """Whether packets may go into the tunnel and come out of it."""
        return bool(self.tunnel) and self.phase in (Phase.CONNECTING, Phase.CONNECTED)


def refuse_mark_zero(mark: int) -> None:
    """Refuse the mark 0. Raises UsageError with the reason."""
    if mark == 0:
        raise UsageError(
            "fwmark 0 is refused under the kill switch: the firewall knows tunneld's own packets by"
            " their mark; set another one, or `tunnelctl killswitch off` first"
        )
