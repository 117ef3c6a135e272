"""Connections into the tunnel: what a session offers to its application and its provider.

The stack is made when it is first asked for. Without a TUN it has the other end of the link;
beside one it gets a port of the provider's engine, and shares the tunnel's addresses with the
kernel: what it needs it claims, and a port that the kernel uses is an error. Either way its packets
never meet the kernel's routing, so that it works before the interface is up and while the kill
switch is closed.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tunnel.daemon.status import REPORTABLE
from tunnel.errors import TunnelError

if TYPE_CHECKING:
    from tunnel.config import Config
    from tunnel.daemon.undo import Step
    from tunnel.netstack.aio import NetStack
    from tunnel.policy.path import Path
    from tunnel.provider import PacketTunnelProvider, TunnelStatus
    from tunnel.settings import Address
    from tunnel.stacklink import LinkTun
    from tunnel.tun import Tun


class InTunnel:
    """Mixed into the session. Arguments and answers are asyncio's, but that names are resolved by
    the tunnel's DNS servers; all methods raise TunnelError while the tunnel is not up.
    """

    interface: str
    config: Config
    provider: PacketTunnelProvider
    status: TunnelStatus
    _tun: Tun | LinkTun
    _net: NetStack | None = None
    _net_path: Path | None = None

    # ---- what the session has ----

    @property
    def mtu(self) -> int:
        """The tunnel's MTU."""
        raise AssertionError

    def _push(self, what: str, step: Step) -> None:
        raise AssertionError

    # ---- the stack ----

    def net(self) -> NetStack:
        """Return the stack itself. Raises TunnelError where there is none to be had."""
        if self._net is None or self._net.closed:
            self._net = self._make_net()
        return self._net

    def _make_net(self) -> NetStack:
        from tunnel.netstack.aio import NetStack
        from tunnel.netstack.aio.hostedlink import HostedLink
        from tunnel.netstack.aio.reserved import ReservedPorts
        from tunnel.stacklink import link_pair

        if self.status not in REPORTABLE:
            raise TunnelError(f"{self.interface}: the tunnel is not up; start it first")
        interface = self.config.interface
        servers = interface.dns.servers
        shape: dict[str, Any] = {"addresses": interface.addresses, "mtu": self.mtu, "dns": servers}
        link = getattr(self._tun, "stack_link", None)  # of a link in place of a TUN
        if link is not None:
            host = self.provider.stack_host()
            fd, flags = link
            hosted = None if host is None else HostedLink(fd, flags, host)
            net = NetStack(fd, flags, link=hosted, **shape)
            self._push("connections inside the tunnel", net.aclose)
            return net
        ours, theirs, flags = link_pair()
        try:
            port = self.provider.stack_port()
            port.attach_port(theirs.fileno(), flags)
            own = [one.ip.packed for one in interface.addresses]
            net = NetStack(ours.fileno(), flags, ports=ReservedPorts(port, own), **shape)
        except BaseException:
            ours.close()
            theirs.close()
            raise

        async def remove() -> None:
            await net.aclose()
            port.detach_port()
            ours.close()
            theirs.close()

        self._push("connections inside the tunnel", remove)
        return net

    def _net_sees(self, path: Path) -> None:
        """Let connections show themselves at once after a move, instead of at their next timer."""
        if path != self._net_path:
            self._net_path = path
            self.peer_returned()

    def peer_returned(self) -> None:
        """Let connections show themselves now: the far end can be reached, perhaps again."""
        if self._net is not None and not self._net.closed:
            self._net.nudge()

    def _net_reloaded(self, config: Config) -> None:
        """Go over to another configuration's addresses and servers."""
        if self._net is not None and not self._net.closed:
            interface = config.interface
            servers = interface.dns.servers
            self._net.configure(interface.addresses, self.mtu, servers)

    # ---- asyncio's calls ----

    async def open_connection(
        self, host: str, port: int, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect inside the tunnel, as asyncio.open_connection does (`ssl`, `limit`, ...)."""
        return await self.net().open_connection(host, port, **options)

    async def create_connection(
        self, protocol_factory: Callable[[], Any], host: str, port: int, **options: Any
    ) -> tuple[asyncio.Transport, Any]:
        """Connect inside the tunnel, as loop.create_connection does."""
        return await self.net().create_connection(protocol_factory, host, port, **options)

    def begin_connection(
        self, opened: Callable[..., None], host: str, port: int, patience: tuple[float, float]
    ) -> Any:
        """Begin to connect inside the tunnel, as NetStack.begin_connection does."""
        return self.net().begin_connection(opened, host, port, patience)

    async def start_tls(
        self, transport: asyncio.WriteTransport, protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext, **options: Any,
    ) -> asyncio.Transport:  # fmt: skip
        """Go over to TLS on an open connection, as loop.start_tls does."""
        return await self.net().start_tls(transport, protocol, sslcontext, **options)

    async def start_server(
        self, client_connected_cb: Callable[..., Any], host: str | None = None, port: int = 0,
        **options: Any,
    ) -> Any:  # fmt: skip
        """Listen inside the tunnel, as asyncio.start_server does."""
        return await self.net().start_server(client_connected_cb, host, port, **options)

    async def create_server(
        self, protocol_factory: Callable[[], Any], host: str | None = None, port: int = 0,
        **options: Any,
    ) -> Any:  # fmt: skip
        """Listen inside the tunnel, as loop.create_server does."""
        return await self.net().create_server(protocol_factory, host, port, **options)

    async def create_datagram_endpoint(
        self, protocol_factory: Callable[[], Any], local_addr: tuple[str, int] | None = None,
        remote_addr: tuple[str, int] | None = None,
    ) -> tuple[asyncio.DatagramTransport, Any]:  # fmt: skip
        """Open a UDP socket inside the tunnel, as loop.create_datagram_endpoint does."""
        return await self.net().create_datagram_endpoint(protocol_factory, local_addr, remote_addr)

    async def lookup(self, host: str, family: int = socket.AF_UNSPEC) -> list[Address]:
        """Return the addresses that the tunnel's DNS servers give for a name."""
        return await self.net().resolve(host, family)

    async def ping(self, host: str, *, data: bytes = b"", seconds: float = 5.0) -> float:
        """Send an echo request inside the tunnel; return the round trip in seconds."""
        return await self.net().ping(host, data=data, seconds=seconds)
