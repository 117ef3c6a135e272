"""Several peers at once: tunneld in the middle of two wireguard-go that reach each other by it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.interop import transfer
from tests.interop.hosts import REFERENCE, SUBJECT, Host, connect, eventually, star

pytestmark = pytest.mark.root

EXTRA = "10.78.0.1"  # an address that both spokes have, and that one of them is allowed


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host, Host]]:
    with star(SUBJECT, REFERENCE, REFERENCE) as (middle, left, right):
        middle.space.sysctl("net.ipv4.ip_forward", 1)
        middle.space.sysctl("net.ipv6.conf.all.forwarding", 1)
        for spoke in (left, right):
            connect(spoke, middle, preshared=spoke is right)
            # Everything in the tunnel lies behind the middle.
            spoke.set(f"peer {middle.public} allowed-ips 10.77.0.0/24,fd77::/64")
            spoke.space.ip(f"addr add {EXTRA}/32 dev lo")
            spoke.reaches(middle)
        yield middle, left, right


def test_reach_each_other_through_the_middle(hosts: tuple[Host, Host, Host]) -> None:
    middle, left, right = hosts
    left.reaches(right)
    right.reaches(left, left.inner6)
    assert middle.handshake(left)
    assert middle.handshake(right)
    jobs = [
        (left, right, right.inner),
        (right, left, left.inner6),
        (left, middle, middle.inner6),
        (middle, right, right.inner),
    ]
    # One by one: which namespace a socket is made in is the calling thread's.
    for sender, receiver, address in jobs:
        moved = transfer.tcp(sender.space, receiver.space, address, 4 << 20)
        assert moved.received == moved.sent
    # And at once, where packets of both peers meet in one batch.
    with ThreadPoolExecutor() as threads:
        counts = threads.map(lambda job: job[0].pings(job[2], 50, interval=0.02), jobs)
        assert list(counts) == [50] * len(jobs)


def test_allowed_ips_move(hosts: tuple[Host, Host, Host]) -> None:
    """`wg set` gives an address to another peer: packets follow, and the first may not use it."""
    middle, left, right = hosts
    middle.space.ip(f"route add {EXTRA}/32 dev {middle.interface}")

    def owners() -> dict[str, bool]:
        shown = dict(line.split("\t") for line in middle.show("allowed-ips").splitlines())
        return {name: f"{EXTRA}/32" in shown[host.public].split()
                for name, host in (("left", left), ("right", right))}  # fmt: skip

    def give(host: Host) -> None:
        nets = f"{host.inner}/32,{host.inner6}/128,{EXTRA}/32"
        middle.set(f"peer {host.public} allowed-ips {nets}")

    def answers_from(host: Host, other: Host) -> bool:
        """Whether pings to the shared address reach `host` and not `other`."""
        before = middle.sent(host), middle.sent(other)
        assert middle.pings(EXTRA, 5) == 5
        return middle.sent(host) > before[0] and middle.sent(other) == before[1]

    give(left)
    assert owners() == {"left": True, "right": False}
    assert answers_from(left, right)
    give(right)
    assert owners() == {"left": False, "right": True}
    assert answers_from(right, left)
    # What left now sends from that address is not right's to be mistaken for.
    before = middle.counters()["rx_source_refused"] if middle.is_tunneld else 0
    left.space.run(f"ping -n -c 3 -i 0.2 -W 1 -I {EXTRA} {middle.inner}", check=False)
    if middle.is_tunneld:
        assert middle.counters()["rx_source_refused"] == before + 3
    assert left.pings(middle.inner, 3) == 3
    # Taken from everybody: no route in the tunnel.
    for host in (left, right):
        middle.set(f"peer {host.public} allowed-ips {host.inner}/32,{host.inner6}/128")
    assert not middle.pings(EXTRA)
    if middle.is_tunneld:
        assert middle.counters()["tx_no_peer"] > 0


def test_one_peer_leaves_the_others_alone(hosts: tuple[Host, Host, Host]) -> None:
    middle, left, right = hosts
    middle.remove(left)
    assert not left.pings(middle.inner)
    assert right.pings(middle.inner, 5) == 5
    middle.add(left)
    left.remove(middle)
    connect(left, middle)
    eventually("left is back", lambda: left.pings(middle.inner))
    assert right.pings(middle.inner6, 5) == 5
