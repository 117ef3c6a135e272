"""ICMP: echoes are answered, errors reach the socket that caused them, forged ones nobody."""

from __future__ import annotations

import errno
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    fragment6,
)
from scapy.packet import Packet, Raw

from tests.netstack.wire import FAR, FAR6, MS, NEAR, NEAR6, SECOND, World
from tunnel.netstack.tcpsocket import Place, TcpSocket

V4, V6 = IP(src=FAR, dst=NEAR), IPv6(src=FAR6, dst=NEAR6)
THERE = Place(ip_address(FAR).packed, 80)
THERE6 = Place(ip_address(FAR6).packed, 80)


def test_echo_requests_are_answered() -> None:
    world = World()
    (reply,) = world.give(V4 / ICMP(type=8, id=3, seq=4) / Raw(b"hello"))
    assert (reply[ICMP].type, reply[ICMP].id, reply[ICMP].seq) == (0, 3, 4)
    assert bytes(reply[ICMP].payload) == b"hello"
    (reply,) = world.give(V6 / ICMPv6EchoRequest(id=3, seq=4, data=b"hello"))
    assert (reply[ICMPv6EchoReply].id, reply[ICMPv6EchoReply].data) == (3, b"hello")


def test_a_large_echo_in_fragments_is_put_together() -> None:
    world = World(mtu=9000)
    request = V4 / ICMP(type=8, id=3) / Raw(bytes(4000))
    answers = [one for part in fragment(request, 1000) for one in world.give(part)]
    assert len(bytes(answers[0][ICMP].payload)) == 4000
    request6 = V6 / IPv6ExtHdrFragment(id=5) / ICMPv6EchoRequest(id=3, data=bytes(4000))
    answers = [one for part in fragment6(request6, 1280) for one in world.give(part)]
    assert answers[0][ICMPv6EchoReply].data == bytes(4000)


def test_a_port_that_nobody_has() -> None:
    world = World()
    (error,) = world.give(V4 / UDP(sport=5, dport=7) / Raw(b"data"))
    assert (error[ICMP].type, error[ICMP].code) == (3, 3)
    assert bytes(error[ICMP].payload) == bytes(V4 / UDP(sport=5, dport=7) / Raw(b"data"))
    (error,) = world.give(V6 / UDP(sport=5, dport=7) / Raw(b"data"))
    assert error[ICMPv6DestUnreach].code == 4
    (reset,) = world.give(V4 / TCP(sport=5, dport=7, flags="S", seq=9))
    assert (reset[TCP].flags, reset[TCP].ack) == ("RA", 10)


def test_a_protocol_that_nobody_speaks() -> None:
    world = World()
    (error,) = world.give(V4.copy() / Raw(b"x" * 30)) or [None]
    assert error is not None
    assert (error[ICMP].type, error[ICMP].code) == (3, 2)
    (problem,) = world.give(V6 / IPv6ExtHdrDestOpt(nh=132) / Raw(b"x" * 30))
    assert (problem[ICMPv6ParamProblem].code, problem[ICMPv6ParamProblem].ptr) == (1, 40)


def test_errors_are_bounded_in_rate() -> None:
    world = World()
    answers = [world.give(V4 / UDP(sport=i, dport=7)) for i in range(1, 5000)]
    assert sum(map(len, answers)) == 1000
    world.now += 2 * SECOND
    assert world.give(V4 / UDP(sport=1, dport=7))


@pytest.mark.parametrize(
    "about",
    [
        IP(src="10.9.9.9", dst=NEAR) / UDP(),
        IP(src="127.0.0.1", dst=NEAR) / UDP(),
        IP(src="224.0.0.1", dst=NEAR) / UDP(),
        IP(src="0.0.0.0", dst=NEAR) / UDP(),
        IP(src="255.255.255.255", dst=NEAR) / UDP(),
        IP(src=FAR, dst="10.1.0.3") / UDP(),
        IPv6(src="ff02::1", dst=NEAR6) / UDP(),
        IPv6(src="::", dst=NEAR6) / UDP(),
        IPv6(src="::1", dst=NEAR6) / UDP(),
    ],
    ids=lambda packet: f"{packet.src} to {packet.dst}",
)
def test_nonsense_addresses_are_not_answered(about: Packet) -> None:
    expected = 1 if about.src == "10.9.9.9" else 0
    assert len(World().give(about)) == expected


# ---- errors about packets of ours ----


def opening(world: World, place: Place = THERE) -> tuple[TcpSocket, Packet]:
    socket = world.stack.connect(place, world.now)
    (syn,) = world.sent()
    return socket, syn


def established(world: World, place: Place = THERE) -> tuple[TcpSocket, int]:
    """Return a connection and the peer's next sequence number; 1000 bytes are in flight."""
    socket, syn = opening(world, place)
    base = V4 if place is THERE else V6
    tcp = syn[TCP]
    world.give(base / TCP(sport=80, dport=tcp.sport, seq=100, ack=tcp.seq + 1, flags="SA",
                          window=60000, options=[("MSS", 1300)]))  # fmt: skip
    socket.write(bytes(1000))
    world.sent()
    return socket, 101


@pytest.mark.parametrize(
    ("kind", "code", "expected"),
    [
        (3, 0, errno.ENETUNREACH),
        (3, 1, errno.EHOSTUNREACH),
        (3, 3, errno.ECONNREFUSED),
        (3, 13, errno.EHOSTUNREACH),
        (11, 0, errno.EHOSTUNREACH),
        (12, 0, errno.EPROTO),
    ],
)
def test_an_error_ends_a_connection_that_opens(kind: int, code: int, expected: int) -> None:
    world = World()
    socket, syn = opening(world)
    world.give(IP(src="10.3.3.3", dst=NEAR) / ICMP(type=kind, code=code) / Raw(bytes(syn)[:28]))
    ((_, event),) = world.stack.take_events()
    assert event.reason is not None
    assert socket.errno_for(event.reason) == expected


def test_an_error_over_ipv6_ends_a_connection_that_opens() -> None:
    for answer, expected in (
        (ICMPv6DestUnreach(code=0), errno.ENETUNREACH),
        (ICMPv6DestUnreach(code=3), errno.EHOSTUNREACH),
        (ICMPv6TimeExceeded(), errno.EHOSTUNREACH),
    ):
        world = World()
        socket, syn = opening(world, THERE6)
        world.give(V6 / answer / syn)
        ((_, event),) = world.stack.take_events()
        assert event.reason is not None
        assert socket.errno_for(event.reason) == expected


def test_an_established_connection_goes_on() -> None:
    """RFC 1122, 4.2.3.9: it is a hint, and the reason if nothing helps in the end."""
    world = World()
    socket, _ = established(world)
    una = socket.connection.sender.una & 0xFFFFFFFF
    sent = bytes(IP(src=NEAR, dst=FAR) / TCP(sport=socket.local_port, dport=80, seq=una))
    world.give(V4 / ICMP(type=3, code=1) / Raw(sent))
    assert not socket.closed
    assert socket.trouble == errno.EHOSTUNREACH


@pytest.mark.parametrize("change", ["port", "sequence", "source"])
def test_a_forged_error_changes_nothing(change: str) -> None:
    world = World()
    socket, syn = opening(world)
    if change == "port":
        syn[TCP].sport ^= 1
    elif change == "sequence":
        syn[TCP].seq = (syn[TCP].seq + 70_000) & 0xFFFFFFFF
    else:
        syn.src = "10.1.0.77"
    world.give(V4 / ICMP(type=3, code=3) / Raw(bytes(syn)))
    assert world.stack.take_events() == []
    assert not socket.closed


def test_a_smaller_path_is_learned_and_kept() -> None:
    world = World()
    socket, _ = established(world)
    una = socket.connection.sender.una & 0xFFFFFFFF
    ours = IP(src=NEAR, dst=FAR) / TCP(sport=socket.local_port, dport=80, seq=una)
    before = socket.connection.segment_size
    world.give(V4 / ICMP(type=3, code=4, nexthopmtu=1000) / Raw(bytes(ours)))
    assert socket.connection.segment_size == 960 < before
    again, _ = opening(world)
    assert again.connection.settings.segment == 960
    world.later(601 * SECOND)
    assert opening(world)[0].connection.settings.segment == 1380


def test_too_big_over_ipv6_and_forged_ones() -> None:
    world = World()
    socket, _ = established(world, THERE6)
    una = socket.connection.sender.una & 0xFFFFFFFF
    ours = IPv6(src=NEAR6, dst=FAR6) / TCP(sport=socket.local_port, dport=80, seq=una)
    world.give(V6 / ICMPv6PacketTooBig(mtu=70) / ours)  # no link has less than 1280
    assert socket.connection.segment_size == 1220
    forged = IPv6(src=NEAR6, dst=FAR6) / TCP(sport=socket.local_port, dport=80, seq=una - 9)
    other, _ = established(World(), THERE)
    world.give(V6 / ICMPv6PacketTooBig(mtu=1300) / forged)
    assert other.connection.segment_size > 1220


def test_udp_errors_reach_the_socket() -> None:
    world = World()
    socket = world.stack.bind(None, 0, Place(THERE.address, 53))
    socket.send(b"question")
    (sent,) = world.sent()
    world.give(V4 / ICMP(type=3, code=3) / Raw(bytes(sent)[:28]))
    (received,) = world.stack.take_datagrams()
    assert received.socket is socket
    assert received.error == errno.ECONNREFUSED


def test_udp_learns_the_path_and_fragments() -> None:
    world = World()
    socket = world.stack.bind(None, 0, Place(THERE.address, 53))
    socket.send(bytes(1300))
    (sent,) = world.sent()
    world.give(V4 / ICMP(type=3, code=4, nexthopmtu=800) / Raw(bytes(sent)[:28]))
    socket.send(bytes(1300))
    assert [len(bytes(one)) for one in world.sent()] == [796, 552]


def test_ping_errors_reach_who_pings() -> None:
    world = World()
    world.stack.ping(THERE.address, 77, 5, b"x")
    (sent,) = world.sent()
    assert (sent[ICMP].type, sent[ICMP].id) == (8, 77)
    world.give(V4 / ICMP(type=3, code=1) / Raw(bytes(sent)[:28]))
    (reply,) = world.stack.take_replies()
    assert (reply.identifier, reply.sequence, reply.error) == (77, 5, errno.EHOSTUNREACH)


def test_late_fragments_are_told_to_their_sender() -> None:
    world = World()
    first = fragment(V4 / UDP(sport=5, dport=7) / Raw(bytes(2000)), 1000)[0]
    assert world.give(first) == []
    (error,) = world.later(31 * SECOND)
    assert (error[ICMP].type, error[ICMP].code) == (11, 1)
    assert world.later(MS) == []
