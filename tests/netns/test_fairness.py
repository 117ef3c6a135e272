"""One peer's flood does not starve another: pings and a TCP exchange get through beside it.

    host 1: the server ----- host 2: floods it
                       ----- host 3: pings and talks to it through its tunnel

Two floods: small packets through the flooder's own tunnel, as fast as they go, and datagrams of
its session that are forged, which are opened in vain.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from tests.interop.hosts import PORT, Host, connect, star
from tests.interop.speaker import Speaker
from tests.netns.burst import Burst
from tests.netns.echo import listening
from tools.compiled import compiled

pytestmark = [pytest.mark.root, pytest.mark.alone]

ROOT = Path(__file__).parent.parent.parent
ECHO, SINK = 7007, 7009
PINGS, ROUNDS = 100, 2  # each round has that many
LOST = 0.03  # of the pings, at most
EXCHANGED = 100_000  # bytes
SMALL = 64  # bytes of payload in a packet of the flood
FORGED = 200_000  # a second
MUCH = 10  # packets of the flood for each ping, at least, or it is none
Flood = Callable[[Host, Host], AbstractContextManager[str]]


@contextmanager
def through_the_tunnel(server: Host, flooder: Host) -> Iterator[str]:
    """Send small packets as fast as they go; the counter of those that were delivered."""
    connect(flooder, server)
    flooder.reaches(server)
    generator = compiled(ROOT / "bench/datagrams.c")
    with server.space.entered():
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sink:
        sink.bind((server.inner, SINK))
        words = [str(generator), "send", server.inner, str(SINK), "10000000", "600", str(SMALL)]
        sender = flooder.space.start(words)
        try:
            yield "rx_packets"
        finally:
            sender.kill()
            sender.wait()


@contextmanager
def forged(server: Host, flooder: Host) -> Iterator[str]:
    """Send data messages with wrong tags, one by one; the counter of those."""
    speaker = Speaker(b"\x09" * 32, server.public)
    server.set(f"peer {speaker.public} allowed-ips 10.77.0.9/32")
    with flooder.space.entered():
        outer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ended = threading.Event()

    def flood() -> None:
        burst, sent, start = Burst(), 0, time.monotonic()
        while not ended.wait(0.001):
            due = int((time.monotonic() - start) * FORGED) - sent
            sent += due  # what a stall holds up beyond a burst is not made up for
            burst.send(outer, messages[:due])

    with outer:
        outer.connect((server.outer(flooder), PORT))
        outer.settimeout(10)
        outer.send(speaker.initiation())
        speaker.accept(outer.recv(2048))
        messages = [speaker.seal(bytes(SMALL))[:-16] + os.urandom(16) for _ in range(1000)]
        thread = threading.Thread(target=flood)
        thread.start()
        try:
            yield "rx_auth_failed"
        finally:
            ended.set()
            thread.join()


def exchange(host: Host, server: Host) -> None:
    """Send bytes to the server's echo and take them back, every one."""
    data = os.urandom(EXCHANGED)
    with host.space.entered():
        one = socket.socket()
    with one:
        one.settimeout(20)
        one.connect((server.inner, ECHO))
        sender = threading.Thread(target=one.sendall, args=(data,))
        sender.start()
        answer = b""
        while len(answer) < len(data) and (part := one.recv(65536)):
            answer += part
        sender.join()
    assert answer == data


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Host]]:
    if os.geteuid():
        pytest.skip("needs root: network namespaces cannot be made")
    with star("tunneld", "tunneld", "tunneld") as made:
        server, _, host = made
        connect(host, server)
        host.reaches(server)
        with listening(server.space, ECHO, server.inner):
            yield made


@pytest.mark.parametrize("flood", [forged, through_the_tunnel])
def test_a_flood_leaves_room_for_others(hosts: list[Host], flood: Flood) -> None:
    server, flooder, host = hosts
    answers = 0
    with flood(server, flooder) as counter:
        came = [server.counters()[counter]]
        for _ in range(ROUNDS):
            answers += host.pings(server.inner, PINGS, interval=0.005)
            came.append(server.counters()[counter])
        exchange(host, server)
        came.append(server.counters()[counter])
    # The control: there was a flood beside every round, and beside the exchange.
    assert all(after - before > MUCH * PINGS for before, after in pairwise(came)), came
    assert answers >= ROUNDS * PINGS * (1 - LOST), f"{answers} answers beside {came}"
