"""What a tunnel asks of the machine: addresses, MTU, routes, DNS. Frozen values, no behaviour.

A provider hands TunnelSettings to its session, as Apple's setTunnelNetworkSettings does; the
session renders the difference to what is there and applies it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)

Address = IPv4Address | IPv6Address
InterfaceAddress = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network


class Table(Enum):
    """The words that wg-quick's Table key knows beside a number."""

    AUTO = "auto"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class DNSSettings:
    """Resolvers inside the tunnel, and the names they serve (empty: all names)."""

    servers: tuple[Address, ...] = ()
    search: tuple[str, ...] = ()
    match_domains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TunnelSettings:
    """Everything a tunnel asks for; `mtu` None means: from the paths (contract: 1280 to 1420)."""

    addresses: tuple[InterfaceAddress, ...] = ()
    mtu: int | None = None
    included_routes: tuple[Network, ...] = ()
    excluded_routes: tuple[Network, ...] = ()
    dns: DNSSettings = field(default_factory=DNSSettings)
    table: Table | int = Table.AUTO
    fwmark: int = 0
