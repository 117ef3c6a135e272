"""The generated figures: up to date, and drawn from what the code does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools.diagramlib import machines
from tools.diagramlib.document import BEGIN, END, TARGETS, Target
from tunnel.daemon import status as states
from tunnel.provider import TunnelStatus

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.path.name)
def test_the_figures_say_what_the_code_does(target: Target) -> None:
    assert not target.is_stale(), f"{target.path} is stale: run tools/diagrams"


def test_a_change_of_the_code_makes_them_stale(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = Target(tmp_path / "states.md", TARGETS[0].figures)
    copy.path.write_text(TARGETS[0].path.read_text())
    assert not copy.is_stale()
    step = {TunnelStatus.DISCONNECTED: TunnelStatus.DISCONNECTED}
    monkeypatch.setitem(states.NEXT, TunnelStatus.ERROR, step)
    assert copy.is_stale()
    copy.write()
    assert not copy.is_stale()


def test_a_file_without_the_marks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    path.write_text(f"{END}\n{BEGIN}\n")
    with pytest.raises(ValueError, match="lacks the marks"):
        Target(path, str).is_stale()


def test_what_matters_is_in_the_figures() -> None:
    _, closed = machines.kill_switch()
    assert all("failure" not in events for (_, to), events in closed.items() if to == "off")
    assert closed["connected", "blocked"] == ["no permitted interface", "failure"]
    _, moved = machines.moves()
    moves = moved["on wwan0, proving wlan0", "on wlan0"]
    assert moves == ["wwan0 dies", "the far end answers"]
    assert ("on wwan0", "on wlan0") not in moved  # never without proof, nor without damping
    assert "wlan0 dies" in moved["on wlan0", "on wwan0"]


def test_the_command_says_what_is_stale() -> None:
    done = subprocess.run([ROOT / "tools/diagrams", "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
