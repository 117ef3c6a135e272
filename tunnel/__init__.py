"""tunneld: packet tunnels in user space. The names that applications and providers use.

    from tunnel import PacketTunnelProvider, TunnelSession

Names are loaded when they are first used, so that `import tunnel` costs next to nothing and a
program pays only for what it needs. The imports below are for type checkers, the table is what
happens; tests/test_exports.py holds the two together.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunnel.bind import OuterSockets as OuterSockets
    from tunnel.config import (
        BindingConfig as BindingConfig,
        Config as Config,
        HostPort as HostPort,
        InterfaceConfig as InterfaceConfig,
        InterfaceOverride as InterfaceOverride,
        PeerConfig as PeerConfig,
        load_config as load_config,
        tunnel_settings as tunnel_settings,
    )
    from tunnel.daemon.session import TunnelSession as TunnelSession
    from tunnel.daemon.userspace import UserspaceMachine as UserspaceMachine
    from tunnel.engine import (
        KEY_CURRENT as KEY_CURRENT,
        MAX_PATHS as MAX_PATHS,
        REAL_TIME as REAL_TIME,
        Endpoint as Endpoint,
        Engine as Engine,
        Event as Event,
        EventKind as EventKind,
        PeerInfo as PeerInfo,
    )
    from tunnel.errors import (
        ConfigError as ConfigError,
        MissingFacilityError as MissingFacilityError,
        PrivilegeError as PrivilegeError,
        TunnelError as TunnelError,
        UsageError as UsageError,
        Where as Where,
    )
    from tunnel.filewatch import FileWatch as FileWatch, Identity as Identity, identity as identity
    from tunnel.flow import FlowClosed as FlowClosed, PacketFlow as PacketFlow
    from tunnel.policy.binding import (
        BindingPolicy as BindingPolicy,
        Combined as Combined,
        PathPolicy as PathPolicy,
        Term as Term,
        parse_spec as parse_spec,
    )
    from tunnel.policy.change import ChangeKind as ChangeKind, PathChange as PathChange
    from tunnel.policy.interface import (
        Classification as Classification,
        Confidence as Confidence,
        Interface as Interface,
        InterfaceType as InterfaceType,
    )
    from tunnel.policy.monitor import PathMonitor as PathMonitor
    from tunnel.policy.path import Path as Path, PathStatus as PathStatus
    from tunnel.primitives import (
        AuthenticationError as AuthenticationError,
        EngineError as EngineError,
        ParsedPacket as ParsedPacket,
        crypto_flags as crypto_flags,
        crypto_name as crypto_name,
        hchacha20 as hchacha20,
        open_ as open_,
        parse as parse,
        seal as seal,
        wipe as wipe,
        without_flags as without_flags,
    )
    from tunnel.provider import (
        PacketTunnelProvider as PacketTunnelProvider,
        ProviderContext as ProviderContext,
        StopReason as StopReason,
        TunnelStatus as TunnelStatus,
    )
    from tunnel.secret import KEY_BYTES as KEY_BYTES, Secret as Secret, redact as redact
    from tunnel.settings import (
        Address as Address,
        DNSSettings as DNSSettings,
        InterfaceAddress as InterfaceAddress,
        Network as Network,
        RoutingPolicy as RoutingPolicy,
        Table as Table,
        TunnelSettings as TunnelSettings,
    )
    from tunnel.values import BadValue as BadValue

_HOMES = {
    "tunnel.bind": ("OuterSockets",),
    "tunnel.config": (
        "BindingConfig",
        "Config",
        "HostPort",
        "InterfaceConfig",
        "InterfaceOverride",
        "PeerConfig",
        "load_config",
        "tunnel_settings",
    ),
    "tunnel.daemon.session": ("TunnelSession",),
    "tunnel.daemon.userspace": ("UserspaceMachine",),
    "tunnel.engine": (
        "KEY_CURRENT",
        "MAX_PATHS",
        "REAL_TIME",
        "Endpoint",
        "Engine",
        "Event",
        "EventKind",
        "PeerInfo",
    ),
    "tunnel.errors": (
        "ConfigError",
        "MissingFacilityError",
        "PrivilegeError",
        "TunnelError",
        "UsageError",
        "Where",
    ),
    "tunnel.filewatch": ("FileWatch", "Identity", "identity"),
    "tunnel.flow": ("FlowClosed", "PacketFlow"),
    "tunnel.policy.binding": ("BindingPolicy", "Combined", "PathPolicy", "Term", "parse_spec"),
    "tunnel.policy.change": ("ChangeKind", "PathChange"),
    "tunnel.policy.interface": ("Classification", "Confidence", "Interface", "InterfaceType"),
    "tunnel.policy.monitor": ("PathMonitor",),
    "tunnel.policy.path": ("Path", "PathStatus"),
    "tunnel.primitives": (
        "AuthenticationError",
        "EngineError",
        "ParsedPacket",
        "crypto_flags",
        "crypto_name",
        "hchacha20",
        "open_",
        "parse",
        "seal",
        "wipe",
        "without_flags",
    ),
    "tunnel.provider": ("PacketTunnelProvider", "ProviderContext", "StopReason", "TunnelStatus"),
    "tunnel.secret": ("KEY_BYTES", "Secret", "redact"),
    "tunnel.settings": (
        "Address",
        "DNSSettings",
        "InterfaceAddress",
        "Network",
        "RoutingPolicy",
        "Table",
        "TunnelSettings",
    ),
    "tunnel.values": ("BadValue",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, and keep it."""
    if name not in _HOME:
        raise AttributeError(f"module 'tunnel' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Show the public names though they are not loaded yet."""
    return sorted({*globals(), *__all__})
