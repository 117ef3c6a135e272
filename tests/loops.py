"""Names for tests that run coroutines; the fixture `run` is in conftest.py."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

PATIENCE = 30  # seconds until a test that hangs is failed

Work = Coroutine[Any, Any, Any]
Runner = Callable[[Work], Any]
