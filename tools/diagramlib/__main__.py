"""Writes docs/states.md and the figure in README.md anew: see tools/diagrams."""

from __future__ import annotations

import sys

from tools.diagramlib.document import TARGETS


def main() -> int:
    """Write what is stale, or with --check only name it; exit code 1 says that something was."""
    stale = [target for target in TARGETS if target.is_stale()]
    for target in stale:
        print(f"{target.path.name} {'is stale' if '--check' in sys.argv else 'written'}")
        if "--check" not in sys.argv:
            target.write()
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
