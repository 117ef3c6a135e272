"""Which proxies and forwards a tunneld opens: the file's [proxy] with the command line's, checked.

The command line has its way: its proxies and credentials replace the file's, its forwards and
exposed services are added to them and replace those that listen at the same place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from tunnel.config import ProxyConfig
from tunnel.errors import ConfigError, TunnelError, UsageError, Where

if TYPE_CHECKING:
    from tunnel.config import Config
    from tunnel.daemon.options import Options
    from tunnel.places import Forward, Place
    from tunnel.proxy.credentials import Credentials

_FIREWALL: Final = (
    "include_all_networks", "exclude_local_networks", "enforce_routes", "allow_inbound", "confirm",
    "lockdown_on_exit",
)  # fmt: skip
_NO_FIREWALL: Final = "is about a firewall, which --userspace does not make"
_OPTIONS: Final = {"http": "http_proxy", "credentials": "proxy_credentials"}


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a key came from, so that an error can say so."""

    config: Config
    options: Options

    def said(self, key: str) -> Any:
        """Return what the command line says of it."""
        return getattr(self.options, _OPTIONS.get(key, key), None)

    def error(self, key: str, problem: str, mend: str) -> TunnelError:
        if not self.said(key) and self.config.source is not None:
            return ConfigError(problem, where=Where(self.config.source), key=key, mend=mend)
        return UsageError(f"{_spelt(key)}: {problem}; {mend}")


def _spelt(key: str) -> str:
    return "--" + _OPTIONS.get(key, key).replace("_", "-")


def check_options(options: Options) -> None:
    """Refuse what cannot be, before any file is read. Raises UsageError."""
    if options.userspace:
        for key in _FIREWALL:
            if getattr(options, key, None):
                raise UsageError(f"{_spelt(key)} {_NO_FIREWALL}; leave it out")
    wanted = [key for key in (one.name for one in fields(ProxyConfig))
              if getattr(options, _OPTIONS.get(key, key))]  # fmt: skip
    named = [*map(_spelt, wanted), *(["--userspace"] if options.userspace else [])]
    if named and options.config is None:
        raise UsageError(f"{named[0]} needs --config; the file has the tunnel's addresses")


def proxy_config(config: Config, options: Options) -> ProxyConfig:
    """Return what is to be opened. Raises UsageError, ConfigError.

    `config` has the routing of the command line already.
    """
    source, filed = _Source(config, options), config.proxy
    if options.userspace:
        for key in _FIREWALL:
            if getattr(config.routing, key):
                raise source.error(key, _NO_FIREWALL, "leave it out")
    proxy = ProxyConfig(
        socks5=options.socks5 or filed.socks5,
        http=options.http_proxy or filed.http,
        credentials=options.proxy_credentials or filed.credentials,
        forward=_joined(source, "forward", filed.forward, options.forward),
        expose=_joined(source, "expose", filed.expose, options.expose),
    )
    listening = {key: at for key in ("socks5", "http") if (at := getattr(proxy, key)) is not None}
    for key, at in listening.items():
        if not at.is_loopback and proxy.credentials is None:
            mend = f"give --proxy-credentials FILE, or listen on 127.0.0.1:{at.port}"
            if not source.said(key):
                mend = f"add credentials = FILE, or listen on 127.0.0.1:{at.port}"
            raise source.error(key, f"{at} is open to the network", mend)
    if proxy.credentials is not None and not listening:
        problem = "is for a SOCKS5 or HTTP proxy, and there is none"
        raise source.error("credentials", problem, "add one, or leave it out")
    _refuse_clashes(source, proxy, listening)
    return proxy


def _joined(
    source: _Source, key: str, filed: Iterable[Forward], said: Iterable[Forward]
) -> tuple[Forward, ...]:
    found: dict[tuple[str, Place], Forward] = {}
    for some in (filed, said):
        own: set[tuple[str, Place]] = set()
        for one in some:
            at = (one.protocol, one.listen)
            if at in own:
                problem = f"{one.protocol} {one.listen} is listened on twice"
                raise source.error(key, problem, "leave one of the two out")
            own.add(at)
            found[at] = one
    return tuple(found.values())


def _refuse_clashes(source: _Source, proxy: ProxyConfig, listening: dict[str, Place]) -> None:
    taken: dict[Place, str] = {}
    carried = [("forward", one.listen) for one in proxy.forward if one.protocol == "tcp"]
    for key, at in (*listening.items(), *carried):
        if at in taken:
            raise source.error(key, f"{taken[at]} listens on {at} too", "choose another port")
        taken[at] = key


def credentials(proxy: ProxyConfig) -> Credentials | None:
    """Return who may use the proxies; None for everybody. Raises ConfigError."""
    if proxy.credentials is None:
        return None
    from tunnel.proxy.credentials import read_credentials

    return read_credentials(proxy.credentials)


def proxy_lines(proxy: ProxyConfig) -> list[str]:
    """Say what would listen, for --check. Raises ConfigError for a file that cannot be used."""
    admitted = credentials(proxy)
    admits = "everybody there" if admitted is None else f"those in {proxy.credentials}"
    listening = (("SOCKS5", proxy.socks5), ("HTTP proxy", proxy.http))
    return [
        *(f"{what}: on {at}, for {admits}" for what, at in listening if at is not None),
        *(f"forward: {one}, through the tunnel" for one in proxy.forward),
        *(f"expose: {one.protocol} {one.listen} of the tunnel's addresses to {one.to}"
          for one in proxy.expose),
    ]  # fmt: skip
