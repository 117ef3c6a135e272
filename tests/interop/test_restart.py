"""Either side goes away and comes back with its key and nothing else."""

from __future__ import annotations

import pytest

from tests.interop.hosts import Host, connect

pytestmark = pytest.mark.root


@pytest.mark.parametrize("how", ["stopped", "killed"])
@pytest.mark.parametrize("who", ["ours", "theirs"])
def test_comes_back_and_calls(pair: tuple[Host, Host], who: str, how: str) -> None:
    ours, theirs = pair
    connect(ours, theirs, preshared=True)
    ours.reaches(theirs)
    gone, stays = (ours, theirs) if who == "ours" else (theirs, ours)
    gone.restart(kill=how == "killed")
    gone.add(stays, family=4)
    gone.reaches(stays)
    stays.reaches(gone)
    assert stays.pings(gone.inner6, 5) == 5


@pytest.mark.parametrize("who", ["ours", "theirs"])
def test_comes_back_and_is_called(pair: tuple[Host, Host], who: str) -> None:
    """The side that stayed must notice by itself that its session is no more (15 s)."""
    ours, theirs = pair
    gone, stays = (ours, theirs) if who == "ours" else (theirs, ours)
    connect(stays, gone)
    stays.reaches(gone)
    gone.restart(kill=True)
    gone.add(stays)
    stays.reaches(gone, within=40)


@pytest.mark.parametrize("who", ["ours", "theirs"])
def test_new_session_while_traffic_flows(pair: tuple[Host, Host], who: str) -> None:
    """A side that forgot its session handshakes anew; the other's live session gives way to it."""
    ours, theirs = pair
    forgets, stays = (ours, theirs) if who == "ours" else (theirs, ours)
    connect(ours, theirs, preshared=True)
    ours.reaches(theirs)
    for _ in range(3):
        forgets.remove(stays)
        forgets.add(stays, family=4)
        forgets.reaches(stays)
        assert forgets.pings(stays.inner, 10, interval=0.02) == 10
        assert stays.pings(forgets.inner6, 10, interval=0.02) == 10
