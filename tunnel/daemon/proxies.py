"""What the command line opens into a tunnel: proxies and forwards, and services shown inside it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from tunnel.errors import TunnelError, UsageError
from tunnel.proxy.address import Forward, Place

if TYPE_CHECKING:
    from tunnel.daemon.options import Options
    from tunnel.proxy.credentials import Credentials
    from tunnel.proxy.dialer import Dialer


class _Closing(Protocol):
    async def aclose(self) -> None: ...


class Proxies:
    """The listeners of one tunneld. Start them when the tunnel is up; close them before it ends."""

    def __init__(self, options: Options, log: logging.Logger) -> None:
        self._options = options
        self._log = log
        self._admitted = credentials(options)
        self._open: list[_Closing] = []

    async def start(self, tunnel: Dialer) -> None:
        """Open all. Raises TunnelError, which names the one that cannot be."""
        from tunnel.proxy.dialer import Machine

        options, machine, admitted = self._options, Machine(), self._admitted
        if options.socks5 is not None:
            from tunnel.proxy.socks5 import Socks5

            clients = Socks5(tunnel, self._log, admitted).clients
            await self._listen("SOCKS5", clients, machine, options.socks5)
        if options.http_proxy is not None:
            from tunnel.proxy.http import HttpProxy

            clients = HttpProxy(tunnel, self._log, admitted).clients
            await self._listen("HTTP proxy", clients, machine, options.http_proxy)
        for forward in options.forward:
            await self._carry(f"forward {forward}", forward, machine, tunnel)
        for forward in options.expose:
            await self._carry(f"expose {forward}", forward, tunnel, machine)

    async def _carry(self, what: str, forward: Forward, near: Dialer, far: Dialer) -> None:
        host, port = forward.to.host, forward.to.port
        if forward.protocol == "udp":
            from tunnel.proxy.udpforward import UdpForward

            await self._listen(what, UdpForward(far, host, port), near, forward.listen)
        else:
            from tunnel.proxy.clients import Clients, forwarder

            clients = Clients(forwarder(far, host, port), self._log)
            await self._listen(what, clients, near, forward.listen)

    async def _listen(self, what: str, listener: Any, network: Dialer, at: Place) -> None:
        listen: Callable[[Dialer, str | None, int], Awaitable[None]] = listener.listen
        try:
            await listen(network, at.host or None, at.port)
        except OSError as error:
            reason = error.strerror or str(error)
            raise TunnelError(f"{what}: cannot listen on {at}: {reason}") from error
        self._open.append(listener)
        self._log.info("%s: listening on %s", what, at)

    async def aclose(self) -> None:
        """Close all."""
        while self._open:
            await self._open.pop().aclose()


def credentials(options: Options) -> Credentials | None:
    """Return who may use the proxies; None for everybody. Raises ConfigError."""
    if options.proxy_credentials is None:
        return None
    from tunnel.proxy.credentials import read_credentials

    return read_credentials(options.proxy_credentials)


def check_proxies(options: Options) -> None:
    """Refuse what would open the tunnel to strangers, or cannot be. Raises UsageError."""
    listening = {"--socks5": options.socks5, "--http-proxy": options.http_proxy}
    wanted = [name for name, at in listening.items() if at is not None]
    wanted += ["--forward"] if options.forward else []
    wanted += ["--expose"] if options.expose else []
    if options.userspace:
        wanted.append("--userspace")
        firewall = {
            "--include-all-networks": options.include_all_networks,
            "--exclude-local-networks": options.exclude_local_networks,
            "--allow-inbound": options.allow_inbound,
            "--confirm": options.confirm,
            "--lockdown-on-exit": options.lockdown_on_exit,
        }
        for name, value in firewall.items():
            if value:
                raise UsageError(
                    f"{name} is about a firewall, which --userspace does not make; leave it out"
                )
    if wanted and options.config is None:
        raise UsageError(f"{wanted[0]} needs --config; the file has the tunnel's addresses")
    for name, at in listening.items():
        if at is not None and not at.is_loopback and options.proxy_credentials is None:
            raise UsageError(
                f"{name} {at} is open to the network; give --proxy-credentials FILE, or listen "
                f"on 127.0.0.1:{at.port}"
            )
    if options.proxy_credentials is not None and not any(listening.values()):
        raise UsageError("--proxy-credentials is for --socks5 and --http-proxy; give one of them")


def proxy_lines(options: Options) -> list[str]:
    """Say what would listen, for --check. Raises ConfigError for a file that cannot be used."""
    lines = []
    credentials(options)
    for what, at in (("SOCKS5", options.socks5), ("HTTP proxy", options.http_proxy)):
        if at is not None:
            admits = "credentials" if options.proxy_credentials is not None else "everybody there"
            lines.append(f"{what}: on {at}, for {admits}")
    lines += [f"forward: {forward}, through the tunnel" for forward in options.forward]
    lines += [f"expose: {one.protocol} port {one.listen.port} of the tunnel's addresses to {one.to}"
              for one in options.expose]  # fmt: skip
    return lines
