"""Keys change under a live session: after 120 s in real time, and by `wg set`.

Rekeys with an injected clock are in the device's own tests; new handshakes in the middle of
traffic in test_restart.py.
"""

from __future__ import annotations

import re
import subprocess

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


@pytest.mark.parametrize("who", ["ours", "theirs"])
def test_preshared_key_changes(pair: tuple[Host, Host], who: str) -> None:
    """The live session goes on, though the keys no longer agree; the next handshake needs both."""
    ours, theirs = pair
    changes, stays = (ours, theirs) if who == "ours" else (theirs, ours)
    connect(ours, theirs, preshared=True)
    ours.reaches(theirs)
    session = ours.handshake(theirs)
    key = new_key("genpsk")
    changes.share(stays, key)
    assert changes.pings(stays.inner, 5) == 5
    assert stays.pings(changes.inner6, 5) == 5
    assert ours.handshake(theirs) == session
    stays.share(changes, key)
    stays.remove(changes)
    stays.add(changes, family=4)
    stays.reaches(changes)
    assert changes.pings(stays.inner, 5) == 5


@pytest.mark.parametrize("who", ["ours", "theirs"])
def test_private_key_changes(pair: tuple[Host, Host], who: str) -> None:
    """The session ends with the key that it was made with."""
    ours, theirs = pair
    changes, stays = (ours, theirs) if who == "ours" else (theirs, ours)
    connect(ours, theirs)
    ours.reaches(theirs)
    old = changes.public
    changes.take_key(new_key("genkey"))
    assert not changes.pings(stays.inner)
    assert not stays.pings(changes.inner)
    stays.set(f"peer {old} remove")
    stays.add(changes, family=4)
    stays.reaches(changes)
    changes.reaches(stays)


def new_key(kind: str) -> str:
    return subprocess.run(["wg", kind], capture_output=True, text=True, check=True).stdout.strip()
