"""tunneld and wireguard-go find each other: both roles, both families, with and without PSK."""

from __future__ import annotations

import pytest

from tests.interop.hosts import Host, connect, eventually

pytestmark = pytest.mark.root


@pytest.mark.parametrize("preshared", [False, True], ids=["no psk", "psk"])
@pytest.mark.parametrize("family", [4, 6], ids=["over IPv4", "over IPv6"])
@pytest.mark.parametrize("role", ["initiator", "responder"])
def test_first_contact(pair: tuple[Host, Host], role: str, family: int, preshared: bool) -> None:
    ours, theirs = pair
    caller, called = (ours, theirs) if role == "initiator" else (theirs, ours)
    connect(caller, called, family=family, preshared=preshared)
    assert not caller.handshake(called)
    caller.reaches(called)
    caller.reaches(called, called.inner6)
    called.reaches(caller)
    called.reaches(caller, caller.inner6)
    address = caller.outer(called, family)
    shown = address if family == 4 else f"[{address}]"
    assert called.endpoint(caller) == f"{shown}:{caller.port}"
    for one, other in ((ours, theirs), (theirs, ours)):
        assert one.handshake(other)
        assert one.received(other) > 0
        assert one.sent(other) > 0


def test_both_call_at_once(pair: tuple[Host, Host]) -> None:
    ours, theirs = pair
    for one, other in ((ours, theirs), (theirs, ours)):
        one.add(other, "persistent-keepalive 1", family=4)
    for one, other in ((ours, theirs), (theirs, ours)):
        eventually("handshake", lambda one=one, other=other: one.handshake(other))  # type: ignore[misc]
        one.reaches(other)
        # Whatever the two handshakes did to each other, what is there now carries every packet.
        assert one.pings(other.inner, 20, interval=0.02) == 20


@pytest.mark.parametrize("role", ["ours", "theirs"])
def test_persistent_keepalive(pair: tuple[Host, Host], role: str) -> None:
    """Without any traffic: a handshake at once, then a message each second."""
    ours, theirs = pair
    caller, called = (ours, theirs) if role == "ours" else (theirs, ours)
    connect(caller, called, extra="persistent-keepalive 1")
    eventually("handshake", lambda: called.handshake(caller))
    at_first = called.received(caller)
    # A keepalive is 32 bytes: three of them.
    eventually("keepalives", lambda: called.received(caller) >= at_first + 3 * 32)
    caller.set(f"peer {called.public} persistent-keepalive off")
    assert called.pings(caller.inner, 3) == 3
