"""A connected socket beside the others: what leaves by it, what does not, and what is never lost.

It has a port of its own here, so that the far end sees which socket a datagram came from.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.engine_lab import FarPeer, Lab, loopback_udp, udp
from tunnel.engine import Endpoint, Engine, EngineError, EventKind

NEAR, FAR, OTHER = "10.0.0.1", "10.0.0.2", "10.0.0.3"
PACKET = udp(NEAR, FAR, b"out")


@contextlib.contextmanager
def connected(address: str = "127.0.0.1") -> Iterator[tuple[Lab, FarPeer, Endpoint, socket.socket]]:
    """A peer that is settled, and the socket that is connected to it."""
    with Lab() as lab, loopback_udp(address) as one:
        peer = lab.peer("10.0.0.2/32", address=address)
        one.connect(peer.socket.getsockname())
        end = replace(peer.endpoint, source=ip_address(address))
        lab.engine.set_endpoint(peer.id, end)
        lab.engine.connect_outer(end, one.fileno())
        yield lab, peer, end, one


def came_from(peer: FarPeer) -> int:
    port = peer.socket.recvfrom(9999)[1][1]
    assert isinstance(port, int)
    return port


def port_of(one: socket.socket) -> int:
    port = one.getsockname()[1]
    assert isinstance(port, int)
    return port


@pytest.mark.datapath
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_packets_for_a_settled_peer_leave_by_it_and_its_own_are_heard(address: str) -> None:
    with connected(address) as (lab, peer, end, one):
        lab.link.send(PACKET)
        assert came_from(peer) == port_of(one)
        back = udp(FAR, NEAR, b"back")
        peer.socket.sendto(peer.message(back), one.getsockname())
        assert lab.read() == back
        assert lab.counters()["tx_connected"] == 1
        assert lab.engine.peer_info(peer.id).endpoint == end  # with our address, as before
        assert EventKind.ENDPOINT not in lab.events()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_ecn_is_kept(address: str) -> None:
    with connected(address) as (lab, peer, _, _one):
        lab.link.send(udp(NEAR, FAR, b"marked", ecn=1))
        assert peer.receive().ds & 3 == 1


def test_a_peer_that_roams_leaves_it_at_once() -> None:
    with connected() as (lab, peer, _, _one), loopback_udp() as elsewhere:
        elsewhere.sendto(peer.message(udp(FAR, NEAR, b"moved")), lab.outer4.getsockname())
        lab.read()
        lab.link.send(PACKET)
        assert elsewhere.recvfrom(9999)[1] == lab.outer4.getsockname()
        assert not peer.waiting()
        assert "tx_connected" not in lab.counters()


@pytest.mark.parametrize(
    "other", [{"source": ip_address("127.0.0.2")}, {"source": None}], ids=["another", "none"]
)
def test_another_address_of_ours_is_not_its(other: dict[str, object]) -> None:
    with connected() as (lab, peer, end, one):
        lab.engine.set_endpoint(peer.id, replace(end, **other))  # type: ignore[arg-type]
        lab.link.send(PACKET)
        assert came_from(peer) == port_of(lab.outer4) != port_of(one)


def test_what_it_refuses_leaves_by_the_others() -> None:
    with connected() as (lab, peer, _, one):
        one.shutdown(socket.SHUT_WR)
        for _ in range(3):
            lab.link.send(PACKET)
            assert came_from(peer) == port_of(lab.outer4)
        counters = lab.counters()
        assert counters["tx_connected_refused"] == counters["tx_packets"] == 3
        assert EventKind.OUTER_FAILED not in lab.events()


def test_icmp_errors_are_not_fatal() -> None:
    with connected() as (lab, peer, _, _one):
        marker, name = lab.peer("10.0.0.3/32"), peer.socket.getsockname()
        peer.socket.close()
        for _ in range(3):  # refused by the far end's machine
            lab.link.send(PACKET)
            lab.link.send(udp(NEAR, OTHER))
            marker.receive()
        peer.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        peer.socket.settimeout(10)
        peer.socket.bind(name)
        for _ in range(3):
            lab.link.send(PACKET)
            assert came_from(peer)
        assert EventKind.OUTER_FAILED not in lab.events()


def test_it_goes_with_its_path() -> None:
    with connected() as (lab, peer, end, _):
        lab.engine.attach_outer(0, 0, lab.outer4.fileno(), lab.outer6.fileno())
        lab.link.send(PACKET)
        assert came_from(peer) == port_of(lab.outer4)
        with loopback_udp("127.0.0.1") as other:
            other.connect(peer.socket.getsockname())
            lab.engine.connect_outer(end, other.fileno())
            lab.link.send(PACKET)
            assert came_from(peer) == port_of(other)
            lab.engine.attach_outer(0, 0, -1, lab.outer6.fileno())
            with pytest.raises(EngineError):  # beside a socket, never in its place
                lab.engine.connect_outer(end, other.fileno())


@pytest.mark.datapath
@pytest.mark.parametrize("how", ["disconnect", "detach"])
def test_what_it_had_received_is_read_before_it_goes(how: str) -> None:
    with connected() as (lab, peer, end, one):
        lab.engine.stop()
        packets = [udp(FAR, NEAR, bytes([number])) for number in range(40)]
        for packet in packets:
            peer.socket.sendto(peer.message(packet), one.getsockname())
        if how == "disconnect":
            lab.engine.connect_outer(end, -1)
        else:
            lab.engine.detach_outer(0)
        assert [lab.read() for _ in packets] == packets
        # Nor does it take from the others what comes before its owner closes it.
        peer.socket.sendto(b"late", one.getsockname())
        one.setblocking(False)
        with pytest.raises(BlockingIOError):
            one.recv(9)


def test_an_error_that_waits_hides_nothing_that_it_had_received() -> None:
    with connected() as (lab, peer, end, one):
        lab.engine.stop()
        packets = [udp(FAR, NEAR, bytes([number])) for number in range(3)]
        for packet in packets:
            peer.socket.sendto(peer.message(packet), one.getsockname())
        peer.socket.close()
        one.send(b"to nobody")  # an ICMP error comes back, and the next call gets it
        lab.engine.connect_outer(end, -1)
        assert [lab.read() for _ in packets] == packets


def test_what_others_sent_before_it_was_connected_is_theirs() -> None:
    with connected() as (lab, _, _end, one):
        other = lab.peer("10.0.0.3/32")
        one.connect(other.socket.getsockname())  # so that it arrives, as in the moment after bind
        packet = udp(OTHER, NEAR, b"early")
        other.socket.sendto(other.message(packet), one.getsockname())
        assert lab.read() == packet
        found = lab.engine.peer_info(other.id).endpoint
        assert found is not None
        assert found.port == port_of(other.socket)


def test_only_one_worker_may_have_one() -> None:
    end = Endpoint(ip_address("127.0.0.1"), 9)
    with (
        Engine(workers=2) as engine,
        loopback_udp() as one,
        pytest.raises(ValueError, match="connect_outer"),
    ):
        engine.connect_outer(end, one.fileno())
