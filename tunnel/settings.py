"""What a tunnel asks of the machine: addresses, MTU, routes, DNS. Frozen values.

A provider hands TunnelSettings to its session, as Apple's setTunnelNetworkSettings does; the
session renders the difference to what is there and applies it. What the user demands of the
tunnel's routes is a RoutingPolicy; it holds whatever a provider asks for.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)

from tunnel.errors import ConfigError

Address = IPv4Address | IPv6Address
InterfaceAddress = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network


class Table(Enum):
    """The words that wg-quick's Table key knows beside a number."""

    AUTO = "auto"
    OFF = "off"


class DNSMethod(Enum):
    """How the machine is made to ask a tunnel's resolvers; AUTO takes the first that is there."""

    AUTO = "auto"
    RESOLVED = "resolved"
    RESOLVCONF = "resolvconf"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class DNSSettings:
    """Resolvers inside the tunnel, and the names they serve.

    `match_domains` are those names' domains; none at all, and "" or "~." among them, mean every
    name. `search` completes short names.
    """

    servers: tuple[Address, ...] = ()
    search: tuple[str, ...] = ()
    match_domains: tuple[str, ...] = ()
    method: DNSMethod = DNSMethod.AUTO

    @property
    def takes_all(self) -> bool:
        """Whether every name goes to these servers."""
        return not self.match_domains or any(not d.strip("~.") for d in self.match_domains)


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


@dataclass(frozen=True, slots=True)
class Inbound:
    """Connections from outside that stay possible under the kill switch: PROTO/PORT@IF."""

    protocol: str
    port: int
    interface: str

    def __str__(self) -> str:
        return f"{self.protocol}/{self.port}@{self.interface}"


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """A control group: its folder, and what the kernel knows it by.

    `path` begins at the root of the cgroup2 file system, and `level` counts its parts from there.
    """

    folder: str
    path: str
    number: int
    level: int


@dataclass(frozen=True, slots=True)
class Portal:
    """An opening of the kill switch for a captive portal: one interface, and for one user (a uid)
    or one control group.

    `resolvers` are that interface's, which anybody may ask meanwhile: the portal's page has a name.
    `mark` is that of the answers, and of the control group's sockets.
    """

    interface: str
    user: int | None = None
    cgroup: ControlGroup | None = None
    resolvers: tuple[Address, ...] = ()
    mark: int = 0

    def __str__(self) -> str:
        who = f"user {self.user}"
        if self.cgroup is not None:
            path = self.cgroup.path
            who = f"control group {path if len(path) < 60 else '...' + path[-56:]}"
        return f"captive portal on {self.interface} for {who}"


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """What goes into the tunnel and what may go past it, in Apple's words and with their meaning.

    `include_all_networks`: everything goes through the tunnel or nowhere, but for what keeps the
    network itself alive. `enforce_routes`, only without it: the included routes win over the
    machine's own more specific routes and over sockets that are bound to another interface.
    `exclude_local_networks`, only with one of the two: private addresses that a network of this
    machine has on-link stay there. `included_routes` stand in place of those that the provider
    asks for (empty: as it asks); `excluded_routes` are added to its own, and hold under either
    flag. Of two prefixes the longer wins, of equal ones the excluded.

    `include_all_networks` closes the kill switch. `allow_inbound` are services of this machine that
    stay reachable from outside, `confirm` the seconds after which it opens again unless somebody
    confirms it (None: never), and with `lockdown_on_exit` an orderly end leaves it closed. `portal`
    is an opening of the moment, which no file can ask for. Raises ConfigError for a combination
    that means nothing.
    """

    include_all_networks: bool = False
    exclude_local_networks: bool = False
    enforce_routes: bool = False
    included_routes: tuple[Network, ...] = ()
    excluded_routes: tuple[Network, ...] = ()
    allow_inbound: tuple[Inbound, ...] = ()
    confirm: float | None = None
    lockdown_on_exit: bool = False
    portal: Portal | None = None

    def __post_init__(self) -> None:
        for key in ("allow_inbound", "confirm", "lockdown_on_exit"):
            if getattr(self, key) and not self.include_all_networks:
                raise _contradiction(
                    key,
                    "has no meaning without include_all_networks, which closes the kill switch",
                    "set include_all_networks, or leave it out",
                )
        if self.include_all_networks and self.enforce_routes:
            raise _contradiction(
                "enforce_routes",
                "has no meaning with include_all_networks, which enforces every route",
                "leave one of the two out",
            )
        if self.exclude_local_networks and not (self.include_all_networks or self.enforce_routes):
            raise _contradiction(
                "exclude_local_networks",
                "has no meaning alone: local networks go past the tunnel anyway",
                "set include_all_networks or enforce_routes, or leave it out",
            )
        for network in self.excluded_routes:
            if network.prefixlen == 0:
                raise _contradiction(
                    "excluded_routes",
                    f"{network} excludes everything",
                    "exclude smaller networks, or include none of this version",
                )
            if network in self.included_routes:
                raise _contradiction(
                    "excluded_routes", f"{network} is included too", "leave one of the two out"
                )

    def check_table(self, table: Table | int) -> None:
        """Refuse a Table that leaves the routes to others. Raises ConfigError."""
        for flag in ("include_all_networks", "enforce_routes"):
            if getattr(self, flag) and table is not Table.AUTO:
                word = table.value if isinstance(table, Table) else table
                raise _contradiction(
                    flag, f"cannot hold with table = {word}", "set table to auto, or leave it out"
                )

    def applied_to(self, settings: TunnelSettings) -> TunnelSettings:
        """Return a provider's settings with the user's routes in force."""
        excluded = dict.fromkeys((*settings.excluded_routes, *self.excluded_routes))
        return replace(
            settings,
            included_routes=self.included_routes or settings.included_routes,
            excluded_routes=tuple(excluded),
        )


def _contradiction(key: str, problem: str, mend: str) -> ConfigError:
    return ConfigError(problem, where=None, key=key, mend=mend)
