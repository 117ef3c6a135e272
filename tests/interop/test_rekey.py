"""A session is replaced after 120 s, in real time, and no packet is lost by it.

Rekeys with an injected clock are in the device's own tests; new handshakes in the middle of
traffic in test_restart.py.
"""

from __future__ import annotations

import re

import pytest

from tests.interop.hosts import Host, connect

pytestmark = pytest.mark.root

SECONDS = 135


@pytest.mark.long
@pytest.mark.parametrize("role", ["initiator", "responder"])
def test_in_real_time(pair: tuple[Host, Host], role: str) -> None:
    ours, theirs = pair
    caller, called = (ours, theirs) if role == "initiator" else (theirs, ours)
    connect(caller, called, preshared=True)
    caller.reaches(called)
    first = {host.number: host.handshake(other) for host, other in ((ours, theirs), (theirs, ours))}
    done = caller.space.run(
        f"ping -n -c {SECONDS * 20} -i 0.05 -W 1 {called.inner6}", check=False, timeout=SECONDS * 2
    )
    lost = re.search(r"([\d.]+)% packet loss", done.stdout)
    assert lost, done.stdout[-500:]
    assert float(lost[1]) == 0
    for host, other in ((ours, theirs), (theirs, ours)):
        later = host.handshake(other) - first[host.number]
        assert 115 <= later <= 130, f"host {host.number}: a new handshake after {later} s"
