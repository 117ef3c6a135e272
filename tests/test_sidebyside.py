"""The side-by-side program: what it computes in tables, and one short run of all of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bench import implementations, sidebyside
from bench.measures import FIGURES, percentile
from bench.report import NO_TUNNEL, Result, align


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([1.0], 0.99, 1.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([float(n) for n in range(1, 101)], 0.99, 99.0),
        ([float(n) for n in range(1, 1001)], 0.99, 990.0),
        ([float(n) for n in range(1, 11)], 0.99, 10.0),
        ([float(n) for n in range(1, 11)], 0.0, 1.0),
    ],
)
def test_percentile(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


@pytest.fixture
def result() -> Result:
    made = Result("slow", {"machine": "this"}, {"fast": "1.0", "slow": "2.0"})
    for none, fast, slow in ((30.0, 4.0, 1.0), (10.0, 6.0, 3.0), (20.0, 5.0, 2.0)):
        made.add(NO_TUNNEL, {"tcp1": none})
        made.add("fast", {"tcp1": fast, "cpu": fast / 10})
        made.add("slow", {"tcp1": slow})
    return made


def test_ratios_are_of_medians(result: Result) -> None:
    assert result.median("fast", "tcp1") == 5.0
    assert result.ratio("fast", "tcp1") == 2.5
    assert result.ratio("slow", "tcp1") == 1.0
    assert result.ratio("fast", "cpu") is None, "the base was not measured"
    assert result.median("fast", "memory") is None
    assert result.spread(NO_TUNNEL, "tcp1") == 1.0


def test_report_shows_all_of_it(result: Result) -> None:
    result.failures.append("slow, round 2: no answer")
    text = result.as_text()
    for shown in ("this", "fast: 1.0", "5.00 (40%)", "2.50", "tcp1 100%", "FAILED slow, round 2"):
        assert shown in text
    assert json.loads(json.dumps(result.as_json()))["ratios"]["fast"]["tcp1"] == 2.5


def test_columns_are_equally_wide() -> None:
    assert align([["", "a", "bb"], ["row", "1.00", "-"]]) == ["        a  bb", "row  1.00   -"]


def test_every_figure_has_one_row() -> None:
    keys = [figure.key for figure in FIGURES]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--implementations", "nosuch"], "nosuch"),
        (["--add", "other=program"], "{interface}"),
        (["--add", "other=/nonexistent {interface}", "--implementations", "other"], "nonexistent"),
        (["--measures", "tcp1,nosuch"], "nosuch"),
        (["--rounds", "0"], "--rounds"),
    ],
)
def test_wrong_options(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        sidebyside.main(words)
    assert ended.value.code == 2
    assert named in capsys.readouterr().err


def test_added_implementations() -> None:
    command = "A=1 B_C=x sh -c true {interface}"
    (added,) = implementations.find(["mine"], [f"mine={command}"])
    assert added.environment == ("A=1", "B_C=x")
    assert added.command == ("sh", "-c", "true", "{interface}")


def short_run(names: list[str], report: Path, *words: str) -> dict[str, Any]:
    """Run one short round and return its report."""
    if os.geteuid():
        pytest.skip("needs root: network namespaces cannot be made")
    short = f"--rounds 1 --seconds 1 --pings 20 --implementations {','.join(names)}".split()
    status = sidebyside.main([*short, "--json", str(report), *words])
    found: dict[str, Any] = json.loads(report.read_text())
    assert not found["failures"]
    assert not status
    assert set(found["medians"]) == {NO_TUNNEL, *names}
    return found


@pytest.mark.root
def test_one_short_round(tmp_path: Path) -> None:
    found = short_run(["tunneld"], tmp_path / "report.json")
    figures = found["medians"]["tunneld"]
    assert all(figures[figure.key] for figure in FIGURES), figures


@pytest.mark.root
def test_against_another_without_offloads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "wireguard-go" not in [one.name for one in implementations.find()]:
        pytest.skip("wireguard-go is not installed")
    words = ("--veth-offloads", "off", "--measures", "tcp1")
    found = short_run(["tunneld", "wireguard-go"], tmp_path / "report.json", *words)
    assert found["ratios"]["tunneld"]["tcp1"] > 0
    assert "Ratios of medians to wireguard-go" in capsys.readouterr().out
