"""A slow uplink: what waits for it waits in turn by flows, and senders are told to slow down."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time

import pytest

from tests.netns.command import tunnelctl
from tests.netns.world import INNER, World

pytestmark = pytest.mark.root

SINK = 7009
WAIT = 20.0  # seconds until a test that waits for something gives up
FLOOD, SIZE = 600, 1300  # datagrams, and bytes of each: three times what a socket may take at once
WORD = b"a word"
WITHOUT = ("--without", "uplink-queue")


@pytest.fixture
def slow(world: World) -> World:
    """Give cellular 16 Mbit/s, and a queue of a second below it."""
    world.client.run("tc qdisc add dev wwan0 root tbf rate 16mbit burst 6000 limit 2000000")
    return world


def arrivals(world: World) -> list[bytes]:
    """Return what comes out at the far end: a flood, and a word of another flow behind it."""
    found: list[bytes] = []
    with world.server.entered():
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sink:
        sink.bind((INNER, SINK))
        sink.settimeout(WAIT)
        with world.client.entered():
            flood, word = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        with flood, word:
            for number in range(FLOOD):
                flood.sendto(b"%06d" % number + bytes(SIZE), (INNER, SINK))
            word.sendto(WORD, (INNER, SINK))
        last = {b"%06d" % (FLOOD - 1), WORD}
        while last:
            found.append(sink.recv(SIZE + 6)[:6])
            last.discard(found[-1])
    return found


def counters(world: World) -> dict[str, int]:
    found: dict[str, int] = tunnelctl(world.client, "stats", world.interface)["counters"]
    return found


@pytest.mark.parametrize(("arguments", "passes"), [((), True), (WITHOUT, False)])
def test_a_word_passes_a_flood(slow: World, arguments: tuple[str, ...], passes: bool) -> None:
    tunneld = slow.start("--bind", "cellular", *arguments)
    tunneld.expect("connected")
    found = arrivals(slow)
    behind = found[found.index(WORD) + 1 :]
    assert (len(behind) > FLOOD / 10) == passes
    flood = [one for one in found if one != WORD]
    assert flood == sorted(flood)
    after = counters(slow)
    assert (after["tx_queued"] > 0) == passes
    assert len(flood) == FLOOD - after["tx_queue_late"]
    assert after["tx_queue_overflow"] == after["tx_outer_busy"] == 0
    assert tunneld.end() == 0


@pytest.mark.parametrize("ecn", [False, True])
def test_senders_are_told(slow: World, ecn: bool) -> None:
    """By a mark where they understand it, else by a loss."""
    for space in (slow.client, slow.server):
        space.sysctl("net.ipv4.tcp_ecn", int(ecn))
    tunneld = slow.start("--bind", "cellular")
    tunneld.expect("connected")
    told, other = ("tx_queue_marked", "tx_queue_late")[:: 1 if ecn else -1]
    with slow.server.entered():
        server = socket.create_server((INNER, SINK))
    with slow.client.entered():
        client = socket.create_connection((INNER, SINK), timeout=WAIT)
    with server, client, server.accept()[0] as taker:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        sent, taken, end = hashlib.sha256(), hashlib.sha256(), time.monotonic() + WAIT

        def take() -> None:
            while data := taker.recv(1 << 16):
                taken.update(data)

        taking = threading.Thread(target=take)
        taking.start()
        while not counters(slow)[told]:
            assert time.monotonic() < end, f"{told} is 0"
            data = random.randbytes(1 << 19)
            client.sendall(data)
            sent.update(data)
        client.shutdown(socket.SHUT_WR)
        taking.join(WAIT)
    assert taken.digest() == sent.digest()
    assert counters(slow)[other] == 0
    assert tunneld.end() == 0
