"""Reading the headers of one packet: the data path's quick look, and the whole parser."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tunnel import parse

COUNT = 4096
TCP = struct.pack("!HHIIBBHHH", 443, 50_000, 1, 2, 5 << 4, 0x10, 8192, 0, 0)
BODY = bytes(1380)
PACKETS = {
    "ipv4": struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40 + len(BODY), 1, 0, 64, 6, 0, b"\n\0\0\1",
                        b"\n\0\0\2") + TCP + BODY,
    "ipv6": struct.pack("!IHBB16s16s", 6 << 28, 20 + len(BODY), 6, 64, b"\xfd" + bytes(15),
                        b"\xfd" + bytes(14) + b"\1") + TCP + BODY,
}  # fmt: skip


@pytest.fixture(params=PACKETS)
def packet(request: pytest.FixtureRequest) -> bytes:
    return PACKETS[request.param]


@pytest.mark.benchmark(group="parse")
def test_total_in_core(loops: ctypes.CDLL, measured: Callable[..., Any], packet: bytes) -> None:
    assert measured(COUNT, loops.bench_total, packet, len(packet), COUNT) == COUNT


@pytest.mark.benchmark(group="parse")
def test_parse_in_core(loops: ctypes.CDLL, measured: Callable[..., Any], packet: bytes) -> None:
    assert measured(COUNT, loops.bench_parse, packet, len(packet), COUNT) == COUNT


@pytest.mark.benchmark(group="parse")
def test_parse_from_python(measured: Callable[..., Any], packet: bytes) -> None:
    assert measured(1, parse, packet).destination_port == 50_000
