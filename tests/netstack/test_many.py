"""Many short connections, one after the other in virtual time: nothing of them stays.

What is counted are the interpreter's blocks of memory, which are exact and cost nothing to count.
"""

from __future__ import annotations

import gc
import sys

import pytest

from tests.netstack.wire import FAR, MS, NEAR, SECOND, packed
from tunnel.netstack.endpoint import EventKind
from tunnel.netstack.stack import Stack
from tunnel.netstack.tcpsocket import Place, TcpSocket
from tunnel.netstack.timewait import MOST

A_FEW = 400  # blocks: free lists and tables that grew by a step


class Pair:
    """Two stacks that hand each other packets."""

    def __init__(self) -> None:
        self.now = SECOND
        self.near = Stack(packed(NEAR), 1420, secret=bytes(64))
        self.far = Stack(packed(FAR), 1420, secret=bytes(range(64)))
        self.far.listen(None, 80)
        self.server = Place(self.far.addresses[0], 80)

    def exchange(self) -> list[TcpSocket]:
        """Carry packets until both are silent; return the connections that were accepted."""
        one, other, quiet = self.near, self.far, 0
        while quiet < 2:
            packets = one.packets_to_send(self.now)
            for out in packets:
                whole = memoryview(bytes(out.header) + bytes(out.payload))
                other.receive(whole, self.now, out.segment)
            quiet = 0 if packets else quiet + 1
            one, other = other, one
        self.near.take_events()
        events = self.far.take_events()
        return [socket for socket, event in events if event.kind is EventKind.ESTABLISHED]

    def live(self, end: str) -> None:
        """One connection: a byte each way, then its end, in one of four ways."""
        client = self.near.connect(self.server, self.now)
        (server,) = self.exchange()
        client.write(b"x")
        self.exchange()
        server.write(server.read(10))
        self.exchange()
        assert client.read(10) == b"x"
        first, second = (server, client) if end == "far first" else (client, server)
        if end == "reset":
            client.abort(self.now)
        elif end == "both at once":
            client.close(self.now)
        else:
            first.close(self.now)
            self.exchange()
        second.close(self.now)
        self.exchange()

    def pass_time(self, nanoseconds: int) -> None:
        self.now += nanoseconds
        for stack in (self.near, self.far):
            stack.handle_timeout(self.now)
        self.exchange()

    def many(self, count: int) -> int:
        """Let many live, and TIME-WAIT end; return how many blocks of memory are in use then."""
        ends = ("near first", "far first", "both at once", "reset")
        for number in range(count):
            self.live(ends[number % 4])
            if number % 8 == 0:
                self.pass_time(MS)
            assert len(self.near.tcp.time_wait) <= MOST
        self.pass_time(120 * SECOND)
        for stack in (self.near, self.far):
            assert not stack.tcp.sockets
            assert not len(stack.tcp.time_wait)
        gc.collect()
        return sys.getallocatedblocks()


def growth(count: int) -> int:
    pair = Pair()
    before = pair.many(count // 4)
    return pair.many(count - count // 4) - before


def test_short_connections_leave_nothing() -> None:
    assert growth(1200) < A_FEW


@pytest.mark.long
def test_a_hundred_thousand_short_connections_leave_nothing() -> None:
    assert growth(100_000) < A_FEW


def test_the_detector_sees_what_stays() -> None:
    """The control: a stack that kept one small object a connection would fail."""
    pair, kept = Pair(), []
    before = pair.many(100)
    for _ in range(5):
        kept.append([object() for _ in range(100)])
        after = pair.many(100)
    assert after - before > A_FEW
