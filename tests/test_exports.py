"""The package's face: every public name is there, typed, and loaded only when it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tunnel

SOURCE = Path(tunnel.__file__)
NAMES_OF_THE_DESIGN = (
    "PacketTunnelProvider", "PacketFlow", "TunnelSettings", "BindingPolicy", "PathMonitor", "Path",
    "StopReason", "TunnelStatus", "TunnelSession",
)  # fmt: skip


def test_every_public_name_is_there() -> None:
    for name in tunnel.__all__:
        assert getattr(tunnel, name) is not None
        assert name in dir(tunnel)
    assert set(NAMES_OF_THE_DESIGN) <= set(tunnel.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Carrot'"):
        _ = tunnel.Carrot  # type: ignore[attr-defined]


def test_type_checkers_see_what_is_loaded() -> None:
    tree = ast.parse(SOURCE.read_text())
    typed = {
        (alias.asname, node.module)
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    assert typed == set(tunnel._HOME.items())


def test_importing_the_package_loads_nothing_else() -> None:
    program = "import sys, tunnel; print(*(m for m in sys.modules if m.startswith('tunnel.')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_using_one_name_loads_only_what_it_needs() -> None:
    program = "import sys, tunnel; tunnel.StopReason; print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("False", "")
