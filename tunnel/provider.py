"""PacketTunnelProvider: what a tunnel implements, and the context that its session gives it.

Lifecycle, in Apple's terms: the session makes the interface and calls `start_tunnel`; the
provider applies its settings with `self.context.apply(TunnelSettings(...))`, moves packets, and
reports `reasserting` when it has lost its far end. `stop_tunnel` is called once, always, after a
start that began. `path_changed` is called after the outer sockets were moved.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from tunnel.errors import TunnelError

if TYPE_CHECKING:
    from tunnel.bind import OuterSockets
    from tunnel.config import Config, HostPort
    from tunnel.engine import Engine
    from tunnel.flow import PacketFlow
    from tunnel.policy.path import Path
    from tunnel.settings import Address, TunnelSettings


class StopReason(Enum):
    """Why a tunnel stops (Apple's NEProviderStopReason, in our spelling)."""

    NONE = "none"
    USER_INITIATED = "user initiated"
    PROVIDER_FAILED = "provider failed"
    NO_NETWORK_AVAILABLE = "no network available"
    UNRECOVERABLE_NETWORK_CHANGE = "unrecoverable network change"
    PROVIDER_DISABLED = "provider disabled"
    AUTHENTICATION_CANCELLED = "authentication cancelled"
    CONFIGURATION_FAILED = "configuration failed"
    IDLE_TIMEOUT = "idle timeout"
    CONFIGURATION_DISABLED = "configuration disabled"
    CONFIGURATION_REMOVED = "configuration removed"
    SUPERSEDED = "superseded"
    USER_LOGOUT = "user logout"
    USER_SWITCH = "user switch"
    CONNECTION_FAILED = "connection failed"
    SLEEP = "sleep"
    APP_UPDATE = "app update"
    INTERNAL_ERROR = "internal error"


class TunnelStatus(Enum):
    """The states of a session that users see."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    REASSERTING = "reasserting"
    DISCONNECTING = "disconnecting"
    ERROR = "error"


class ProviderContext(Protocol):
    """What a session offers its provider. All calls are made on the session's event loop."""

    interface: str
    config: Config
    workers: int

    @property
    def links(self) -> Sequence[int]:
        """One TUN queue descriptor a worker, open until after `stop_tunnel`; the session's."""

    @property
    def link_flags(self) -> int:
        """TC_LINK_* flags of the queues, for `Engine.attach_link` and `PacketFlow`."""

    @property
    def packet_flow(self) -> PacketFlow:
        """Batches of packets on the first queue, for providers that handle packets in Python."""

    @property
    def outer(self) -> OuterSockets:
        """The marked and bound UDP sockets of the present path; empty when there is none."""

    @property
    def path(self) -> Path:
        """The path of this moment."""

    @property
    def mtu(self) -> int:
        """The MTU of the tunnel interface at this moment, for `Engine.attach_link`."""

    async def apply(self, settings: TunnelSettings) -> None:
        """Make the machine agree with these settings: addresses, MTU, routes, the sockets' mark.

        Idempotent.
        """

    async def resolve(self, endpoint: HostPort) -> list[Address]:
        """Resolve a name over the permitted interface only, in order of preference.

        Raises TunnelError, which names the host and the interface.
        """

    def permit(self, endpoints: Iterable[tuple[Address, int]], mark: int | None = None) -> None:
        """Say which far ends (address, port) outer packets go to, before the first one does.

        Under the kill switch they reach these and no others. `mark` is the mark that they are to
        have, where another one is coming. Raises TunnelError: 0 is refused there.
        """

    def status_changed(self, status: TunnelStatus, reason: str = "") -> None:
        """Report connecting, connected or reasserting; repeated reports are merged."""

    def path_silent(self) -> None:
        """Report that nothing has come back for some seconds of sending.

        Another permitted path, if there is one, is then proven and moved to.
        """

    def peer_returned(self) -> None:
        """Report that the far end answers again after some seconds of silence.

        Connections of the userspace stack then go on at once, not at their next timer.
        """

    def cancel(self, error: BaseException, reason: StopReason = StopReason.PROVIDER_FAILED) -> None:
        """Stop the tunnel because of an error that the provider cannot mend.

        With CONFIGURATION_REMOVED it is no failure: somebody took the tunnel away on purpose.
        """


class StackPort(Protocol):
    """What a userspace stack needs beside a TUN; `tunnel.Engine` has it."""

    def attach_port(self, fd: int, flags: int) -> None:
        """Take the stack's link: what it sends comes from it, what it claimed goes to it."""

    def detach_port(self) -> None:
        """Let go of it; its descriptor is closed next."""

    def claim(self, protocol: int, port: int) -> None:
        """Give received packets of a port (TCP 6, UDP 17), or of an echo identifier (1), to the
        stack. Raises EngineError, EEXIST where they are its already.
        """

    def unclaim(self, protocol: int, port: int) -> None:
        """Give them to the interface again."""


class PacketTunnelProvider(ABC):
    """Base of all providers. Subclass it, implement `start_tunnel`, and override what you need."""

    context: ProviderContext

    #: Whether tunneld makes and keeps a private key for a tunnel that has no configuration.
    uses_private_key: ClassVar[bool] = False

    @property
    def packet_flow(self) -> PacketFlow:
        """The packets of the tunnel interface."""
        return self.context.packet_flow

    @abstractmethod
    async def start_tunnel(self, options: Mapping[str, Any]) -> None:
        """Bring the tunnel up; return once packets can flow or are being staged."""

    async def stop_tunnel(self, reason: StopReason) -> None:  # noqa: B027
        """Release everything. Called exactly once for each start that began."""

    async def path_changed(self, path: Path) -> None:  # noqa: B027
        """Learn that the path changed. The outer sockets have been moved already."""

    def path_noted(self, path: Path) -> None:  # noqa: B027
        """Learn what else is there: the path in use is the same, those standing by may not be."""

    async def prove_path(self, outer: OuterSockets) -> bool:
        """Ask the far end for an answer over another path, and go over to it if there is one.

        The sockets of the path in use, `context.outer`, carry the traffic meanwhile. After True
        these ones do, and `context.outer` is them; the others are to be listened on until
        `path_changed` is called some seconds later. After False, or when cancelled, they are not
        used any more. The default answers True, for providers that cannot ask.
        """
        return True

    def mtu_changed(self, mtu: int) -> None:  # noqa: B027
        """Learn that the tunnel interface's MTU is another one; `context.mtu` has it too."""

    async def reload(self, config: Config) -> None:
        """Go over to a new configuration without dropping what did not change.

        All or nothing: an error raised here means that the old one is still in force. The
        session replaces `context.config` once this returned.
        """
        raise TunnelError("this provider cannot reload its configuration; stop and start it again")

    def stack_port(self) -> StackPort:
        """Return where the session's own stack meets the tunnel: an `Engine`, mostly."""
        raise TunnelError("this provider has no connections inside its tunnel")

    def stack_host(self) -> Engine | None:
        """Return whose worker's turns the session's own stack may take, where it has a link in
        place of a TUN; None for nobody's.
        """
        return None

    async def handle_app_message(self, message: bytes) -> bytes | None:
        """Answer a message of the embedding application or of tunnelctl."""
        return None

    def peers(self) -> list[dict[str, Any]]:
        """Return the `peers` list of `tunnelctl status --json` (contract.md)."""
        return []

    def counters(self) -> dict[str, int]:
        """Return counters by reason for `tunnelctl stats`."""
        return {}
