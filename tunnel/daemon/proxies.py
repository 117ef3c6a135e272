"""The listeners of one tunneld: proxies and forwards, and services shown inside the tunnel.

What is wanted is a set of values, what is open a table with these as its keys; following another
configuration closes what is not wanted any more and opens what is not there yet. The ports of this
machine are taken before there is a tunnel, those inside it when it is up.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunnel.daemon.proxyplan import credentials
from tunnel.errors import MissingFacilityError, PrivilegeError, TunnelError
from tunnel.places import Forward, Place

if TYPE_CHECKING:
    from tunnel.config import ProxyConfig
    from tunnel.daemon.ports import OwnPorts
    from tunnel.proxy.capacity import Capacity
    from tunnel.proxy.credentials import Credentials
    from tunnel.proxy.dialer import Dialer


@dataclass(frozen=True, slots=True)
class _Way:
    """One listener: a proxy for those admitted, or a forward."""

    kind: str  # SOCKS5, HTTP proxy, forward or expose
    at: Place
    admitted: Credentials | None = None
    forward: Forward | None = None

    @property
    def protocol(self) -> str:
        """Return tcp or udp."""
        return "tcp" if self.forward is None else self.forward.protocol

    @property
    def inside(self) -> bool:
        """Whether it listens inside the tunnel."""
        return self.kind == "expose"

    @property
    def port(self) -> tuple[bool, str, int]:
        """Where it listens but for the address: another one there may be in its way."""
        return self.inside, self.protocol, self.at.port

    def __str__(self) -> str:
        return self.kind if self.forward is None else f"{self.kind} {self.forward}"


class Proxies:
    """Takes the ports of the ways into a tunnel, and opens them when it is up; close them before it
    ends.
    """

    def __init__(self, proxy: ProxyConfig, log: logging.Logger) -> None:
        self._log = log
        self._wanted = _ways(proxy)
        self._open: dict[_Way, Any] = {}
        self._capacity: Capacity | None = None
        self._machine: OwnPorts | None = None

    @property
    def none_wanted(self) -> bool:
        """Whether nothing is to be opened."""
        return not self._wanted

    async def take_ports(self) -> None:
        """Take the ports of this machine. Raises TunnelError, which names the one that is not to be
        had.
        """
        for way in self._wanted:
            if not way.inside:
                kind = socket.SOCK_STREAM if way.protocol == "tcp" else socket.SOCK_DGRAM
                try:
                    await self._own_ports().take(kind, way.at.host, way.at.port)
                except OSError as error:
                    raise _refusal(way, error) from error

    async def start(self, tunnel: Dialer) -> None:
        """Open all. Raises TunnelError, which names the one that cannot be."""
        await self._open_all(self._wanted, tunnel)

    async def follow(self, proxy: ProxyConfig, tunnel: Dialer) -> None:
        """Go over to another configuration. Raises ConfigError, and TunnelError as `start`.

        What is new is opened first, so that one that cannot be costs nobody his connections; only
        what takes an old one's port must wait until that is closed.
        """
        self._wanted = _ways(proxy)
        unwanted = [way for way in self._open if way not in self._wanted]
        taken = {way.port for way in unwanted}
        await self._open_all([way for way in self._wanted if way.port not in taken], tunnel)
        for way in unwanted:
            await self._close(way)
        await self.start(tunnel)

    async def _open_all(self, ways: Iterable[_Way], tunnel: Dialer) -> None:
        from tunnel.proxy.capacity import of_process

        if self._capacity is None and self._wanted:
            self._capacity = of_process(self._log)
        for way in ways:
            if way not in self._open:
                machine = self._own_ports()
                near, far = (tunnel, machine) if way.inside else (machine, tunnel)
                await self._listen(way, _listener(way, far, self._log, self._capacity), near)

    def _own_ports(self) -> OwnPorts:
        if self._machine is None:
            from tunnel.daemon.ports import OwnPorts

            self._machine = OwnPorts()
        return self._machine

    async def _close(self, way: _Way) -> None:
        await self._open.pop(way).aclose()
        self._log.info("%s: closed", way)

    async def _listen(self, way: _Way, listener: Any, network: Dialer) -> None:
        listen: Callable[[Dialer, str | None, int], Awaitable[None]] = listener.listen
        try:
            await listen(network, way.at.host or None, way.at.port)
        except OSError as error:
            raise _refusal(way, error) from error
        self._open[way] = listener
        self._log.info("%s: listening on %s", way, way.at)

    async def aclose(self) -> None:
        """Close all."""
        while self._open:
            await self._open.popitem()[1].aclose()
        if self._machine is not None:
            self._machine.let_go()


def _refusal(way: _Way, error: OSError) -> TunnelError:
    """Say that a way cannot be opened."""
    kind = TunnelError
    if isinstance(error, socket.gaierror) or error.errno in (
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
    ):
        kind = MissingFacilityError
    elif error.errno in (errno.EACCES, errno.EPERM):
        kind = PrivilegeError
    return kind(f"{way}: cannot listen on {way.at}: {_why(error)}")


def _why(error: OSError) -> str:
    """Say it in the kernel's words, since the event loop's repeat the address, and the mend."""
    if error.errno == errno.EADDRNOTAVAIL:
        return "it is no address of this machine; choose one that is"
    mend = {
        errno.EADDRINUSE: "; choose another port, or end the program that has it",
        errno.EACCES: "; choose a port from 1024 up, or run it as root",
    }
    if isinstance(error, socket.gaierror):
        return f"{error.strerror}; give an address of this machine"
    words = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return words + mend.get(error.errno or 0, "")


def _ways(proxy: ProxyConfig) -> dict[_Way, None]:
    admitted = credentials(proxy)
    proxies = (("SOCKS5", proxy.socks5), ("HTTP proxy", proxy.http))
    ways = [_Way(kind, at, admitted) for kind, at in proxies if at is not None]
    ways += [_Way("forward", one.listen, forward=one) for one in proxy.forward]
    ways += [_Way("expose", one.listen, forward=one) for one in proxy.expose]
    return dict.fromkeys(ways)


def _listener(way: _Way, far: Dialer, log: logging.Logger, capacity: Capacity | None) -> Any:
    """Return what listens; modules are loaded for what is used."""
    if way.forward is None and way.kind == "SOCKS5":
        from tunnel.proxy.socks5 import Socks5

        return Socks5(far, log, way.admitted, capacity).clients
    if way.forward is None:
        from tunnel.proxy.http import HttpProxy

        return HttpProxy(far, log, way.admitted, capacity).clients
    to = way.forward.to
    if way.forward.protocol == "udp":
        from tunnel.proxy.udpforward import FLOWS_MOST, UdpForward

        most = FLOWS_MOST if capacity is None else min(capacity.most, FLOWS_MOST)
        return UdpForward(far, to.host, to.port, most=most)
    from tunnel.proxy.tcpforward import TcpForward

    return TcpForward(far, to, log, capacity).clients
