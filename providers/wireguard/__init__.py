"""WireGuard for tunneld: the complete protocol in Python; the engine moves the packets."""

from __future__ import annotations

from typing import Any

__all__ = ["WireGuardProvider"]


def __getattr__(name: str) -> Any:
    """Load the provider when it is asked for; its parts are of use without it."""
    if name == "WireGuardProvider":
        from providers.wireguard.provider import WireGuardProvider

        return WireGuardProvider
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
