"""The configuration of one tunnel as frozen values, and `load_config`, which reads either form.

`wgquick` reads wg-quick's `.conf`, `tomlform` the `.toml` form; both build these values, so that
nothing behind this module knows which file it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from tunnel.errors import ConfigError, Where, reading_mend
from tunnel.secret import Secret
from tunnel.settings import (
    DNSSettings,
    InterfaceAddress,
    Network,
    RoutingPolicy,
    Table,
    TunnelSettings,
)

if TYPE_CHECKING:
    from tunnel.places import Forward, Place


@dataclass(frozen=True, slots=True)
class HostPort:
    """An endpoint as written: a name or an address (IPv6 without brackets), and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """One [Peer] section. `persistent_keepalive` is in seconds, 0 for off."""

    public_key: bytes
    preshared_key: Secret | None = None
    endpoint: HostPort | None = None
    allowed_ips: tuple[Network, ...] = ()
    persistent_keepalive: int = 0


@dataclass(frozen=True, slots=True)
class InterfaceConfig:
    """The [Interface] section: wg's keys, then wg-quick's. Hooks are shell commands, in order."""

    private_key: Secret | None = None
    listen_port: int = 0
    fwmark: int = 0
    addresses: tuple[InterfaceAddress, ...] = ()
    dns: DNSSettings = field(default_factory=DNSSettings)
    mtu: int | None = None
    table: Table | int = Table.AUTO
    pre_up: tuple[str, ...] = ()
    post_up: tuple[str, ...] = ()
    pre_down: tuple[str, ...] = ()
    post_down: tuple[str, ...] = ()
    save_config: bool = False


@dataclass(frozen=True, slots=True)
class BindingConfig:
    """[binding] of the TOML form, and the words of --bind, --prohibit and --avoid, unresolved.

    `bind` None means that no restriction was asked for; an empty tuple cannot occur. `policy` names
    a policy of another package (entry point group tunnel.policies). Seconds: `hold_down` and
    `dwell` damp flapping, `grace` is how long the tunnel may be without a path, None for ever.
    `lines` says where in the file each key is, since its words are judged only at the start.
    """

    bind: tuple[str, ...] | None = None
    prohibit: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    policy: str | None = None
    hold_down: float = 3.0
    dwell: float = 15.0
    grace: float | None = None
    lines: Mapping[str, int | None] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class InterfaceOverride:
    """[interfaces.NAME]: what the user knows better than the classifier."""

    type: str | None = None
    expensive: bool | None = None
    constrained: bool | None = None
    ultra_constrained: bool | None = None
    dns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """[proxy] of the TOML form, and the options of tunneld that say the same.

    `socks5` and `http` are where the proxies listen, `credentials` the file of who may use them,
    None for everybody. `forward` listens on this machine, `expose` inside the tunnel.
    """

    socks5: Place | None = None
    http: Place | None = None
    credentials: Path | None = None
    forward: tuple[Forward, ...] = ()
    expose: tuple[Forward, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """One tunnel's configuration. `warnings` are lines to show: things read but not acted on."""

    source: Path | None = None
    interface: InterfaceConfig = field(default_factory=InterfaceConfig)
    peers: tuple[PeerConfig, ...] = ()
    binding: BindingConfig = field(default_factory=BindingConfig)
    routing: RoutingPolicy = field(default_factory=RoutingPolicy)
    interfaces: dict[str, InterfaceOverride] = field(default_factory=dict)
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    warnings: tuple[str, ...] = ()


def tunnel_settings(config: Config) -> TunnelSettings:
    """Return what a configuration asks of the machine: its addresses, and routes to its peers."""
    interface = config.interface
    return TunnelSettings(
        addresses=interface.addresses,
        mtu=interface.mtu,
        included_routes=tuple(
            dict.fromkeys(network for peer in config.peers for network in peer.allowed_ips)
        ),
        dns=interface.dns,
        table=interface.table,
        fwmark=interface.fwmark,
    )


def load_config(path: Path, *, need_key: bool = False) -> Config:
    """Read a configuration file, choosing the form by its suffix.

    `need_key` makes a missing private key an error, for who has none to put in its place. A file
    that holds keys and that others may read gets wg-quick's warning. Raises ConfigError, which
    names file, line, key and the mend.
    """
    readers = {".conf": "tunnel.wgquick", ".toml": "tunnel.tomlform"}
    if path.suffix not in readers:
        raise ConfigError(
            f"unknown kind of file {path.suffix!r}",
            where=Where(path),
            key=None,
            mend="name it .conf (wg-quick's format) or .toml",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}",
            where=Where(path),
            key=None,
            mend=reading_mend(error),
        ) from error
    except UnicodeDecodeError as error:
        # The cause would carry the whole file, keys and all, into a traceback.
        raise ConfigError(
            f"is not UTF-8 text (byte {error.start})",
            where=Where(path),
            key=None,
            mend="save it as UTF-8",
        ) from None
    config: Config = import_module(readers[path.suffix]).parse(text, path)
    if need_key:
        require_private_key(config)
    if _holds_secrets(config) and _world_accessible(path):
        warning = f"{path}: holds keys and is open to every user; chmod 600 it"
        config = replace(config, warnings=(warning, *config.warnings))
    return config


def require_private_key(config: Config) -> Secret:
    """Return the private key. Raises ConfigError where the configuration has none."""
    if config.interface.private_key is not None:
        return config.interface.private_key
    toml = config.source is not None and config.source.suffix == ".toml"
    raise ConfigError(
        "is missing",
        where=Where(config.source) if config.source else None,
        key="private_key" if toml else "PrivateKey",
        mend="add it to the interface section; `wg genkey` makes one",
    )


def _holds_secrets(config: Config) -> bool:
    secrets = (config.interface.private_key, *(peer.preshared_key for peer in config.peers))
    return any(secret is not None for secret in secrets)


def _world_accessible(path: Path) -> bool:
    """Tell what wg-quick asks: whether others may reach the folder and the file."""
    try:
        file = path.resolve()
        return bool(file.stat().st_mode & file.parent.stat().st_mode & 0o007)
    except OSError:
        return False  # it was read a moment ago: whoever moved it sees to its mode
