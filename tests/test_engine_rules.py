"""What tools/mutants found that no other test of the engine would have noticed."""

from __future__ import annotations

import pytest

from tests.engine_lab import Lab, handshake, keyed_mac

pytestmark = pytest.mark.datapath


def test_without_a_private_key_no_key_makes_a_valid_mac1() -> None:
    """Neither the old one, nor the zeros that are in its place."""
    public = bytes(range(32))
    with Lab() as lab:
        peer = lab.peer()
        lab.engine.set_identity(public)
        lab.engine.set_identity(None)
        stale = handshake(1, public)
        peer.raw(stale)
        peer.raw(stale[:-32] + keyed_mac(bytes(32), stale[:-32]) + bytes(16))
        while lab.counters().get("rx_datagrams", 0) < 2:
            pass
        assert lab.counters()["rx_mac1_invalid"] == 2
        assert lab.events() == []
