"""The units of tools/systemd are what systemd takes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parent.parent / "tools" / "systemd"


def complaints(folder: Path, change: tuple[str, str] = ("", "")) -> str:
    """Return what systemd says of copies of the units, whose programs are there."""
    copies = []
    for unit in sorted(UNITS.glob("*.service")):
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.M)
        copies.append(folder / unit.name)
        copies[-1].write_text(text.replace(*change) if change[0] else text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *copies], capture_output=True, text=True
    )
    return done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_the_units_are_understood(tmp_path: Path) -> None:
    assert complaints(tmp_path) == ""
    said = complaints(tmp_path, ("NoNewPrivileges=yes", "NoNewPrivilege=yes"))
    assert said.count("'NoNewPrivilege'") == 2
