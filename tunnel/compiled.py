"""Which form of the stack and the proxies runs: their Python, or what mypyc compiled from it.

The modules that every connection passes through, the stack's, its shell's and those of the proxies,
are typed throughout, and the build compiles them into one library beside the native core
(native/compile_netstack.py). Nothing else differs: the Python is complete, and it runs where

- `TUNNELD_PURE` is set, for the build (nothing is compiled) or for a program;
- there is no library for this interpreter (it is bound to one minor version of Python);
- a source is not what was compiled. The library has the hash of all sources in its name, so after
  an edit it is not found, and it cannot be stale. `tools/build` compiles anew.

All modules come from the library or none does: they know each other's memory layout. So a class
that is compiled has no subclass that is not, and arguments are of the types that they name. Nor
does anything wait (`await`) while it handles an exception, in `except` or `finally`: what mypyc
makes of it loses the exception, a cancellation too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from hashlib import blake2b
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Final

PURE: Final = "TUNNELD_PURE"
#: The library's own module: mypyc looks it up by this name.
GROUP: Final = "netstack__mypyc"
_FOLDERS: Final = ("netstack", "netstack/congestion", "netstack/aio", "proxy")
#: What no short connection passes through.
_AS_THEY_ARE: Final = frozenset(
    {
        "netstack/aio/bytestream", "netstack/aio/http", "netstack/aio/reserved",
        "netstack/aio/resolver", "netstack/aio/streams", "netstack/aio/tls",
        "proxy/associate", "proxy/bound", "proxy/credentials", "proxy/dialer", "proxy/udpforward",
    }
)  # fmt: skip


def sources(root: Path) -> list[Path]:
    """Return the files that count, in a fixed order; `root` is the package's folder."""
    return [path for folder in _FOLDERS for path in sorted((root / folder).glob("*.py"))]


def modules(root: Path) -> dict[str, Path]:
    """Return the modules to be compiled, by their full names."""
    names = {path.relative_to(root).with_suffix("").as_posix(): path for path in sources(root)}
    return {
        f"{root.name}/{name}".replace("/", "."): path
        for name, path in names.items()
        if path.stem != "__init__" and name not in _AS_THEY_ARE
    }


def library_name(root: Path) -> str:
    """Return the name of the library that is compiled from the sources as they are now."""
    seen = blake2b(digest_size=8)
    for path in sources(root):
        content = path.read_bytes()
        seen.update(f"{path.relative_to(root)} {len(content)}\n".encode())
        seen.update(content)
    return f"_netstack_{seen.hexdigest()}"


class _Finder:
    """Finds compiled modules, before their sources are found. Importing its ABC takes 12 ms."""

    def __init__(self, library: str, names: frozenset[str]) -> None:
        self.library = library
        self.names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where a module is, if it is ours."""
        if fullname not in self.names:
            return None
        return spec_from_file_location(
            fullname, self.library, loader=ExtensionFileLoader(fullname, self.library)
        )


def install() -> None:
    """Have the stack's modules imported compiled, where they can be."""
    root = Path(__file__).parent
    if os.environ.get(PURE) or is_compiled():
        return
    found = find_spec(f"{__package__}.{library_name(root)}")
    if found is None or found.origin is None:
        return
    library = found.origin
    spec = spec_from_file_location(GROUP, library, loader=ExtensionFileLoader(GROUP, library))
    assert spec is not None
    try:
        group = module_from_spec(spec)
    except ImportError:  # another machine's: what Python would say of it helps nobody
        return
    group.__file__ = str(root.parent / Path(library).name)  # modules name their files after it
    sys.modules[GROUP] = group
    sys.meta_path.insert(0, _Finder(library, frozenset(modules(root))))


def is_compiled() -> bool:
    """Whether the library is in use."""
    return GROUP in sys.modules
