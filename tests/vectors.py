"""Where the public test vectors are. They are not part of this repository."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest


def vectors_dir() -> Path:
    """Return the folder of vectors; skips the test where there is none."""
    root = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("TUNNELD_VECTORS", root.parent / "shared" / "vectors"))
    if not folder.is_dir():
        pytest.skip(f"no test vectors at {folder}; TUNNELD_VECTORS names the folder")
    return folder


def load_vectors(name: str) -> Any:
    """Return a JSON file of vectors."""
    return json.loads((vectors_dir() / name).read_text(encoding="utf-8"))
