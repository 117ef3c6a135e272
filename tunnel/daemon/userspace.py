"""A machine that is asked for nothing: a tunnel without root, whose far end is a stack of our own.

There is no interface, no route, no rule and no firewall. What remains of the machine are sockets:
the outer ones, which any user may bind to an interface where the kernel has a route, and those of
the proxies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from tunnel.daemon.machine import Machine
from tunnel.policy.routing import Desired
from tunnel.settings import DNSSettings

if TYPE_CHECKING:
    from tunnel.policy.path import Path
    from tunnel.policy.rtnl import Dump
    from tunnel.settings import InterfaceAddress, RoutingPolicy, TunnelSettings

MTU: Final = 1420
"""Bytes, where the configuration says nothing: an outer link of 1,500 over IPv6."""


class UserspaceMachine(Machine):
    """What a session needs, without a privilege. `mtu` None is the default."""

    options = MappingProxyType({"uapi": False})  # wg(8) is for interfaces, and its folder root's

    def __init__(self, mtu: int | None = None) -> None:
        self._mtu = mtu or MTU

    def check(self) -> None:
        """Nothing is needed."""

    def create_tun(self, name: str, workers: int) -> Any:
        """Make a link to the stack."""
        from tunnel.stacklink import LinkTun

        return LinkTun(workers)

    def routes(self, log: Callable[[str], None], name: str) -> Any:
        """Return what makes no routes."""
        return _NoRoutes()

    def keeper(self, routes: Any, log: Callable[[str], None]) -> Any:
        """Return what puts nothing back."""
        return _NoKeeper()

    def dns(self, log: Callable[[str], None], path: Callable[[], Path]) -> Any:
        """Return what leaves the machine's resolvers alone; the stack asks the tunnel's."""
        return _NoDNS()

    def kill_switch_holder(self) -> str | None:
        """Somebody else's kill switch is not ours to take over."""
        return None

    def watch(self, name: str, *calls: Callable[..., None]) -> Any:
        """Return a watch on an interface that never changes."""
        return _Still(self._mtu)

    async def addresses(
        self, name: str, configured: Sequence[InterfaceAddress]
    ) -> tuple[InterfaceAddress, ...]:
        """Return the configured ones."""
        return tuple(configured)

    async def run_hooks(
        self,
        phase: str,
        commands: Sequence[str],
        name: str,
        log: Callable[[str], None],
        *,
        keep_going: bool = False,
    ) -> None:
        """Say that hooks, which are about an interface, are not run."""
        if commands:
            log(f"{phase}: not run, since --userspace makes no interface")


class _NoRoutes:
    """In place of MachineRoutes."""

    endpoints: Any = None

    async def start(self) -> None:
        """Nothing was left by anybody."""

    async def apply(
        self,
        interface: str | None,
        settings: TunnelSettings,
        path: Path,
        policy: RoutingPolicy | None = None,
    ) -> Desired:
        """Make nothing; without root there is no mark either."""
        return Desired(mark=0)

    async def clear(self, *, keep_closed: bool = False) -> None:
        """Nothing to remove."""


class _NoKeeper:
    """In place of the Keeper."""

    def look(self, dump: Dump) -> str:
        """Nothing of ours can be missing."""
        return ""

    async def aclose(self) -> None:
        """Nothing to end."""


class _NoDNS:
    """In place of MachineDNS."""

    in_force = DNSSettings()
    method = "the stack's own"

    async def apply(self, interface: str, settings: DNSSettings) -> None:
        """Leave the machine's resolvers alone."""

    async def clear(self) -> None:
        """Nothing to give back."""


class _Still:
    """In place of LinkWatch."""

    def __init__(self, mtu: int) -> None:
        self.mtu = mtu

    def look(self) -> None:
        """Nothing changes."""

    def close(self) -> None:
        """Nothing to close."""
