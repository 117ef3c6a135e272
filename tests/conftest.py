"""Fixtures for all tests."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from tests.loops import PATIENCE, Runner, Work


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    """Run a coroutine to its end, on either event loop; fail it when it hangs."""

    def runner(work: Work) -> object:
        return request.param(asyncio.wait_for(work, PATIENCE))

    return runner
