"""C programs that tools and benchmarks compile when they need them, with the system's compiler.

Packet paths that Python would slow down are small C files beside their module. What is built lives
in a folder of this process, so that nothing is left and nothing is stale.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

_FLAGS = ("-std=gnu11", "-O2")


class CompileError(RuntimeError):
    """The system has no compiler, or it refused the source."""


@functools.cache
def compiled(*sources: Path, shared: bool = False) -> Path:
    """Compile C files, once, to a program or a shared library named as the first of them.

    Raises CompileError.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise CompileError("no C compiler; `tools/packages --install build` installs one")
    result = Path(_folder().name) / (sources[0].stem + (".so" if shared else ""))
    kind = ("-shared", "-fPIC") if shared else ()
    words = [compiler, *_FLAGS, *kind, "-o", str(result), *map(str, sources), "-lm"]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise CompileError(f"{sources[0].name}: the compiler refused it\n{done.stderr}")
    return result


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="compiled-")
