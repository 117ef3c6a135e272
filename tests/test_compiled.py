"""The stack's compiled form and its Python: which of them runs, and that both are whole."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import tunnel
from tunnel import compiled

ROOT = Path(tunnel.__file__).parent
TELL = """
import pathlib, sys
from tunnel import compiled
import tunnel.netstack.stack
root = pathlib.Path(compiled.__file__).parent
for name, path in compiled.modules(root).items():
    found = (finder.find_spec(name, [str(path.parent)]) for finder in sys.meta_path)
    print(pathlib.Path(next(filter(None, found)).origin).suffix)
"""
SETTINGS_FIRST = """
from tunnel.netstack.settings import Settings
from tunnel.netstack.connection import Connection
Connection(1, 2, iss=5, settings=Settings())
"""
FAIL = """
from tunnel.netstack.connection import Connection
Connection(1, 2, iss=5).write(b"x")
"""


@pytest.fixture(scope="module")
def library() -> Path:
    """Return the library of the sources as they are; tools/build must have made one."""
    found = find_spec(f"tunnel.{compiled.library_name(ROOT)}")
    if found is None or found.origin is None:
        home = Path(find_spec("tunnel._core").origin or "").parent  # type: ignore[union-attr]
        if list(home.glob("_netstack_*")):
            pytest.skip("the stack has been edited since tools/build")
        if os.environ.get(compiled.PURE):
            pytest.skip(f"built with {compiled.PURE}")
        pytest.fail("the stack is not compiled: tools/build tells why")
    return Path(found.origin)


@pytest.fixture
def copy(tmp_path: Path, library: Path) -> Path:
    """Return a copy of what the stack needs, as a wheel installs it."""
    package = tmp_path / "tunnel"
    for folder in ("netstack", "proxy"):
        shutil.copytree(ROOT / folder, package / folder)
    for path in (ROOT / "__init__.py", ROOT / "compiled.py", library):
        shutil.copy2(path, package)
    return tmp_path


def run(copy: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program beside the copy and nothing that is installed."""
    kept = {key: value for key, value in os.environ.items() if key != compiled.PURE}
    return subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=copy, capture_output=True, text=True,
        env=kept | {"PYTHONPATH": str(copy)} | environment,
    )  # fmt: skip


def suffixes(done: subprocess.CompletedProcess[str]) -> set[str]:
    """Return the kinds of files that the modules came from."""
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_nothing_that_is_compiled_waits_while_it_handles_an_exception() -> None:
    """What mypyc makes of it loses the exception, a cancellation too, where it is to go on."""
    waits = (ast.Await, ast.AsyncWith, ast.AsyncFor, ast.Yield, ast.YieldFrom)
    found = [
        f"{name}:{inner.lineno}"
        for name, path in compiled.modules(ROOT).items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Try)
        for part in (*node.handlers, *node.finalbody)
        for inner in ast.walk(part)
        if isinstance(inner, waits)
    ]
    assert not found


def test_every_module_is_compiled(copy: Path) -> None:
    assert suffixes(run(copy, TELL)) == {".so"}


def test_a_variable_has_the_python_run(copy: Path) -> None:
    assert suffixes(run(copy, TELL, TUNNELD_PURE="1")) == {".py"}


@pytest.mark.parametrize("name", ["netstack/rtt.py", "netstack/states.py"])
def test_an_edited_source_has_the_python_run(copy: Path, name: str) -> None:
    with (copy / "tunnel" / name).open("a") as file:
        file.write("#")
    assert suffixes(run(copy, TELL)) == {".py"}


def test_without_a_library_the_python_runs(copy: Path, library: Path) -> None:
    (copy / "tunnel" / library.name).unlink()
    assert suffixes(run(copy, TELL)) == {".py"}


def test_a_library_that_cannot_be_loaded_is_no_harm(copy: Path, library: Path) -> None:
    (copy / "tunnel" / library.name).write_bytes(b"of another machine")
    assert suffixes(run(copy, TELL)) == {".py"}


def test_values_are_the_same_kind_whoever_imports_them_first(copy: Path) -> None:
    assert not run(copy, SETTINGS_FIRST).stderr


@pytest.mark.parametrize("environment", [{}, {"TUNNELD_PURE": "1"}])
def test_a_traceback_names_the_place(copy: Path, environment: dict[str, str]) -> None:
    lines = run(copy, FAIL, **environment).stderr.splitlines()
    assert lines[-1] == "BrokenPipeError: cannot write: the connection is CLOSED"
    assert "tunnel/netstack/connection.py" in lines[-3]
    assert "in write" in lines[-3]
    assert "raise BrokenPipeError" in lines[-2]
