"""What a configuration asks for, in lines for `tunneld --check`. Shows no secret.

This is what follows from the configuration alone; the daemon adds what depends on the machine
(the interfaces of the policy, the rules, the mark that it would choose).
"""

from __future__ import annotations

import base64

from tunnel.config import Config, InterfaceOverride, PeerConfig, tunnel_settings
from tunnel.secret import redact
from tunnel.settings import DNSSettings, Network, RoutingPolicy, Table

_HOOKS = (
    ("PreUp", "pre_up"),
    ("PostUp", "post_up"),
    ("PreDown", "pre_down"),
    ("PostDown", "post_down"),
)


def describe(config: Config) -> list[str]:
    """Return one line for each thing that would be applied, warnings last."""
    interface = config.interface
    lines = [f"configuration: {config.source or 'none'}"]
    lines.append("private key: " + ("set" if interface.private_key else "none"))
    lines.append(f"listen port: {interface.listen_port or 'any that is free'}")
    lines.append(f"firewall mark: {hex(interface.fwmark) if interface.fwmark else 'not set'}")
    lines += [f"address: {address}" for address in interface.addresses]
    lines.append(f"MTU: {interface.mtu or 'from the path, 1280 to 1420'}")
    lines += _dns(interface.dns)
    for peer in config.peers:
        lines.append(_peer(peer))
    lines += _routes(config)
    lines += _demands(config.routing)
    for phase, name in _HOOKS:
        lines += [f"{phase}: {redact(command)}" for command in getattr(interface, name)]
    if interface.save_config:
        lines.append("SaveConfig: the file is written anew when the tunnel goes down")
    binding = config.binding
    if binding.bind is not None:
        lines.append(f"bind: {', '.join(binding.bind)}")
    for word, terms in (("prohibit", binding.prohibit), ("avoid", binding.avoid)):
        if terms:
            lines.append(f"{word}: {', '.join(terms)}")
    lines += [_override(name, override) for name, override in config.interfaces.items()]
    lines += [f"warning: {warning}" for warning in config.warnings]
    return lines


def _dns(dns: DNSSettings) -> list[str]:
    if not dns.servers:
        return []
    names = "every name" if dns.takes_all else f"names under {', '.join(dns.match_domains)}"
    search = f"; search {', '.join(dns.search)}" if dns.search else ""
    return [f"DNS: {', '.join(map(str, dns.servers))} for {names}{search}"]


def _peer(peer: PeerConfig) -> str:
    parts = [
        f"endpoint {peer.endpoint or 'unknown until the peer calls'}",
        "allowed IPs " + (", ".join(map(str, peer.allowed_ips)) or "none"),
    ]
    if peer.persistent_keepalive:
        parts.append(f"keepalive every {peer.persistent_keepalive} s")
    if peer.preshared_key:
        parts.append("preshared key set")
    return f"peer {base64.b64encode(peer.public_key).decode('ascii')}: {'; '.join(parts)}"


def _routes(config: Config) -> list[str]:
    table = config.interface.table
    if table is Table.OFF:
        return ["routes: none (Table is off)"]
    # Widest first is how wg-quick adds them last; for reading, one order for both families.
    networks = config.routing.applied_to(tunnel_settings(config)).included_routes
    ordered = sorted(networks, key=lambda n: (n.version, n.prefixlen, n.network_address))
    return [f"route: {network} {_place(network, table)}" for network in ordered]


def _demands(routing: RoutingPolicy) -> list[str]:
    flags = (
        (routing.include_all_networks, "include all networks: nothing leaves but by the tunnel"),
        (routing.enforce_routes, "enforce routes: included ones win over any other route"),
        (routing.exclude_local_networks, "exclude local networks: they stay reachable as they are"),
    )
    lines = [line for flag, line in flags if flag]
    return lines + [f"excluded route: {network}" for network in routing.excluded_routes]


def _place(network: Network, table: Table | int) -> str:
    if not isinstance(table, Table):
        return f"in table {table}"
    if network.prefixlen == 0:
        return "for all traffic without the tunnel's mark, in a table of its own"
    return "in the main table"


def _override(name: str, override: InterfaceOverride) -> str:
    parts = [f"type {override.type}"] if override.type else []
    for attribute in ("expensive", "constrained", "ultra_constrained"):
        value = getattr(override, attribute)
        if value is not None:
            parts.append(("" if value else "not ") + attribute.replace("_", "-"))
    if override.dns:
        parts.append(f"resolvers {', '.join(override.dns)}")
    return f"interface {name}: {', '.join(parts) or 'nothing said'}"
