"""The demonstration's pure parts: what ping printed, the verdicts, the tables."""

from __future__ import annotations

import dataclasses
import socket
import struct

import pytest

from tools.demolib.output import Line
from tools.demolib.ping import Answers, answers
from tools.demolib.report import Check, Findings, Kind, Part, render
from tools.demolib.tap import Count, attach, other_filter, outer_filter
from tools.demolib.tunnels import CLIENT_ADDRESSES, configurations

PORT = 51820
ALL_WELL = Answers(50, (0.3,) * 50)
GOOD = {
    Kind.BOUND: Part("p", Kind.BOUND, Count(), Count(100), ALL_WELL),
    Kind.CUT: Part("p", Kind.CUT, Count(), Count()),
    Kind.RESUMED: Part("p", Kind.RESUMED, Count(), Count(100)),
    Kind.MOVED: Part("p", Kind.MOVED, Count(9), Count(100), ALL_WELL),
    Kind.CLOSED: Part("p", Kind.CLOSED, Count(), Count(100)),
    Kind.OPEN: Part("p", Kind.OPEN, Count(0, 5), Count()),
    Kind.ENDING: Part("p", Kind.ENDING, Count(), Count()),
    Kind.CONTROL: Part("p", Kind.CONTROL, Count(100), Count(), ALL_WELL),
}


def printed(*lines: str) -> list[Line]:
    return [Line(float(number), text) for number, text in enumerate(lines)]


def answer(sequence: int, time: str = "0.25") -> str:
    return f"64 bytes from 10.20.0.10: icmp_seq={sequence} ttl=62 time={time} ms"


def silence(sequence: int) -> str:
    return f"no answer yet for icmp_seq={sequence}"


def test_ping_without_a_loss() -> None:
    lines = printed("PING 10.20.0.10 56(84) bytes of data.", *map(answer, range(1, 6)))
    assert answers(lines) == Answers(5, (0.25,) * 5)


def test_a_ping_that_is_late_is_not_lost() -> None:
    lines = printed(answer(1), silence(2), answer(2, "31"), answer(3))
    assert answers(lines).lost == 0


def test_a_gap_is_lost() -> None:
    assert answers(printed(answer(1), silence(2), silence(3), answer(4))).lost == 2


def test_a_stretch_begins_after_the_last_answer_before_it() -> None:
    lines = printed(answer(1), answer(2), silence(3), silence(4), answer(5))
    assert answers(lines, after=2) == Answers(3, (0.25,))


def test_the_ping_under_way_at_the_end_is_not_lost() -> None:
    assert answers(printed(answer(1), answer(2), silence(3))).lost == 0


def test_silence_has_no_answers() -> None:
    assert answers(printed(silence(1), silence(2))) == Answers(0, ())


@pytest.mark.parametrize("part", GOOD.values(), ids=lambda part: part.kind.name)
def test_good_parts(part: Part) -> None:
    assert part.problems() == []


@pytest.mark.parametrize(
    ("kind", "change", "problem"),
    [
        (Kind.BOUND, {"wifi": Count(1)}, "1 outer packets on Wi-Fi"),
        (Kind.BOUND, {"cellular": Count(0)}, "no outer packet on cellular"),
        (Kind.BOUND, {"wifi": Count(0, 2)}, "2 packets left the client outside"),
        (Kind.BOUND, {"cellular": Count(100, 3)}, "3 packets left the client outside"),
        (Kind.BOUND, {"pings": Answers(50, (0.3,) * 49)}, "1 of 50 pings were lost"),
        (Kind.BOUND, {"pings": Answers(0, ())}, "no ping was answered"),
        (Kind.CUT, {"wifi": Count(1)}, "1 outer packets on Wi-Fi"),
        (Kind.CUT, {"cellular": Count(1)}, "1 outer packets on cellular"),
        (Kind.RESUMED, {"wifi": Count(1)}, "1 outer packets on Wi-Fi"),
        (Kind.RESUMED, {"cellular": Count(0)}, "no outer packet on cellular"),
        (Kind.MOVED, {"wifi": Count(0)}, "no outer packet on Wi-Fi"),
        (Kind.MOVED, {"cellular": Count(0)}, "no outer packet on cellular"),
        (Kind.MOVED, {"pings": Answers(50, (0.3,) * 49)}, "1 of 50 pings were lost"),
        (Kind.MOVED, {"wifi": Count(9, 1)}, "1 packets left the client outside"),
        (Kind.CLOSED, {"wifi": Count(0, 1)}, "1 packets left the client outside"),
        (Kind.CLOSED, {"wifi": Count(1)}, "1 outer packets on Wi-Fi"),
        (Kind.OPEN, {"wifi": Count()}, "the control proves nothing"),
        (Kind.ENDING, {"wifi": Count(1)}, "1 outer packets on Wi-Fi"),
        (Kind.CONTROL, {"wifi": Count(0)}, "no outer packet on Wi-Fi"),
        (Kind.CONTROL, {"pings": Answers(0, ())}, "no ping was answered"),
    ],
)
def test_bad_parts(kind: Kind, change: dict[str, object], problem: str) -> None:
    (found,) = dataclasses.replace(GOOD[kind], **change).problems()
    assert problem in found


def test_failures_name_their_line() -> None:
    findings = Findings(
        [Check("HTTP", "4 MiB", "the file is not what was sent"), Check("round trip", "0.3 ms")],
        [GOOD[Kind.CUT], dataclasses.replace(GOOD[Kind.BOUND], name="Wi-Fi goes", wifi=Count(7))],
    )
    assert findings.failures() == [
        "HTTP: the file is not what was sent",
        "Wi-Fi goes: 7 outer packets on Wi-Fi instead of 0",
    ]
    report = render(findings).splitlines()
    assert [line.split()[-1] for line in report if line.startswith(("HTTP", "Wi-Fi goes"))] == [
        "FAILED",
        "FAILED",
    ]
    assert sum(line.endswith("ok") for line in report) == 2


def test_the_tables_columns_line_up() -> None:
    parts = [dataclasses.replace(GOOD[Kind.BOUND], cellular=Count(10**n)) for n in (1, 6)]
    rows = [line for line in render(Findings([], parts)).splitlines() if line.endswith("ok")]
    assert len({len(row) for row in rows}) == 1


def test_an_early_end_still_has_a_report() -> None:
    assert render(Findings()) == ""


def test_both_ends_get_keys_of_their_own() -> None:
    client, gateway = configurations()
    again, _ = configurations()
    assert client != again
    assert "Endpoint = 203.0.113.1:51820" in client
    assert f"AllowedIPs = {', '.join(CLIENT_ADDRESSES)}" in gateway


# ---- the taps' filters, against frames with a few bytes each ----

ETHERNET = bytes(12)


def ipv4(protocol: int, payload: bytes, *, options: bytes = b"", fragment: int = 0) -> bytes:
    header = struct.pack(
        ">BBHHHBBH8x", 0x45 + len(options) // 4, 0, 0, 0, fragment, 64, protocol, 0
    )
    return ETHERNET + b"\x08\x00" + header + options + payload


def ipv6(protocol: int, payload: bytes, to: str = "2001:db8::1") -> bytes:
    address = socket.inet_pton(socket.AF_INET6, to)
    header = struct.pack(">IHBB16x16s", 6 << 28, len(payload), protocol, 64, address)
    return ETHERNET + b"\x86\xdd" + header + payload


def udp(source: int, destination: int) -> bytes:
    return struct.pack(">HHHH", source, destination, 8, 0)


def takes(program: bytes, frame: bytes) -> bool:
    """Let the kernel run a filter, over a pair of sockets that carries the frame as it is."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        right.setblocking(False)
        attach(right, program)
        left.send(frame)
        try:
            return len(right.recv(2048)) == len(frame)
        except BlockingIOError:
            return False


OUTER, OTHER, NEITHER = (True, False), (False, True), (False, False)
FRAMES = {
    "the tunnel's, out": (ipv4(17, udp(40000, PORT)), OUTER),
    "the tunnel's, in": (ipv4(17, udp(PORT, 40000)), OUTER),
    "the tunnel's, behind IP options": (ipv4(17, udp(1, PORT), options=bytes(8)), OUTER),
    "the tunnel's, IPv6, out": (ipv6(17, udp(40000, PORT)), OUTER),
    "the tunnel's, IPv6, in": (ipv6(17, udp(PORT, 40000)), OUTER),
    "other UDP": (ipv4(17, udp(40000, 53)), OTHER),
    "other UDP, IPv6": (ipv6(17, udp(40000, 53)), OTHER),
    "a later fragment": (ipv4(17, udp(1, PORT), fragment=100), OTHER),
    "TCP to the tunnel's port": (ipv4(6, udp(40000, PORT)), OTHER),
    "TCP to the tunnel's port, IPv6": (ipv6(6, udp(40000, PORT)), OTHER),
    "ping": (ipv4(1, bytes(8)), OTHER),
    "ping, IPv6": (ipv6(58, b"\x80" + bytes(7)), OTHER),
    "packet too big, IPv6": (ipv6(58, b"\x02" + bytes(7)), OTHER),
    "redirect and beyond, IPv6": (ipv6(58, b"\x8a" + bytes(7)), OTHER),
    "another protocol": (ETHERNET + b"\x88\x8e" + bytes(46), OTHER),
    "ARP": (ETHERNET + b"\x08\x06" + bytes(28), NEITHER),
    "router solicitation": (ipv6(58, b"\x85" + bytes(7), to="ff02::2"), NEITHER),
    "neighbour solicitation": (ipv6(58, b"\x87" + bytes(23), to="fe80::1"), NEITHER),
    "multicast membership": (ipv6(0, b"\x3a" + bytes(15), to="ff02::16"), NEITHER),
}


@pytest.mark.parametrize(("frame", "wanted"), FRAMES.values(), ids=FRAMES)
def test_filters(frame: bytes, wanted: tuple[bool, bool]) -> None:
    assert (takes(outer_filter(PORT), frame), takes(other_filter(PORT), frame)) == wanted
