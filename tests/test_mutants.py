"""The table of tools/mutants fits the sources, and the tool tells a mutant that lives."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parent.parent / "tools" / "mutants"


def load_tool():
    loader = importlib.machinery.SourceFileLoader("mutants", str(TOOL))
    spec = importlib.util.spec_from_loader("mutants", loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module  # dataclasses look their module up
    loader.exec_module(module)
    return module


mutants = load_tool()


def test_every_text_occurs_once_and_every_test_exists() -> None:
    assert mutants.problems(mutants.load()) == []


def test_every_section_of_rules_has_mutants() -> None:
    """The sections and rows marked in the protocol's notes, the proxies, and the policies."""
    rules = {one.rule.split(":")[0] for one in mutants.load()}
    protocol = {"Handshake", "MACs", "Timers", "Sessions", "Data path"}
    assert rules == protocol | {"Proxies", "Policies"}
    timers = {one.rule for one in mutants.load() if one.rule.startswith("Timers")}
    assert {"Timers: REJECT_AFTER_TIME", "Timers: REJECT_AFTER_MESSAGES", "Timers: zeroing"} <= (
        timers
    )


def test_a_table_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\nx = 1\n")
    (tmp_path / "test_a.py").write_text("def test_a(): ...\n")
    good = mutants.Mutant("r", "w", "test_a.py", "def", "deaf", ("test_a.py::test_a",))
    cases = {
        "occurs 2 times": mutants.Mutant("r", "w", "a.py", "x", "y", good.tests),
        "occurs 0 times": mutants.Mutant("r", "w", "a.py", "z", "y", good.tests),
        "changes nothing": mutants.Mutant("r", "w", "test_a.py", "def", "def", good.tests),
        "names no test": mutants.Mutant("r", "w", "test_a.py", "def", "deaf"),
        "no test": mutants.Mutant("r", "w", "test_a.py", "def", "deaf", ("test_a.py::test_b",)),
        "no C test": mutants.Mutant("r", "w", "test_a.py", "def", "deaf", ctests=("gone",)),
    }
    assert mutants.problems([good], tmp_path) == []
    for words, mutant in cases.items():
        assert any(words in line for line in mutants.problems([mutant], tmp_path)), words


def test_a_mutant_that_lives_is_told_and_fails_the_run(capsys) -> None:
    one = mutants.Mutant("Rule", "what", "file", "old", "new", ("tests/test_x.py",))
    assert mutants.show([one], [mutants.Verdict(one, "killed", "FAILED test_x", 1.0)])
    assert not mutants.show([one], [mutants.Verdict(one, "SURVIVED", "", 1.0)])
    assert not mutants.show([one], [mutants.Verdict(one, "proves nothing", "ERROR", 1.0)])
    assert "no test failed: tests/test_x.py" in capsys.readouterr().out
