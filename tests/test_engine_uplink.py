"""A slow path: what waits for it, what passes that, and that every packet is accounted for.

    test <--seqpacket--> Engine <--seqpacket--> far end, which reads when the test wants it to

The socket connected to the peer is one end of a pair here, in which what the far end has not read
waits as packets wait for a slow line. Congestion is marked rather than dropped (ECT), so that no
packet is lost for having waited until a busy machine came to read it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.engine_lab import SECOND, WAIT, Lab, loopback_udp, udp
from tunnel._core import lib
from tunnel.engine import (
    LINK_VNET_HDR,
    NO_UDP_GRO,
    NO_UDP_SEGMENT,
    NO_UPLINK_QUEUE,
    EventKind,
    open_,
)
from tunnel.netstack.aio.hostedlink import HostedLink

NEAR, FAR = "10.0.0.1", "10.0.0.2"
ROOM = 212_992  # for SO_SNDBUF, which doubles it: more than may wait before a path counts as slow
MANY = 600  # packets, three times what has room
FEW = 160  # more than may wait, less than the far end's socket has room for
OTHERS, OTHER = 4, 16384  # packets, and bytes of each
ECT = 2
PLAIN = NO_UDP_SEGMENT | NO_UDP_GRO  # a pair knows nothing of these
KEEPALIVE = b""
# What becomes of a packet.
WAYS = ("tx_packets", "tx_queue_late", "tx_queue_overflow")


def bulk(number: int, *, ecn: int = ECT, port: int = 7) -> bytes:
    """Return a large packet with a number."""
    payload = struct.pack("!I", number) + bytes(1296)
    return udp(NEAR, FAR, payload, ports=(port, 9), ecn=ecn)


def word(number: int = 0) -> bytes:
    """Return a small packet of another flow."""
    return udp(NEAR, FAR, struct.pack("!I", number), ports=(99, 9))


class SlowPath:
    """An engine with a peer behind a path that takes what the test reads."""

    def __init__(self, flags: int = 0, link_flags: int = 0) -> None:
        self.lab = Lab(flags=PLAIN | flags, link_flags=link_flags)
        self.peer = self.lab.peer(f"{FAR}/32")
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
        self.far.settimeout(WAIT)
        self.end = replace(self.peer.endpoint, source=ip_address("127.0.0.1"))
        self.lab.engine.set_endpoint(self.peer.id, self.end)
        self.lab.engine.connect_outer(self.end, self.near.fileno())

    def close(self) -> None:
        self.lab.__exit__()
        self.near.close()
        self.far.close()

    def give(self, packets: list[bytes]) -> dict[str, int]:
        """Give packets to the engine; return its counters once it has read them all."""
        before = self.count("tx_units")
        for packet in packets:
            self.lab.link.send(packet)
        return self.until(lambda now: now.get("tx_units", 0) == before + len(packets))

    def count(self, *names: str) -> int:
        """Return a counter, or what several come to."""
        found = self.lab.counters()
        return sum(found.get(name, 0) for name in names)

    def until(self, reached: Callable[[dict[str, int]], bool]) -> dict[str, int]:
        """Return the counters once they are so."""
        end = time.monotonic() + WAIT
        while not reached(found := self.lab.counters()):
            assert time.monotonic() < end, found
        return found

    def settled(self, total: int, *names: str) -> dict[str, int]:
        """Return the counters once each packet has left or is among those with these names."""
        ways = (*WAYS, *names)
        return self.until(lambda now: sum(now.get(name, 0) for name in ways) == total)

    def read(self) -> bytes:
        """Return the next packet that left, without its padding."""
        return self.opened(self.far.recv(9999))

    def opened(self, datagram: bytes) -> bytes:
        kind, receiver, counter = struct.unpack_from("<IIQ", datagram)
        assert kind == 4
        packet = open_(self.peer.sessions[receiver].to_far, counter, datagram[16:])
        return packet[: int.from_bytes(packet[2:4], "big")]

    def read_all(self, total: int, *names: str) -> list[bytes]:
        """Read until the engine has nothing more; return what came."""
        found: list[bytes] = []
        end = time.monotonic() + WAIT
        while self.count(*WAYS, *names) < total:
            assert time.monotonic() < end
            found += self.read_waiting()
        return found + self.read_waiting()

    def read_waiting(self) -> list[bytes]:
        """Read what the engine has sent."""
        found = []
        while select.select([self.far], [], [], 0)[0]:
            found.append(self.read())
        return found


@pytest.fixture
def slow() -> Iterator[SlowPath]:
    with contextlib.closing(SlowPath()) as one:
        yield one


def numbers(packets: list[bytes]) -> list[int]:
    return [struct.unpack_from("!I", packet, 28)[0] for packet in packets]


def filled(slow: SlowPath, count: int = MANY) -> dict[str, int]:
    """Let packets wait: some in the socket, more behind it."""
    found = slow.give([bulk(number) for number in range(count)])
    assert 0 < found["tx_packets"] < count
    assert found["tx_packets"] + found["tx_queued"] == count
    assert "tx_outer_busy" not in found
    return found


def test_what_is_held_back_leaves_in_order_once_the_far_end_reads(slow: SlowPath) -> None:
    filled(slow)
    found = slow.read_all(MANY)
    after = slow.lab.counters()
    assert numbers(found) == sorted(set(numbers(found)))
    assert len(found) == after["tx_packets"]
    assert after["tx_packets"] == MANY - sum(after.get(name, 0) for name in WAYS[1:])
    assert "tx_queue_overflow" not in after
    assert all(packet[1] & 3 for packet in found)
    # And then a packet passes as ever.
    slow.lab.link.send(bulk(MANY))
    assert numbers([slow.read()]) == [MANY]


def test_another_flow_passes(slow: SlowPath) -> None:
    sent = filled(slow)["tx_packets"]
    slow.give([word()])
    found = slow.read_all(MANY + 1)
    # A flow that begins may send a quantum, and room for a packet may have come since.
    assert found.index(word()) < sent + 10
    assert len(found) > sent + 100


def test_without_the_queue_nothing_waits_here() -> None:
    with contextlib.closing(SlowPath(NO_UPLINK_QUEUE)) as slow:
        found = slow.give([bulk(number) for number in range(MANY)])
        assert found["tx_outer_busy"] == MANY - found["tx_packets"] > 0
        assert not [name for name in found if name.startswith("tx_queue")]
        assert numbers(slow.read_waiting()) == list(range(found["tx_packets"]))


def test_too_much_and_too_old(slow: SlowPath) -> None:
    total = 4000  # more than four megabytes
    found = slow.give([bulk(number) for number in range(total)])
    sent, dropped = found["tx_packets"], found["tx_queue_overflow"]
    assert 4 << 20 >= (total - sent - dropped) * 1328 > 2 << 20
    slow.lab.engine.advance_clock(4 * SECOND)
    after = slow.settled(total)
    assert after["tx_queue_late"] > 1000
    assert numbers(slow.read_waiting()) == list(range(after["tx_packets"]))
    slow.lab.link.send(bulk(total))
    assert numbers([slow.read()]) == [total]


def test_one_flow_that_is_too_much_costs_no_other(slow: SlowPath) -> None:
    filled(slow)
    words = [word(number) for number in range(50)]
    slow.give(words)
    slow.give([bulk(number) for number in range(MANY, 4500)])
    assert slow.count("tx_queue_overflow") > 0
    found = slow.read_all(4500 + len(words))
    if not slow.count("tx_queue_late", "tx_outer_busy"):
        assert [packet for packet in found if packet in words] == words
    assert len(found) == slow.count("tx_packets")


def test_a_peer_that_is_removed_while_its_packets_wait(slow: SlowPath) -> None:
    filled(slow)
    slow.lab.engine.remove_peer(slow.peer.id)
    found = slow.read_waiting()
    after = slow.settled(MANY, "tx_no_peer")
    assert numbers(found) == list(range(after["tx_packets"]))
    assert after["tx_no_peer"] > 0


def test_a_key_that_goes_while_packets_wait(slow: SlowPath) -> None:
    """They wait for the next one then, as others do, and leave before what comes later."""
    filled(slow)
    slow.lab.engine.erase_keys(slow.peer.id)
    slow.lab.events()
    sent = slow.read_waiting()
    after = slow.settled(MANY, "tx_staged")
    assert numbers(sent) == list(range(after["tx_packets"]))
    assert EventKind.HANDSHAKE_NEEDED in slow.lab.events()
    left = after["tx_staged"] - after["tx_stage_overflow"]
    slow.give([word()])
    slow.peer.install()
    slow.lab.engine.flush(slow.peer.id)
    found = [slow.read() for _ in range(left)]  # the oldest made room for the word
    assert found[-1] == word()
    assert numbers(found[:-1]) == list(range(MANY - left + 1, MANY))


def test_a_path_that_goes_while_packets_wait(slow: SlowPath) -> None:
    filled(slow)
    slow.lab.engine.detach_outer(0)
    after = slow.settled(MANY, "tx_no_socket")
    assert numbers(slow.read_waiting()) == list(range(after["tx_packets"]))
    slow.lab.engine.attach_outer(0, 0, slow.lab.outer4.fileno(), -1)
    slow.lab.link.send(bulk(MANY))
    assert numbers([slow.opened(slow.peer.socket.recv(9999))]) == [MANY]


def test_sockets_that_are_others_while_packets_wait(slow: SlowPath) -> None:
    """They leave by the new ones, without waiting for the old."""
    slow.peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
    filled(slow, FEW)
    slow.lab.engine.connect_outer(slow.end, -1)
    sent = slow.settled(FEW)["tx_packets"]
    found = slow.read_waiting()
    assert len(found) < FEW
    found += [slow.opened(slow.peer.socket.recv(9999)) for _ in range(sent - len(found))]
    assert numbers(found) == list(range(FEW))


def test_a_peer_that_moves_to_another_path_while_its_packets_wait(slow: SlowPath) -> None:
    slow.peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
    filled(slow, FEW)
    with loopback_udp() as other:
        slow.lab.engine.attach_outer(0, 1, other.fileno(), -1)
        slow.lab.engine.set_endpoint(slow.peer.id, replace(slow.end, path=1))
        slow.lab.link.send(word())  # nothing waits there
        assert slow.opened(slow.peer.socket.recv(9999)) == word()
        found = slow.read_waiting()
        assert len(found) < FEW
        sent = slow.settled(FEW + 1)["tx_packets"] - 1
        found += [slow.opened(slow.peer.socket.recv(9999)) for _ in range(sent - len(found))]
        assert numbers(found) == list(range(FEW))
        slow.lab.engine.detach_outer(1)


def test_keepalives_and_handshakes_pass(slow: SlowPath) -> None:
    sent = filled(slow)["tx_packets"]
    assert slow.lab.engine.flush(slow.peer.id)
    assert slow.lab.engine.send_to_peer(slow.peer.id, b"\x01\0\0\0" + bytes(144))
    found = [len(slow.far.recv(9999)) for _ in range(sent + 10)]
    assert found.index(148) > found.index(32) > 0
    assert slow.count("tx_keepalives") == 1


def test_a_host_gives_the_turns_back_and_its_packets_leave() -> None:
    with contextlib.closing(SlowPath(link_flags=LINK_VNET_HDR)) as slow:
        lab = slow.lab
        link = HostedLink(lab.link.fileno(), LINK_VNET_HDR, lab.engine)
        with contextlib.closing(link):
            until_hosting(slow, link)
            lab.engine.set_endpoint(slow.peer.id, slow.end)  # it was heard by another socket
            for _ in range(OTHERS):  # what others had sent by the same socket
                slow.near.send(bytes(OTHER))
            given = 0
            while lib.tc_host_keep(lab.engine.handle, 1):  # until the path is found slow
                assert given < MANY
                packet = bulk(given)
                assert link.write([(bytearray(packet[:28]), memoryview(packet)[28:], 0, 20, 6)])
                given += 1
            assert slow.count("tx_queued") == 1
            assert slow.count("tx_outer_busy") == 0
            found = [slow.far.recv(99999) for _ in range(OTHERS + given)]
            assert numbers([slow.opened(one) for one in found[OTHERS:]]) == list(range(given))


def until_hosting(slow: SlowPath, link: HostedLink) -> None:
    """Have a dialogue until the calling thread has the worker's turns."""
    for _ in range(MANY):
        slow.peer.send(udp(FAR, NEAR, b"thin"))
        while not link.read():
            assert select.select([link.readable_fd], [], [], WAIT)[0]
        if lib.tc_host_keep(slow.lab.engine.handle, 1):
            return
    raise AssertionError("no turns")


# ---- what waits for a key ----


def test_what_waited_too_long_for_a_key_is_dropped() -> None:
    with Lab() as lab:
        peer = lab.peer(f"{FAR}/32", install=False)
        for number in range(3):
            lab.link.send(word(number))
            while lab.counters().get("tx_staged", 0) <= number:
                pass
            lab.engine.advance_clock(6 * SECOND)
        peer.install()
        assert lab.engine.flush(peer.id)
        assert peer.receive().packet[: len(word())] == word(1)
        assert peer.receive().packet[: len(word())] == word(2)
        assert lab.counters()["tx_stage_dropped"] == 1


def test_a_key_is_heard_of_though_nothing_waits_for_it_any_more() -> None:
    with Lab() as lab:
        peer = lab.peer(f"{FAR}/32", install=False)
        lab.link.send(word())
        lab.wait_event(EventKind.HANDSHAKE_NEEDED)
        lab.engine.advance_clock(16 * SECOND)
        peer.install()
        assert lab.engine.flush(peer.id)
        assert peer.receive().packet == KEEPALIVE
        assert "tx_packets" not in lab.counters()
