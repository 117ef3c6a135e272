"""--check: what would be applied on this machine as it is now. Reads all, changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunnel import values
from tunnel.config import Config, tunnel_settings
from tunnel.daemon.plan import Plan
from tunnel.daemon.proxyplan import proxy_lines
from tunnel.daemon.words import check_lines
from tunnel.errors import TunnelError
from tunnel.policy.connection import Connection
from tunnel.policy.interface import Interface
from tunnel.policy.path import Path
from tunnel.policy.routing import Desired, desired, past_the_tunnel
from tunnel.policy.rtnl import Dump, Link
from tunnel.policy.state import Override, build_state
from tunnel.settings import TunnelSettings


def check(planned: Plan) -> list[str]:
    """Return the lines of --check. Table and preference numbers are those of the first tunnel.

    Raises TunnelError where the kernel cannot be read.
    """
    name, config, policy = planned.options.name, planned.config, planned.policy
    connection = Connection()
    try:
        dump = connection.read()
    except OSError as error:
        raise TunnelError(f"the network's state cannot be read: {error}") from error
    finally:
        connection.close()
    overrides = {key: Override.from_config(key, value) for key, value in config.interfaces.items()}
    interfaces = [i for i in build_state(dump, overrides).interfaces if i.name != name]
    path = policy.decide(interfaces)
    settings = tunnel_settings(config) if planned.managed else TunnelSettings()
    dump = _with_tunnel(dump, name)
    tunnel = name if planned.managed else None
    wanted = desired(settings, tunnel, path, dump, slot=0, policy=config.routing)
    if planned.options.userspace:
        return [f"userspace: no interface, route, rule or firewall; {path.reason}",
                *proxy_lines(config.proxy)]  # fmt: skip
    return [
        *check_lines(name, config, policy, interfaces, path, wanted, dump),
        *_firewall(name, config, path, wanted, interfaces),
        *proxy_lines(config.proxy),
    ]


def _firewall(
    name: str, config: Config, path: Path, wanted: Desired, interfaces: Sequence[Interface]
) -> list[str]:
    """Return the kill switch as it would be while the tunnel connects."""
    routing = config.routing
    if not routing.include_all_networks:
        return ["kill switch: off"]
    from tunnel.policy.killswitch import common, render, ruleset, state

    named = [peer.endpoint for peer in config.peers if peer.endpoint is not None]
    far = [(values.literal(endpoint.host), endpoint.port) for endpoint in named]
    firewall = state.Desired(
        phase=state.Phase.CONNECTING,
        tunnel=name,
        mark=wanted.mark,
        interfaces=tuple(i.name for i in path.interfaces) if path.bound else None,
        endpoints=tuple(state.Endpoint(ip, port) for ip, port in far if ip is not None),
        resolvers=tuple(state.Resolver(i.name, ip) for i in path.interfaces for ip in i.dns),
        addresses=tuple(wanted.addresses),
        local_networks=routing.exclude_local_networks,
        inbound=routing.allow_inbound,
        excluded=past_the_tunnel(tunnel_settings(config), routing),
        confirm=routing.confirm or None,
    )
    shown = render.render(firewall, 0, [i.name for i in interfaces if i.name != common.LOOPBACK])
    return ["kill switch: closed from the start, as:", *ruleset.lines(shown)]


def _with_tunnel(dump: Dump, name: str) -> Dump:
    """Add the interface that would be made, so that its routes can be shown."""
    if dump.link(name) is not None:
        return dump
    index = max((link.index for link in dump.links), default=0) + 1
    link = Link(index, name, 0, "tun", up=False, carrier=False, mtu=1420)
    return replace(dump, links=(*dump.links, link))
