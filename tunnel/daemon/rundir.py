"""Where the control sockets of running tunnels are."""

from __future__ import annotations

import os
from pathlib import Path


def run_directory() -> Path:
    """Return /run/tunneld, or without root the user's own place for such things."""
    if not os.geteuid():
        return Path("/run/tunneld")
    own = os.environ.get("XDG_RUNTIME_DIR")
    return Path(own, "tunneld") if own else Path(f"/tmp/tunneld-{os.geteuid()}")
