"""Fixtures for all tests."""

from __future__ import annotations

import asyncio
import fcntl
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvloop

from tests import engine_lab
from tests.loops import PATIENCE, Runner, Work
from tunnel import engine

#: The facilities of kernel and processor that an engine can be made to do without.
FACILITIES = {
    "UDP_SEGMENT": engine.NO_UDP_SEGMENT,
    "UDP_GRO": engine.NO_UDP_GRO,
    "coalesced TCP": engine.NO_COALESCE_TCP,
    "coalesced UDP": engine.NO_COALESCE_UDP,
    "IFMA": engine.NO_IFMA,
    "AVX-512": engine.NO_AVX512,
    "vector instructions": engine.NO_AVX512 | engine.NO_AVX2,
}


# A shell's background job ignores it, and so would all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Keep other workers' tests (pytest-xdist) from running beside one that is marked `alone`."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    with _room(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@contextmanager
def _room(*, alone: bool) -> Iterator[None]:
    """Hold a lock that any number of tests may share, or one alone may have.

    Who waits for it alone keeps the gate shut, so that it comes about when those inside are done.
    """
    with open(engine_lab.__file__) as gate, open(__file__) as room:
        fcntl.flock(gate, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(room, fcntl.LOCK_UN)  # and not by closing: a child may have it open too


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the engine's data-path tests without each facility in turn, but for those about it.

    The short form runs them with everything and with nothing of it, the long form with all but
    one as well.
    """
    definition = metafunc.definition
    uses_engine = getattr(metafunc.module, "Lab", None) is engine_lab.Lab
    if not uses_engine or definition.get_closest_marker("datapath") is None:
        return
    shown = {name for mark in definition.iter_markers("shows") for name in mark.args}
    others = [name for name in FACILITIES if name not in shown]
    choices = [pytest.param((), id="with everything"), pytest.param(others, id="with nothing")]
    choices += [pytest.param([name], id=f"without {name}", marks=pytest.mark.long)
                for name in others]  # fmt: skip
    metafunc.fixturenames.append("without")
    metafunc.parametrize("without", choices, indirect=True)


@pytest.fixture
def without(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engines of this test do without some facilities."""
    flags = 0
    for name in request.param:
        flags |= FACILITIES[name]
    monkeypatch.setattr(engine_lab.Lab, "without", flags)


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    """Run a coroutine to its end, on either event loop; fail it when it hangs."""

    def runner(work: Work) -> object:
        return request.param(asyncio.wait_for(work, PATIENCE))

    return runner
