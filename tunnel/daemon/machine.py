"""What a session needs of the machine, in one place: the real parts, imported when first needed.

A session asks a `Machine` for its TUN, sockets, monitor and routes. Tests, and programs that bring
links of their own, hand in a subclass that gives something else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from tunnel.errors import MissingFacilityError, PrivilegeError, TunnelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel.bind import OuterSockets
    from tunnel.config import HostPort, InterfaceOverride
    from tunnel.daemon.link import LinkWatch
    from tunnel.policy.apply import MachineRoutes
    from tunnel.policy.binding import PathPolicy
    from tunnel.policy.dnsapply.machinedns import MachineDNS
    from tunnel.policy.keeper import Keeper
    from tunnel.policy.killswitch.switch import KillSwitch
    from tunnel.policy.monitor import PathMonitor
    from tunnel.policy.path import Path
    from tunnel.policy.state import Override
    from tunnel.settings import Address, InterfaceAddress
    from tunnel.tun import Tun

CAP_NET_ADMIN: Final = 12
_TUN_DEVICE: Final = FilePath("/dev/net/tun")


class Machine:
    """The machine that this process runs on, in the network namespace of the calling thread.

    `options` are for the provider, where a session has no others. `without` are facilities that are
    not to be used (WITHOUT_CHOICES); the provider's are its option of that name.
    """

    options: Mapping[str, Any] = MappingProxyType({})
    _without: Sequence[str] = ()

    def __init__(self, without: Sequence[str] = ()) -> None:
        self._without = without

    def check(self) -> None:
        """Raise PrivilegeError or MissingFacilityError where a tunnel cannot be made here."""
        if not _has_capability(CAP_NET_ADMIN):
            raise PrivilegeError(
                "making a network interface needs CAP_NET_ADMIN; run it as root, or give it "
                "AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW; --userspace needs no interface"
            )
        if not _TUN_DEVICE.exists():
            raise MissingFacilityError(
                f"{_TUN_DEVICE} is not there; load the module with `modprobe tun`"
            )

    def create_tun(self, name: str, workers: int) -> Tun:
        """Make the tunnel interface, with one queue a worker."""
        from tunnel.tun import Tun

        offload, uso = (kind not in self._without for kind in ("tun-offload", "tun-uso"))
        return Tun.create(name, workers, offload=offload, uso=uso)

    def outer_sockets(self, workers: int) -> OuterSockets:
        """Return the outer sockets, not yet open."""
        from tunnel.bind import OuterSockets

        return OuterSockets(workers)

    def monitor(
        self, policy: PathPolicy, overrides: Mapping[str, InterfaceOverride], name: str
    ) -> PathMonitor:
        """Return the monitor of every path but the tunnel's own interface."""
        from tunnel.policy.managers import machine_bus
        from tunnel.policy.monitor import PathMonitor

        known = self.overrides(overrides)
        return PathMonitor(policy, known, exclude={name}, bus=machine_bus())

    def overrides(self, overrides: Mapping[str, InterfaceOverride]) -> dict[str, Override]:
        """Return what the user knows better of interfaces, checked. Raises ConfigError."""
        from tunnel.policy.state import Override

        return {key: Override.from_config(key, value) for key, value in overrides.items()}

    def routes(self, log: Callable[[str], None], name: str) -> MachineRoutes:
        """Return what makes addresses, MTU, routes and rules of the tunnel of that name."""
        from tunnel.policy.apply import MachineRoutes

        return MachineRoutes(name=name, log=log)

    def keeper(self, routes: MachineRoutes, log: Callable[[str], None]) -> Keeper:
        """Return what puts back routes and rules that others removed."""
        from tunnel.policy.keeper import Keeper

        return Keeper(routes, log)

    def dns(self, log: Callable[[str], None], path: Callable[[], Path]) -> MachineDNS:
        """Return the keeper of the machine's resolvers; `path` tells which network this is."""
        from tunnel.policy.dnsapply.machinedns import MachineDNS

        def network() -> object:
            first = path().interface
            return first and (first.name, first.gateways, first.addresses)

        return MachineDNS(log=log, network=network)

    def kill_switch(self, log: Callable[[str], None]) -> KillSwitch:
        """Return the firewall of the kill switch, not yet closed."""
        from tunnel.policy.killswitch.switch import KillSwitch

        return KillSwitch(log=log)

    def kill_switch_holder(self) -> str | None:
        """Return the tunnel that holds the kill switch closed, "" for one that is gone; None where
        it is open.
        """
        from tunnel.policy.killswitch.note import NoteFile

        file = NoteFile()
        if not file.path.exists():
            return None
        from tunnel.policy.killswitch.switch import KillSwitch

        if not KillSwitch.is_closed():  # another namespace may have had this number
            return None
        return file.holder() or ""

    def watch(
        self,
        name: str,
        gone: Callable[[], None],
        mtu_changed: Callable[[int], None],
        came_up: Callable[[], None],
        renamed: Callable[[str], None],
    ) -> LinkWatch:
        """Watch the tunnel interface itself."""
        from tunnel.daemon.link import LinkWatch

        return LinkWatch(name, gone=gone, mtu_changed=mtu_changed, came_up=came_up, renamed=renamed)

    async def addresses(
        self, name: str, configured: Sequence[InterfaceAddress]
    ) -> tuple[InterfaceAddress, ...]:
        """Return the addresses that the tunnel interface has now. Raises OSError."""
        from tunnel.daemon.link import saved_addresses

        return await asyncio.to_thread(saved_addresses, name, configured)

    async def run_hooks(
        self,
        phase: str,
        commands: Sequence[str],
        name: str,
        log: Callable[[str], None],
        *,
        keep_going: bool = False,
    ) -> None:
        """Run one phase's hooks in order. Raises TunnelError at the first that fails."""
        if commands:
            from tunnel.hooks import run_hooks

            await run_hooks(phase, commands, name, log, keep_going=keep_going)

    async def resolve(self, endpoint: HostPort, path: Path, mark: int) -> list[Address]:
        """Resolve an endpoint's name over the path, with queries marked like the outer packets.

        Raises TunnelError, which names both.
        """
        from tunnel.policy.resolver import resolve

        if path.bound and path.interface is None:
            raise TunnelError(f"cannot resolve {endpoint.host}: {path.reason}")
        first = path.interface
        if first is not None and path.bound:
            return await resolve(endpoint.host, first, first.dns, mark=mark)
        try:
            return await resolve(endpoint.host, None)
        except TunnelError:
            # The machine's resolver may be one in the tunnel, which is down.
            if first is None or not first.dns:
                raise
            return await resolve(endpoint.host, first, first.dns, mark=mark)


def _has_capability(number: int) -> bool:
    for line in FilePath("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False
