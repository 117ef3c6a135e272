"""What one unit costs the TCP stack in Python, whatever its size: received, sent, acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tunnel.netstack.connection import Connection
from tunnel.netstack.segment import Segment, parse, render_header
from tunnel.netstack.settings import Settings

MS = 1_000_000
UNITS = 200
UNIT = bytes(60 * 1000)


def pair(**settings: Any) -> tuple[Connection, Connection]:
    """Two connections that have just been established."""
    chosen = Settings(receive_buffer=1 << 30, receive_most=1 << 30, send_buffer=1 << 30,
                      segment=1012, **settings)  # fmt: skip
    a = Connection(1, 2, iss=5, settings=chosen)
    b = Connection(2, 1, iss=9, settings=chosen)
    b.listen()
    a.connect(MS)
    for _ in range(2):
        for one, other in ((a, b), (b, a)):
            for segment in one.segments_to_send(2 * MS):
                other.receive(segment, 2 * MS)
    return a, b


def stamped(one: Connection, count: int) -> list[Segment]:
    """Units as they come from `one`, back to back."""
    one.sender.window = 1 << 30
    one.sender.recovery.control.window = 1 << 30
    units: list[Segment] = []
    for _ in range(count):
        one.write(UNIT)
        units += one.segments_to_send(3 * MS)
    return [unit for unit in units if unit.payload]


@pytest.mark.benchmark(group="netstack")
def test_received_unit(measured: Callable[..., Any]) -> None:
    """Parse, process, read, and say the acknowledgment: the download path."""
    a, _ = pair(pacing=False)
    wire = [memoryview(render_header(s) + bytes(s.payload)) for s in stamped(a, UNITS)]
    assert len(wire) == UNITS

    def run() -> int:
        receiving = pair(pacing=False)[1]
        for data in wire:
            segment = parse(data)
            assert segment is not None
            receiving.receive(segment, 4 * MS)
            receiving.take(1 << 20)
            for answer in receiving.segments_to_send(4 * MS):
                render_header(answer)
            receiving.next_deadline()
        return receiving.readable

    assert measured(UNITS, run) == 0


@pytest.mark.benchmark(group="netstack")
@pytest.mark.parametrize("congestion", ["bbr", "cubic"])
def test_sent_and_acknowledged_unit(measured: Callable[..., Any], congestion: str) -> None:
    """Write, send, render, and take the acknowledgment of it: the upload path."""

    def run() -> int:
        a, b = pair(pacing=False, congestion=congestion)
        now = 3 * MS
        for _ in range(UNITS):
            now += MS
            a.write(UNIT)
            for unit in a.segments_to_send(now):
                render_header(unit)
            end = (a.sender.nxt) & 0xFFFFFFFF
            a.receive(
                Segment(2, 1, b.sender.nxt & 0xFFFFFFFF, end, 0x10, 0xFFFF,
                        unit.options._replace(timestamp=(now // MS, now // MS))),
                now,
            )  # fmt: skip
            a.next_deadline()
        return a.sender.una - a.iss - 1

    assert measured(UNITS, run) == UNITS * len(UNIT)
