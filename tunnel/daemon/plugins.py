"""Providers by name, found through the entry points `tunnel.providers` of installed packages.

The files are read directly: importlib.metadata would do the same for 60 ms and 6 MB.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Final

from tunnel.errors import TunnelError, UsageError
from tunnel.provider import PacketTunnelProvider

GROUP: Final = "tunnel.providers"


def find_providers(folders: list[str] | None = None) -> dict[str, str]:
    """Return provider name -> 'module:Class', the first of a name along sys.path."""
    found: dict[str, str] = {}
    for folder in sys.path if folders is None else folders:
        for file in sorted(Path(folder or ".").glob("*-info/entry_points.txt")):
            for name, target in _entries(file):
                found.setdefault(name, target)
    return found


def _entries(file: Path) -> Iterator[tuple[str, str]]:
    section = ""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        text = line.strip()
        if text.startswith("["):
            section = text.strip("[]").strip()
        elif section == GROUP and "=" in text and not text.startswith(("#", ";")):
            name, _, target = text.partition("=")
            yield name.strip(), target.split("[")[0].strip()


def load_provider(name: str, folders: list[str] | None = None) -> type[PacketTunnelProvider]:
    """Import a provider's class. Raises UsageError for a name that nobody offers."""
    found = find_providers(folders)
    if name not in found:
        known = ", ".join(sorted(found)) or "none"
        raise UsageError(f"--provider: {name!r} is not installed; there are: {known}")
    module, _, attribute = found[name].partition(":")
    try:
        provider = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise TunnelError(
            f"provider {name} cannot be loaded: {error}; reinstall the package that offers it"
        ) from error
    if not (isinstance(provider, type) and issubclass(provider, PacketTunnelProvider)):
        raise TunnelError(f"provider {name}: {found[name]} is not a PacketTunnelProvider")
    return provider
