"""Writes the C of the stack's state machines (tunnel/compiled.py says what for) into a folder.

usage: compile_netstack.py FOLDER

Prints the library's name and then its C files, for CMake. What is there already and was made from
the same sources is left alone, so that a build without changes costs nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve()
ROOT = HERE.parent.parent / "tunnel"
# By its path: the package's own imports are not there yet when it is built.
_spec = importlib.util.spec_from_file_location("compiled", ROOT / "compiled.py")
assert _spec is not None
assert _spec.loader is not None
compiled = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(compiled)

#: Nothing outside the stack is looked at: what it imports need not be installed.
_OPTIONS = (
    "--follow-imports=skip", "--python-version=3.11", "--config-file=",
    "--cache-dir=/dev/null",
)  # fmt: skip
#: Each module's entry is found by the last part of its name, in the one library that all share.
_ENTRY = """
extern PyObject *CPyInit_{full}(void);
PyMODINIT_FUNC PyInit_{last}(void) {{ return CPyInit_{full}(); }}
"""


def generate(folder: Path) -> list[Path]:
    """Write the C files and return them, with those of mypyc's own runtime."""
    from mypyc.build import mypycify

    found = compiled.modules(ROOT)
    os.chdir(ROOT.parent)  # tracebacks name files as they are passed
    names = [str(path.relative_to(ROOT.parent)) for path in found.values()]
    group = compiled.GROUP.removesuffix("__mypyc")
    made = mypycify([*_OPTIONS, *names], multi_file=True, target_dir=str(folder), group_name=group)
    library = next(one for one in made if one.name == compiled.GROUP)
    entries = folder / "entries.c"
    lines = [
        _ENTRY.format(full=name.replace(".", "___"), last=name.rpartition(".")[2]) for name in found
    ]
    entries.write_text("#include <Python.h>\n" + "".join(lines), encoding="utf-8")
    return [entries, *(folder / source for source in library.sources)]


def main() -> None:
    """Run the program."""
    import mypyc
    from mypy.version import __version__

    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    name = compiled.library_name(ROOT)
    made_by = [name, __version__, HERE.read_text(encoding="utf-8")]
    note, answer = folder / "made-by", folder / "answer"
    if not note.exists() or note.read_text(encoding="utf-8").split("\0") != made_by:
        note.unlink(missing_ok=True)
        with contextlib.redirect_stdout(sys.stderr):
            sources = generate(folder)
        runtime = Path(mypyc.__file__).parent / "lib-rt"
        answer.write_text("\n".join([name, str(runtime), *map(str, sources)]), encoding="utf-8")
        note.write_text("\0".join(made_by), encoding="utf-8")
    print(answer.read_text(encoding="utf-8").replace("\n", ";"), end="")


if __name__ == "__main__":
    main()
