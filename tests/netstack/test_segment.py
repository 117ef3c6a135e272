from __future__ import annotations

from random import Random

import pytest
from scapy.layers.inet import TCP

from tunnel.netstack.segment import Flag, Options, Segment, parse, parse_options, render_header

CASES = [
    Options(),
    Options(mss=1380),
    Options(mss=1380, window_shift=7, sack_permitted=True, timestamp=(1, 0)),
    Options(mss=536, sack_permitted=True),
    Options(timestamp=(0xFFFFFFFF, 7)),
    Options(sack=((1, 5), (10, 20))),
    Options(user_timeout=90),
    Options(user_timeout=600 * 60),  # in minutes on the wire
    Options(timestamp=(3, 4), sack=((1, 5), (10, 20), (0xFFFFFFF0, 3))),
]


def segment(options: Options, payload: bytes = b"") -> Segment:
    return Segment(1234, 80, 0xDEADBEEF, 7, Flag.ACK | Flag.PSH, 512, options, payload)


@pytest.mark.parametrize("options", CASES, ids=str)
def test_options_survive_the_wire(options: Options) -> None:
    rendered = options.render()
    assert len(rendered) % 4 == 0
    assert parse_options(rendered) == options


@pytest.mark.parametrize("options", CASES, ids=str)
def test_scapy_reads_the_same(options: Options) -> None:
    packet = TCP(render_header(segment(options)._replace(urgent=9)) + b"data")
    assert (packet.sport, packet.dport, packet.seq, packet.ack) == (1234, 80, 0xDEADBEEF, 7)
    assert (packet.window, int(packet.flags)) == (512, Flag.ACK | Flag.PSH)
    assert packet.urgptr == 9
    assert bytes(packet.payload) == b"data"
    said = dict(packet.options)
    assert said.get("MSS") == options.mss
    assert said.get("WScale") == options.window_shift
    assert said.get("Timestamp") == options.timestamp
    assert ("SAckOK" in said) == options.sack_permitted
    assert said.get("SAck", ()) == tuple(edge for block in options.sack for edge in block)


def test_a_whole_segment_survives_the_wire() -> None:
    for options in CASES:
        sent = segment(options, b"hello")._replace(urgent=0xABCD)
        read = parse(memoryview(render_header(sent) + b"hello"))
        assert read is not None
        assert read._replace(payload=bytes(read.payload)) == sent


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(19),
        bytes(12) + b"\x40" + bytes(7),  # offset below the header
        bytes(12) + b"\xf0" + bytes(7),  # offset past the end
    ],
)
def test_malformed_headers_are_refused(data: bytes) -> None:
    assert parse(memoryview(data)) is None


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (b"\x02\x04\x05\xb4\x05\x01", Options(mss=1460)),  # length below two ends the reading
        (b"\x02\x03\x05\x03\x03\x07", Options()),  # MSS of a wrong length
        (b"\x00\x02\x04\x05\xb4", Options()),  # nothing counts behind the end
        (b"\x1e\x06abcd\x03\x03\x07\x00", Options(window_shift=7)),  # an unknown one is skipped
        (b"\x03\x03\xff", Options(window_shift=14)),  # RFC 7323, 2.3: larger shifts mean 14
        (b"\x08\x0a\x00", Options()),  # cut short
        (b"\x05\x0b" + bytes(9), Options()),  # SACK that is no multiple of eight
        (b"\x08", Options()),
    ],
)
def test_odd_options(data: bytes, options: Options) -> None:
    assert parse_options(data) == options


def test_arbitrary_bytes_never_raise() -> None:
    random = Random(3)
    for _ in range(20_000):
        parse(memoryview(random.randbytes(random.randrange(80))))
