"""What tools/mutants found that no other test of the engine would have noticed."""

from __future__ import annotations

import re
from pathlib import Path

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


def test_macs_and_keys_are_compared_in_constant_time() -> None:
    """No run can show it, so the sources do: how long a comparison takes must tell nothing."""
    root = Path(__file__).resolve().parent.parent
    macs = (root / "native" / "src" / "mac.c").read_text()
    assert len(re.findall(r"CRYPTO_memcmp\(", macs)) == 2
    assert not re.search(r"(?<!CRYPTO_)memcmp\(", macs)
    secret = (root / "tunnel" / "secret.py").read_text()
    assert "return isinstance(other, Secret) and hmac.compare_digest(" in secret
