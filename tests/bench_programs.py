"""What the tests of the programs in bench/ have in common."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Main = Callable[[list[str]], int]


def refusal(main: Main, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a program says of options that it refuses."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    return capsys.readouterr().err


def short_round(main: Main, words: str, folder: Path) -> dict[str, Any]:
    """Run a program, which must not fail; return the medians of its report by name."""
    if os.geteuid():
        pytest.skip("needs root: network namespaces cannot be made")
    report = folder / "report.json"
    status = main([*words.split(), "--json", str(report)])
    found = json.loads(report.read_text())
    assert not found["failures"]
    assert not status
    medians: dict[str, Any] = found["medians"]
    return medians
