"""Providers and policies by name, found through the entry points of installed packages.

The groups are `tunnel.providers` (a PacketTunnelProvider) and `tunnel.policies` (a PathPolicy, or
something that returns one when it is called without arguments, such as its class).

The files are read directly: importlib.metadata would do the same for 60 ms and 6 MB.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tunnel.errors import TunnelError, UsageError
from tunnel.provider import PacketTunnelProvider

if TYPE_CHECKING:
    from tunnel.policy.binding import PathPolicy

PROVIDERS: Final = "tunnel.providers"
POLICIES: Final = "tunnel.policies"


def find_plugins(group: str, folders: list[str] | None = None) -> dict[str, str]:
    """Return name -> 'module:attribute' of a group, the first of a name along sys.path."""
    found: dict[str, str] = {}
    for folder in sys.path if folders is None else folders:
        for file in sorted(Path(folder or ".").glob("*-info/entry_points.txt")):
            for name, target in _entries(file, group):
                found.setdefault(name, target)
    return found


def _entries(file: Path, group: str) -> Iterator[tuple[str, str]]:
    section = ""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        text = line.strip()
        if text.startswith("["):
            section = text.strip("[]").strip()
        elif section == group and "=" in text and not text.startswith(("#", ";")):
            name, _, target = text.partition("=")
            yield name.strip(), target.split("[")[0].strip()


def load_provider(name: str, folders: list[str] | None = None) -> type[PacketTunnelProvider]:
    """Import a provider's class. Raises UsageError for a name that nobody offers."""
    provider = _load(PROVIDERS, name, "--provider", folders)
    if not (isinstance(provider, type) and issubclass(provider, PacketTunnelProvider)):
        shown = getattr(provider, "__qualname__", provider)
        raise TunnelError(f"provider {name}: {shown} is not a PacketTunnelProvider")
    return provider


def load_policy(name: str, folders: list[str] | None = None) -> PathPolicy:
    """Import or make a policy. Raises UsageError for a name that nobody offers, TunnelError."""
    from tunnel.policy.binding import PathPolicy
    from tunnel.policy.shielded import Shielded

    found = _load(POLICIES, name, "policy", folders)
    if isinstance(found, type) or not isinstance(found, PathPolicy):
        try:
            found = found()
        except Exception as error:
            raise TunnelError(f"policy {name} cannot be made: {error!r}") from error
    if not isinstance(found, PathPolicy):
        raise TunnelError(f"policy {name}: {found!r} has no `decide` and `refusal`")
    return Shielded(name, found)


def _load(group: str, name: str, option: str, folders: list[str] | None) -> Any:
    found = find_plugins(group, folders)
    if name not in found:
        known = ", ".join(sorted(found)) or "none"
        raise UsageError(f"{option}: {name!r} is not installed; there are: {known}")
    module, _, attribute = found[name].partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        kind = option.lstrip("-")
        raise TunnelError(
            f"{kind} {name} cannot be loaded: {error}; reinstall the package that offers it"
        ) from error
