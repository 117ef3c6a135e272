"""python -m bench.overrelay: its options, its bounds, and one short run over a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import overrelay
from bench.bounds import reached
from bench.nearends import KERNEL, OURS, TABLE, THEIRS
from bench.report import Result
from tests.bench_programs import refusal, short_round


def test_every_bound_is_about_a_figure_and_a_near_end() -> None:
    assert {bound.key for bound in overrelay.BOUNDS} <= {one.key for one in overrelay.FIGURES}
    assert {bound.against for bound in overrelay.BOUNDS} <= {"", *(end.name for end in TABLE)}
    assert set(overrelay.PATHS) <= {figure.key for figure in overrelay.FIGURES}


@pytest.mark.parametrize(
    ("line", "verdict"), [(92, "aim reached"), (86, "reached"), (80, "NOT REACHED")]
)
def test_the_bound_of_the_line_is_in_its_unit(line: float, verdict: str) -> None:
    made = Result(THEIRS, {}, {}, figures=overrelay.FIGURES)
    for name in (OURS, THEIRS, KERNEL):
        made.add(name, {"line": line})
    (row,) = reached(made, overrelay.BOUNDS, OURS)[1:]
    assert row[1] == f"{line} Mbit/s"
    assert row[-1] == verdict


@pytest.mark.parametrize("words", [["--near", "nosuch"], ["--paths", "nosuch"]])
def test_wrong_options(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "nosuch" in refusal(overrelay.main, words, capsys)


@pytest.mark.root
@pytest.mark.alone
def test_one_short_round(tmp_path: Path) -> None:
    words = f"--rounds 1 --seconds 1 --near {OURS},{KERNEL} --paths line"
    found = short_round(overrelay.main, words, tmp_path)
    assert 0 < found[OURS]["line"] < 100
    assert found[OURS]["line_queue"] < 125
