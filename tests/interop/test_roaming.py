"""A peer's port or address changes: the other follows the next authenticated packet."""

from __future__ import annotations

import pytest

from tests.interop.hosts import REFERENCE, Host, connect

pytestmark = pytest.mark.root

ROLES = pytest.mark.parametrize("who", ["ours moves", "theirs moves"])


def _moving(pair: tuple[Host, Host], who: str) -> tuple[Host, Host]:
    ours, theirs = pair
    mover, follower = (ours, theirs) if who == "ours moves" else (theirs, ours)
    connect(mover, follower)
    mover.reaches(follower)
    return mover, follower


@ROLES
def test_port(pair: tuple[Host, Host], who: str) -> None:
    mover, follower = _moving(pair, who)
    session = follower.handshake(mover)
    for port in (40001, 40002):
        mover.set(f"listen-port {port}")
        assert mover.pings(follower.inner, 3) >= 2
        assert follower.endpoint(mover) == f"{mover.outer(follower)}:{port}"
        assert follower.pings(mover.inner6, 3) == 3
    assert follower.handshake(mover) == session, "a move needs no new handshake"


@ROLES
@pytest.mark.parametrize("family", [4, 6])
def test_address(pair: tuple[Host, Host], who: str, family: int) -> None:
    mover, follower = _moving(pair, who)
    wire = max(mover.number, follower.number)
    device = f"e{wire}" if mover.number == 1 else "e0"
    old, new = mover.outer(follower), f"10.99.{wire}.9"
    if family == 6:
        mover.add(follower, family=6)
        mover.reaches(follower)
        old, new = mover.outer(follower, 6), f"fd99:{wire}::9"
        mover.space.ip(f"-6 addr del {old}/64 dev {device}")
        mover.space.ip(f"-6 addr add {new}/64 dev {device} nodad")
    else:
        mover.space.ip(f"addr del {old}/24 dev {device}")
        mover.space.ip(f"addr add {new}/24 dev {device}")
    if mover.daemon.implementation.name == REFERENCE:
        # It clings to the local address that it sent from until it is told an endpoint anew.
        mover.add(follower, family=family)
    mover.reaches(follower)
    shown = new if family == 4 else f"[{new}]"
    assert follower.endpoint(mover) == f"{shown}:{mover.port}"
    assert follower.pings(mover.inner, 3) == 3
    assert mover.pings(follower.inner6, 3) == 3
