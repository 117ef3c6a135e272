"""--check: what would be applied on this machine as it is now. Reads all, changes nothing."""

from __future__ import annotations

from dataclasses import replace

from tunnel.config import tunnel_settings
from tunnel.daemon.plan import Plan
from tunnel.daemon.words import check_lines
from tunnel.errors import TunnelError
from tunnel.policy.connection import Connection
from tunnel.policy.routing import desired
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
    return check_lines(name, config, policy, interfaces, path, wanted, dump)


def _with_tunnel(dump: Dump, name: str) -> Dump:
    """Add the interface that would be made, so that its routes can be shown."""
    if dump.link(name) is not None:
        return dump
    index = max((link.index for link in dump.links), default=0) + 1
    link = Link(index, name, 0, "tun", up=False, carrier=False, mtu=1420)
    return replace(dump, links=(*dump.links, link))
