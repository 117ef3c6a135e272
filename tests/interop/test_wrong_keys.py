"""Wrong keys never connect, and tunneld says why."""

from __future__ import annotations

import pytest

from tests.interop.hosts import Host, connect, eventually

pytestmark = pytest.mark.root


@pytest.fixture
def hosts(pair: tuple[Host, Host]) -> tuple[Host, Host]:
    if not pair[0].is_tunneld:
        pytest.skip("only tunneld counts by reason")
    return pair


def _never_connect(ours: Host, theirs: Host, counter: str, caller: Host) -> None:
    called = theirs if caller is ours else ours
    before = ours.counters()[counter]
    assert not caller.pings(called.inner)
    eventually(f"{counter} counted", lambda: ours.counters()[counter] > before)
    assert not ours.handshake(theirs)
    assert not theirs.handshake(ours)
    status = ours.ask("status")
    assert status["status"] == "connecting"
    assert status["status_reason"]
    assert [bool(peer["reason"]) for peer in status["peers"]] == [True] * len(status["peers"])


def test_unknown_initiator(hosts: tuple[Host, Host]) -> None:
    ours, theirs = hosts
    stranger = ours._wg("genkey")
    connect(theirs, ours)
    theirs.set("private-key /dev/stdin", stranger)
    _never_connect(ours, theirs, "handshake_unknown_peer", caller=theirs)


def test_initiation_for_another_key(hosts: tuple[Host, Host]) -> None:
    ours, theirs = hosts
    connect(theirs, ours)
    ours.set("private-key /dev/stdin", ours._wg("genkey"))
    _never_connect(ours, theirs, "rx_mac1_invalid", caller=theirs)


@pytest.mark.parametrize("role", ["initiator", "responder"])
def test_preshared_keys_differ(hosts: tuple[Host, Host], role: str) -> None:
    ours, theirs = hosts
    caller, called = (ours, theirs) if role == "initiator" else (theirs, ours)
    connect(caller, called, preshared=True)
    theirs.share(ours, theirs._wg("genpsk"))
    if role == "initiator":
        _never_connect(ours, theirs, "handshake_invalid", caller=ours)
    else:
        # The responder cannot tell: its response is refused at the other side. It must not
        # believe that there is a session.
        before = ours.counters()["rx_handshakes"]
        assert not theirs.pings(ours.inner)
        eventually("an initiation came", lambda: ours.counters()["rx_handshakes"] > before)
        assert not ours.handshake(theirs)
        assert not theirs.handshake(ours)
    # The right key mends it, with no restart.
    right = theirs._wg("genpsk")
    ours.share(theirs, right)
    theirs.share(ours, right)
    caller.reaches(called, within=15)
