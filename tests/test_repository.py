"""Rules of this repository that no linter knows."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = {".py", ".pyi", ".c", ".h", ".sh"}
MOST_LINES = 400
# Spelt with brackets, so that this file does not find itself.
UNFINISHED = re.compile(r"\b(TO[D]O|FIX[M]E|X[X]X|NotImplemented[E]rror)\b")


def tracked() -> list[Path]:
    """Return the files that git knows and that are there; skips outside a git checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True
    ).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def code() -> list[Path]:
    """Return source files and the programs of tools/, which have no suffix."""
    return [
        path
        for path in tracked()
        if path.suffix in CODE or (os.access(path, os.X_OK) and not path.suffix)
    ]


def programs() -> list[Path]:
    return sorted(p for p in (ROOT / "tools").iterdir() if p.is_file() and os.access(p, os.X_OK))


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in code()}
    assert not {str(path): count for path, count in lengths.items() if count > MOST_LINES}


def test_nothing_is_left_unfinished() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in code()
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if UNFINISHED.search(line)
    ]
    assert not found, "\n".join(found)


def test_every_tool_has_a_help_text() -> None:
    assert {"build", "demo", "packages", "test"} <= {path.name for path in programs()}


@pytest.mark.parametrize("program", programs(), ids=lambda path: path.name)
def test_tools_answer_help(program: Path, tmp_path: Path) -> None:
    """They say what they are for, from any folder, and do nothing else."""
    done = subprocess.run(
        [program, "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2
    assert not done.stderr


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert version("tunneld") == project["version"]
    headings = re.findall(r"^## \[?([^\]\s]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0] == project["version"]
    assert project["version"] in headings


def test_readme_names_files_that_are_there() -> None:
    """A link of the documents to a file of this repository leads somewhere."""
    broken = []
    for document in ROOT.glob("*.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            if not (ROOT / target).exists():
                broken.append(f"{document.name}: {target}")
    assert not broken


def test_every_debian_package_is_listed_once_a_group() -> None:
    table = (ROOT / "tools" / "packages").read_text().split("<<'END'\n")[1].split("\nEND")[0]
    rows = [tuple(line.split(maxsplit=2)) for line in table.splitlines()]
    assert all(len(row) == 3 for row in rows), "group, package and purpose"
    pairs = [row[:2] for row in rows]
    assert len(pairs) == len(set(pairs))
