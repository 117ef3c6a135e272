"""The README's program, run as it stands there."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

from tests.netns.command import Program
from tests.netns.world import make_world
from tools.netlab import Lab

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]


def test_the_program_in_the_readme_runs_a_tunnel(lab: Lab, tmp_path: Path) -> None:
    (program,) = re.findall(
        r"```python\n(import asyncio\n.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    assert len(program.splitlines()) < 30, "some twenty lines are promised"
    script = tmp_path / "mytunnel.py"
    script.write_text(program)
    world = make_world(lab, tmp_path)
    running = Program(world.client, sys.executable, str(script), str(world.config))
    assert f"{world.interface} is connected: wwan0" in running.expect("is connected")
    assert world.ping()
    assert world.outer("wwan0") > 3
    assert world.outer("wlan0") == 0
    running.end(signal.SIGINT)
    assert world.leftovers() == []
