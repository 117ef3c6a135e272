"""Fixtures of the tests against other WireGuard programs. They need root and skip without it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.interop.hosts import IMPLEMENTATIONS, REFERENCE, SUBJECT, Host, star


@pytest.fixture(autouse=True)
def _able() -> None:
    if os.geteuid():
        pytest.skip("needs root: network namespaces cannot be made")
    for name in (SUBJECT, REFERENCE):
        if not IMPLEMENTATIONS[name].program:
            pytest.skip(f"{name} is not installed")


@pytest.fixture
def pair(_able: None) -> Iterator[tuple[Host, Host]]:
    """tunneld and wireguard-go, not yet each other's peers."""
    with star(SUBJECT, REFERENCE) as (ours, theirs):
        yield ours, theirs
