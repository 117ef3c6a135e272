"""NetworkState: the machine's interfaces and what routing there is, at one moment.

Built from a complete rtnetlink dump by a pure function. What tunneld itself has put into the
kernel (recognised by its protocol number) is left out, so that our own changes do not look like a
change of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

from tunnel.errors import ConfigError, Where
from tunnel.policy.classify import Facts, classify, read_facts
from tunnel.policy.dns import dns_servers
from tunnel.policy.interface import Interface, InterfaceType
from tunnel.policy.numbers import PROTOCOL, TABLE_MAIN
from tunnel.policy.rtnl import Dump, Link, Route, Rule
from tunnel.settings import Address

if TYPE_CHECKING:
    from tunnel.config import InterfaceOverride


@dataclass(frozen=True, slots=True)
class Override:
    """What the user knows better of one interface; None leaves it to the evidence."""

    type: InterfaceType | None = None
    expensive: bool | None = None
    constrained: bool | None = None
    ultra_constrained: bool | None = None
    dns: tuple[Address, ...] = ()

    @classmethod
    def from_config(
        cls, name: str, config: InterfaceOverride, where: Where | None = None
    ) -> Override:
        """Check the words of [interfaces.NAME] or --classify. Raises ConfigError."""
        return cls(
            type=None if config.type is None else parse_type(config.type, name, where),
            expensive=config.expensive,
            constrained=config.constrained,
            ultra_constrained=config.ultra_constrained,
            dns=tuple(_dns_address(word, name, where) for word in config.dns),
        )


def parse_type(word: str, name: str, where: Where | None = None) -> InterfaceType:
    """Return the type that a word of the configuration means. Raises ConfigError."""
    try:
        return InterfaceType(word)
    except ValueError:
        types = ", ".join(type_.value for type_ in InterfaceType)
        raise ConfigError(
            f"{word!r} is no type of interface",
            where=where,
            key=f"interfaces.{name}.type",
            mend=f"the types are {types}",
        ) from None


def _dns_address(word: str, name: str, where: Where | None) -> Address:
    try:
        return ip_address(word)
    except ValueError:
        raise ConfigError(
            f"{word!r} is no address",
            where=where,
            key=f"interfaces.{name}.dns",
            mend="give each DNS server as an IPv4 or IPv6 address",
        ) from None


@dataclass(frozen=True, slots=True)
class NetworkState:
    """Interfaces by index, the main table's routes by interface index, and others' rules."""

    interfaces: tuple[Interface, ...] = ()
    routes: Mapping[int, tuple[Route, ...]] = field(default_factory=dict)
    rules: frozenset[Rule] = frozenset()

    def routes_of(self, interface: Interface) -> tuple[Route, ...]:
        """Return the main table's routes over an interface, in the kernel's order."""
        return self.routes.get(interface.index, ())


FactsReader = Callable[[Link, InterfaceType | None], Facts]
ServersReader = Callable[[str, int, tuple[Address, ...]], tuple[Address, ...]]


def sysfs_facts(link: Link, override: InterfaceType | None) -> Facts:
    """Read an interface's facts on this machine."""
    return read_facts(link.name, link.arphrd, link.kind, override=override)


def machine_servers(name: str, index: int, override: tuple[Address, ...]) -> tuple[Address, ...]:
    """Read an interface's DNS servers on this machine."""
    return dns_servers(name, index, override=override)


def build_state(
    dump: Dump,
    overrides: Mapping[str, Override],
    *,
    facts: FactsReader = sysfs_facts,
    servers: ServersReader = machine_servers,
) -> NetworkState:
    """Build the state from a dump; `facts` and `servers` supply what rtnetlink does not know."""
    routes: dict[int, list[Route]] = {}
    for route in dump.routes:
        if route.table == TABLE_MAIN and route.index and route.protocol != PROTOCOL:
            routes.setdefault(route.index, []).append(route)
    frozen = {index: tuple(found) for index, found in routes.items()}
    return NetworkState(
        interfaces=tuple(
            _interface(link, dump, frozen.get(link.index, ()), overrides, facts, servers)
            for link in sorted(dump.links, key=lambda link: link.index)
        ),
        routes=frozen,
        rules=frozenset(rule for rule in dump.rules if rule.protocol != PROTOCOL),
    )


def _interface(
    link: Link,
    dump: Dump,
    routes: tuple[Route, ...],
    overrides: Mapping[str, Override],
    facts: FactsReader,
    servers: ServersReader,
) -> Interface:
    override = overrides.get(link.name, Override())
    # "Routed" means what RTM_F_FIB_MATCH would say with this interface as oif: a default route
    # that is there and alive. Without one IPv4 would ask ARP for the whole world (linux.md).
    defaults = sorted(
        (route for route in routes if route.is_default and route.usable),
        key=lambda route: (route.version, route.metric, str(route.gateway)),
    )
    addresses = tuple(
        sorted(
            (a.address for a in dump.addresses if a.index == link.index and not a.tentative),
            key=lambda address: (address.version, address),
        )
    )
    present = {address.version for address in addresses if not address.ip.is_link_local}
    return Interface(
        index=link.index,
        name=link.name,
        classification=classify(facts(link, override.type)),
        up=link.up,
        carrier=link.carrier,
        mtu=link.mtu,
        addresses=addresses,
        gateways=tuple(dict.fromkeys(r.gateway for r in defaults if r.gateway is not None)),
        # Files are asked only where an answer is of use: a machine may have 1,000 bridge ports.
        dns=servers(link.name, link.index, override.dns) if defaults or override.dns else (),
        metric=defaults[0].metric if defaults else 0,
        routed=frozenset(route.version for route in defaults if route.version in present),
        expensive=bool(override.expensive),
        constrained=bool(override.constrained),
        ultra_constrained=bool(override.ultra_constrained),
    )
