"""What rtnetlink tells and takes, as values: links, addresses, neighbours, routes and rules.

`Dump` is one complete reading. Everything that decides something is built from it by pure
functions; connection.py reads it, rtdecode.py and rtencode.py know the wire.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunnel.settings import Address, InterfaceAddress, Network

RTN_UNICAST = 1
RTN_LOCAL = 2
RTN_BLACKHOLE = 6
RTN_UNREACHABLE = 7
RTN_PROHIBIT = 8
RTN_THROW = 9
SCOPE_UNIVERSE = 0
SCOPE_LINK = 253

FR_ACT_TO_TABLE = 1
FR_ACT_GOTO = 2
FR_ACT_NOP = 3
FR_ACT_BLACKHOLE = 6
FR_ACT_UNREACHABLE = 7
FR_ACT_PROHIBIT = 8
WHOLE_MARK = 0xFFFFFFFF

ROUTE_WORDS = {
    RTN_LOCAL: "local",
    RTN_BLACKHOLE: "blackhole",
    RTN_UNREACHABLE: "unreachable",
    RTN_PROHIBIT: "prohibit",
    RTN_THROW: "throw",
}
ACTION_WORDS = {
    FR_ACT_NOP: "nop",
    FR_ACT_BLACKHOLE: "blackhole",
    FR_ACT_UNREACHABLE: "unreachable",
    FR_ACT_PROHIBIT: "prohibit",
}


@dataclass(frozen=True, slots=True)
class Link:
    """One link. `carrier` is IFF_LOWER_UP: what the driver says of the layer below."""

    index: int
    name: str
    arphrd: int
    kind: str | None
    up: bool
    carrier: bool
    mtu: int


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """One address of a link. `tentative` until duplicate address detection has passed it.

    `deprecated`: its preferred lifetime is over (RFC 4862, section 5.5.4).
    """

    index: int
    address: InterfaceAddress
    tentative: bool = False
    deprecated: bool = False


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A neighbour whose link-layer address is known: what tells one router from another."""

    index: int
    address: Address
    mac: str


@dataclass(frozen=True, slots=True)
class Route:
    """One next hop of a route, present or wanted. `index` is 0 where a type has no interface."""

    destination: Network
    table: int
    index: int = 0
    gateway: Address | None = None
    metric: int = 0
    source: Address | None = None
    scope: int = SCOPE_UNIVERSE
    type: int = RTN_UNICAST
    protocol: int = 0
    onlink: bool = False
    usable: bool = True

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.destination.version

    @property
    def is_default(self) -> bool:
        """Whether it leads everywhere."""
        return self.destination.prefixlen == 0 and self.type == RTN_UNICAST

    @property
    def key(self) -> tuple[int, Network, int]:
        """What the kernel takes for the same route when one replaces another."""
        return self.table, self.destination, self.metric

    def __str__(self) -> str:
        words = [ROUTE_WORDS[self.type]] if self.type in ROUTE_WORDS else []
        words.append(str(self.destination))
        words += [f"via {self.gateway}"] if self.gateway is not None else []
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy routing rule, present or wanted.

    A packet matches where every selector that is given fits; `invert` turns the whole match round
    ("not fwmark"). `special` says that there are selectors that we do not model.
    """

    version: int
    preference: int
    table: int
    protocol: int = 0
    oif: str | None = None
    source: Network | None = None
    mark: int | None = None
    invert: bool = False
    suppress_prefixlen: int | None = None
    special: bool = False
    mask: int = WHOLE_MARK
    destination: Network | None = None
    iif: str | None = None
    action: int = FR_ACT_TO_TABLE
    goto: int = 0
    ip_protocol: int = 0
    source_ports: tuple[int, int] | None = None
    ports: tuple[int, int] | None = None
    users: tuple[int, int] | None = None

    @property
    def catches_all(self) -> bool:
        """Whether it takes packets of any interface and address, as a default VPN's rule does."""
        return (
            self.action not in (FR_ACT_GOTO, FR_ACT_NOP)
            and not self.special
            and not self.ip_protocol
            and (self.mark is None or self.invert)
            and all(
                selector is None
                for selector in (
                    self.oif, self.source, self.destination, self.iif, self.source_ports,
                    self.ports, self.users,
                )
            )
        )  # fmt: skip

    def __str__(self) -> str:
        """The rule as ip(8) would print it, without its preference."""
        words = ["not"] if self.invert else []
        words.append(f"from {'all' if self.source is None else self.source}")
        words += [f"to {self.destination}"] if self.destination is not None else []
        if self.mark is not None:
            mask = "" if self.mask == WHOLE_MARK else f"/{self.mask:#x}"
            words.append(f"fwmark {self.mark:#x}{mask}")
        words += [f"iif {self.iif}"] if self.iif is not None else []
        words += [f"oif {self.oif}"] if self.oif is not None else []
        words += [f"uidrange {_range(self.users)}"] if self.users is not None else []
        words += [f"ipproto {self.ip_protocol}"] if self.ip_protocol else []
        words += [f"sport {_range(self.source_ports)}"] if self.source_ports is not None else []
        words += [f"dport {_range(self.ports)}"] if self.ports is not None else []
        if self.action == FR_ACT_TO_TABLE:
            words.append(f"lookup {self.table}")
        elif self.action == FR_ACT_GOTO:
            words.append(f"goto {self.goto}")
        else:
            words.append(ACTION_WORDS.get(self.action, f"action {self.action}"))
        if self.suppress_prefixlen is not None:
            words.append(f"suppress_prefixlength {self.suppress_prefixlen}")
        return " ".join(words)


def _range(ends: tuple[int, int] | None) -> str:
    return "" if ends is None else f"{ends[0]}-{ends[1]}" if ends[0] != ends[1] else f"{ends[0]}"


@dataclass(frozen=True, slots=True)
class Dump:
    """One complete reading. Routes: those of the tables that connection.py says it reads."""

    links: tuple[Link, ...] = ()
    addresses: tuple[LinkAddress, ...] = ()
    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()

    def link(self, name: str) -> Link | None:
        """Return the link of that name."""
        return next((link for link in self.links if link.name == name), None)

    def name(self, index: int) -> str:
        """Return the name of the link with that index, or its number where there is none."""
        found = (link.name for link in self.links if link.index == index)
        return next(found, f"interface {index}")
