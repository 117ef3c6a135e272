"""The file that goes with a bare name: /etc/tunneld/IFNAME.toml, for `tunneld IFNAME`.

wg-quick(8) hands tunneld nothing but a name, and gives the interface its keys, addresses and
routes itself. What it has no words for, the binding and the classes, comes from this file, and
nothing else may be in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tunnel.config import Config, InterfaceConfig, ProxyConfig, load_config
from tunnel.errors import ConfigError, Where
from tunnel.settings import RoutingPolicy

DIRECTORY: Final = Path("/etc/tunneld")


def config_beside(name: str, directory: Path = DIRECTORY) -> Config:
    """Return the named interface's file, or an empty configuration where there is none.

    Raises ConfigError.
    """
    path = directory / f"{name}.toml"
    if not path.exists():
        return Config()
    config = load_config(path)
    rest = (config.interface, config.routing, config.proxy, config.peers)
    if rest != (InterfaceConfig(), RoutingPolicy(), ProxyConfig(), ()):
        raise ConfigError(
            "has more than [binding] and [interfaces], which is all that `tunneld IFNAME` takes",
            where=Where(path),
            key=None,
            mend=f"remove the rest, or start `tunneld --config {path}`",
        )
    return config
