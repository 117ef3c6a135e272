"""python -m bench.netstack: its options, its bounds, and one short run of all measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import netstack
from bench.bounds import reached
from bench.nearends import KERNEL, OURS, TABLE, THEIRS
from bench.report import NO_TUNNEL, Result
from bench.stackmeasures import FIGURES
from tests.bench_programs import refusal, short_round


def test_every_bound_is_about_a_figure_and_a_near_end() -> None:
    assert {bound.key for bound in netstack.BOUNDS} <= {figure.key for figure in FIGURES}
    assert {bound.against for bound in netstack.BOUNDS} <= {"", *(end.name for end in TABLE)}


@pytest.mark.parametrize(
    ("up", "verdicts"),
    [
        (3.1, ["aim reached", "aim reached"]),
        (2.6, ["reached", "below the aim"]),
        (2.4, ["NOT REACHED", "below the aim"]),
    ],
)
def test_bounds(up: float, verdicts: list[str]) -> None:
    made = Result(THEIRS, {}, {}, figures=FIGURES)
    for name, value in ((OURS, up), (THEIRS, 1.0), (KERNEL, 3.5)):
        made.add(name, {"up": value})
    assert [row[-1] for row in reached(made, netstack.BOUNDS, OURS)[1:]] == verdicts


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--near", "nosuch"], "nosuch"),
        (["--far", "nosuch"], "nosuch"),
        (["--measures", "down,nosuch"], "nosuch"),
        (["--connections", "0"], "--connections"),
    ],
)
def test_wrong_options(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert named in refusal(netstack.main, words, capsys)


@pytest.mark.root
@pytest.mark.alone
def test_one_short_round(tmp_path: Path) -> None:
    words = f"--rounds 1 --seconds 0.5 --connections 50 --open 100 --near {OURS}"
    found = short_round(netstack.main, words, tmp_path)
    assert found[OURS]["up"] > 0
    assert found[NO_TUNNEL]["rate16"] > 0
