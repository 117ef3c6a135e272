"""The side-by-side program: what it computes in tables, and one short run of all of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import implementations, plaintext, sidebyside, startup
from bench.bounds import BOUNDS, reached
from bench.implementations import COMPARED
from bench.measures import FIGURES, percentile
from bench.plot import svg
from bench.report import BEST, NO_TUNNEL, Result, align
from tests.bench_programs import refusal


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


def whole_set(values: dict[str, float]) -> Result:
    """A run in which all of the set ran: each has 1.0 in everything but what `values` says."""
    made = Result(BEST, {}, {})
    for name in COMPARED:
        made.add(name, dict.fromkeys((bound.key for bound in BOUNDS), 1.0))
    made.add("tunneld", values)
    return made


def test_the_best_of_the_set_is_the_best_of_each_figure() -> None:
    made = whole_set({"tcp1": 6.0})
    made.add("nebula", {"tcp1": 3.0, "cpu": 0.4})
    made.add("boringtun-1", {"cpu": 0.2})
    assert made.best("tcp1") == 2.0, "the median of nebula's two rounds"
    assert made.best("cpu") == 0.6, "less is better: the median of 1.0 and 0.2"
    assert made.ratio("tunneld", "tcp1") == 3.0


@pytest.mark.parametrize(
    ("key", "value", "verdict"),
    [
        ("tcp4", 2.5, "aim reached"),
        ("tcp4", 1.9, "reached"),
        ("tcp4", 1.7, "NOT REACHED"),
        ("cpu", 0.3, "aim reached"),
        ("cpu", 0.45, "reached"),
        ("cpu", 0.55, "NOT REACHED"),
        ("memory_peak", 55.0, "reached"),
        ("memory_peak", 61.0, "NOT REACHED"),
    ],
)
def test_bounds(key: str, value: float, verdict: str) -> None:
    (row,) = reached(whole_set({key: value}))[1:]
    assert row[-1] == verdict


def test_a_bound_does_not_count_where_one_of_the_set_is_missing() -> None:
    made = whole_set({"tcp4": 9.0})
    del made.values["nebula"]
    (row,) = reached(made)[1:]
    assert row[-1] == "does not count: nebula did not run"


def test_every_bound_is_about_a_figure() -> None:
    assert {bound.key for bound in BOUNDS} <= {figure.key for figure in FIGURES}


def test_plot_shows_each_implementation_and_its_figure(result: Result) -> None:
    picture = ElementTree.fromstring(svg(result, "fast"))
    texts = [element.text for element in picture.iter() if element.tag.endswith("text")]
    assert {"fast", "slow", "5.00", "2.00"} <= set(texts)
    assert NO_TUNNEL not in texts
    widths = [float(one.get("width", 0)) for one in picture.iter() if one.tag.endswith("rect")]
    assert widths[1] / widths[2] == pytest.approx(2.5, abs=0.01), "bars are in proportion"


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
        (["--base", "nosuch"], "--base: nosuch"),
        (["--json", "/nonexistent/report.json"], "no folder /nonexistent"),
    ],
)
def test_wrong_options(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert named in refusal(sidebyside.main, words, capsys)


def test_added_implementations() -> None:
    command = "A=1 B_C=x sh -c true {interface}"
    (added,) = implementations.find(["mine"], [f"mine={command}"])
    assert added.environment == ("A=1", "B_C=x")
    assert added.command == ("sh", "-c", "true", "{interface}")


LIVES = """
import signal
from tools.netlab import Lab
with Lab() as lab:
    space = lab.namespace("a")
    print(lab.tag, flush=True)
    script = "trap 'kill -INT $PPID; exit' TERM; echo ready; while :; do sleep 0.05; done"
    space.start(["sh", "-c", script])
    signal.pause()
"""


@pytest.mark.root
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_two_interruptions_leave_no_namespace(first: signal.Signals) -> None:
    """The second comes while the first is being cleaned up after."""
    if os.geteuid():
        pytest.skip("needs root: network namespaces cannot be made")
    lives = subprocess.Popen(
        [sys.executable, "-c", LIVES], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert lives.stdout
    tag = lives.stdout.readline().strip()
    assert lives.stdout.readline() == "ready\n"  # or it would be ended before it interrupts
    assert tag in subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
    lives.send_signal(first)
    lives.communicate(timeout=20)
    assert tag not in subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout


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
@pytest.mark.alone
def test_one_short_round(tmp_path: Path) -> None:
    found = short_run(["tunneld"], tmp_path / "report.json")
    figures = found["medians"]["tunneld"]
    assert all(figures[figure.key] for figure in FIGURES), figures


@pytest.mark.root
@pytest.mark.alone
def test_against_another_without_offloads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "wireguard-go" not in [one.name for one in implementations.find()]:
        pytest.skip("wireguard-go is not installed")
    words = ("--base", "wireguard-go", "--measures", "tcp1-wire")
    found = short_run(["tunneld", "wireguard-go"], tmp_path / "report.json", *words)
    assert found["ratios"]["tunneld"]["tcp1_wire"] > 0
    assert "Ratios of medians to wireguard-go" in capsys.readouterr().out


@pytest.mark.root
@pytest.mark.alone
def test_one_measured_start() -> None:
    if os.geteuid():
        pytest.skip("needs root: network namespaces cannot be made")
    (seconds,) = startup.measure(1)
    assert 0 < seconds < startup.LONGEST


@pytest.mark.root
@pytest.mark.alone
def test_one_turn_without_the_aead() -> None:
    if os.geteuid():
        pytest.skip("needs root: network namespaces cannot be made")
    found = plaintext.measure(1, 1.0)
    assert set(found) == {"plaintext", "tunneld"}
    assert all(value > 0 for values in found.values() for value in values)
