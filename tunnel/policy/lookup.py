"""The kernel's route lookup, played through on a reading. Pure.

The kernel answers that question too (`ip route get`), but only for what is there now, not for what
is about to be, and it does not say which rule decided. The walk is that of fib_rules_lookup and
fib_table_lookup: rules by preference; in a table the longest prefix, then the lowest metric, past
next hops whose interface is not the one the socket is bound to; a `throw` and a suppressed prefix
go on with the next rule; `unreachable` and its kin end the walk, in IPv4 whatever interface was
asked for, in IPv6 only where none was.

Left out: multicast and broadcast, VRFs, and rules with selectors that Rule does not model. Where
such a rule was passed over, the verdict says so (`unsure`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network

from tunnel.policy.rtnl import (
    FR_ACT_GOTO,
    FR_ACT_NOP,
    FR_ACT_TO_TABLE,
    RTN_LOCAL,
    RTN_THROW,
    RTN_UNICAST,
    WHOLE_MARK,
    Dump,
    Route,
    Rule,
)
from tunnel.settings import Address, Network

TABLE_LOCAL = 255


@dataclass(frozen=True, slots=True)
class Packet:
    """What the lookup looks at. `oif` is the interface the socket is bound to; `iif` the one a
    forwarded packet came in by, None for our own.
    """

    destination: Address
    source: Address | None = None
    oif: str | None = None
    iif: str | None = None
    mark: int = 0
    user: int = 0
    ip_protocol: int = 0
    source_port: int = 0
    port: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The rule that decided and the route it led to; `rule` None: no rule knew a way.

    `route` None with a rule: the rule itself refuses the packet.
    """

    rule: Rule | None = None
    route: Route | None = None
    unsure: bool = False

    @property
    def index(self) -> int:
        """The interface that the packet leaves by; 0 when it does not leave."""
        if self.route is None or self.route.type != RTN_UNICAST:
            return 0
        return self.route.index


class Tables:
    """A reading's rules and routes, ordered for looking up. `extra` stands beside what is there."""

    def __init__(
        self, dump: Dump, rules: Iterable[Rule] = (), routes: Iterable[Route] = ()
    ) -> None:
        self._names = {link.index: link.name for link in dump.links}
        every = (*dump.rules, *rules)
        # Of equal preference the older comes first: sorting is stable.
        self._rules = {
            version: sorted((r for r in every if r.version == version), key=lambda r: r.preference)
            for version in (4, 6)
        }
        self._routes = (*dump.routes, *routes)
        self._own = {
            address.address.ip: Route(
                ip_network(address.address.ip), TABLE_LOCAL, address.index, type=RTN_LOCAL
            )
            for address in dump.addresses
        }
        self._indexed: dict[tuple[int, int], Mapping[int, Mapping[int, list[Route]]]] = {}

    def look_up(self, packet: Packet) -> Verdict:
        """Return what becomes of a packet."""
        version = packet.destination.version
        unsure, resume = False, 0
        for rule in self._rules[version]:
            if rule.preference < resume or not matches(rule, packet):
                continue
            if rule.special:
                unsure = True
            elif rule.action == FR_ACT_GOTO:
                resume = rule.goto
            elif rule.action == FR_ACT_TO_TABLE:
                route = self._best(rule, packet)
                if route is not None:
                    return Verdict(rule, route, unsure)
            elif rule.action != FR_ACT_NOP:
                return Verdict(rule, None, unsure)
        return Verdict(unsure=unsure)

    def _best(self, rule: Rule, packet: Packet) -> Route | None:
        if rule.table == TABLE_LOCAL:
            return self._own.get(packet.destination)
        bits = packet.destination.max_prefixlen
        address = int(packet.destination)
        for length, networks in self._table(rule.table, packet.destination.version).items():
            for route in networks.get(address >> (bits - length) if length else 0, ()):
                if not self._leaves_by(route, packet.oif):
                    continue
                if route.type == RTN_THROW:
                    return None
                suppressed = rule.suppress_prefixlen
                return None if suppressed is not None and length <= suppressed else route
        return None

    def _leaves_by(self, route: Route, oif: str | None) -> bool:
        if route.type != RTN_UNICAST:
            # IPv6 gives these the loopback interface, which is not the one that was asked for.
            return oif is None or route.version == 4
        return route.usable and (oif is None or self._names.get(route.index) == oif)

    def _table(self, table: int, version: int) -> Mapping[int, Mapping[int, list[Route]]]:
        """Return a table's routes by prefix length, longest first, and by the prefix's bits."""
        found = self._indexed.get((table, version))
        if found is None:
            raw: dict[int, dict[int, list[Route]]] = {}
            for route in self._routes:
                if route.table == table and route.version == version:
                    network = route.destination
                    shift = network.max_prefixlen - network.prefixlen
                    bits = int(network.network_address) >> shift if network.prefixlen else 0
                    raw.setdefault(network.prefixlen, {}).setdefault(bits, []).append(route)
            for networks in raw.values():
                for routes in networks.values():
                    routes.sort(key=lambda route: route.metric)
            found = {length: raw[length] for length in sorted(raw, reverse=True)}
            self._indexed[table, version] = found
        return found


def matches(rule: Rule, packet: Packet) -> bool:
    """Whether a rule's selectors fit a packet."""
    fits = (
        _within(rule.destination, packet.destination)
        and _within(rule.source, packet.source)
        and rule.oif in (None, packet.oif)
        and rule.iif in (None, packet.iif or "lo")
        and (rule.mark is None or not (packet.mark ^ rule.mark) & rule.mask & WHOLE_MARK)
        and rule.ip_protocol in (0, packet.ip_protocol)
        and _between(rule.source_ports, packet.source_port)
        and _between(rule.ports, packet.port)
        and _between(rule.users, packet.user)
    )
    return fits != rule.invert


def _within(network: Network | None, address: Address | None) -> bool:
    if network is None:
        return True
    return address is not None and address.version == network.version and address in network


def _between(ends: tuple[int, int] | None, number: int) -> bool:
    return ends is None or ends[0] <= number <= ends[1]
