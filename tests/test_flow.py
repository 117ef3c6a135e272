"""PacketFlow over socket pairs: batches, back-pressure, super-segments both ways, ends."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.engine_lab import checksums_right, tcp, udp
from tests.loops import Runner
from tunnel.engine import LINK_USO, LINK_VNET_HDR, EngineError
from tunnel.flow import FlowClosed, PacketFlow

FULL = LINK_VNET_HDR | LINK_USO
A, B = "10.0.0.1", "10.0.0.2"
PLAIN = bytes(10)  # the header of a plain packet


@contextmanager
def link(flags: int = 0, *, units: bool = False) -> Iterator[tuple[socket.socket, PacketFlow]]:
    outside, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with outside, inside:
        yield outside, PacketFlow(inside.fileno(), flags, units=units)


@contextmanager
def linked(flags: int, *, units: bool = False) -> Iterator[tuple[PacketFlow, PacketFlow]]:
    with link(flags) as (outside, flow):
        yield PacketFlow(outside.fileno(), flags, units=units), flow


@pytest.mark.parametrize("flags", [0, LINK_VNET_HDR, FULL])
def test_packets_arrive_in_order_and_whole(run: Runner, flags: int) -> None:
    packets = [udp(A, B, struct.pack("!I", i) + bytes(i % 7 * 100)) for i in range(3000)]

    async def work() -> None:
        with linked(flags) as (one, two):

            async def reader() -> list[bytes]:
                got: list[bytes] = []
                while len(got) < len(packets):
                    got += [bytes(packet) for packet in await two.read_packets()]
                return got

            reading = asyncio.create_task(reader())
            for i in range(0, len(packets), 250):  # far more than fits the socket's buffer
                await one.write_packets(packets[i : i + 250])
            got = await reading
            assert all(checksums_right(packet) for packet in got)
            # Joining and cutting renews the IPv4 identification.
            assert [packet[12:] for packet in got] == [packet[12:] for packet in packets]
            assert one.refused == one.lost == 0

    run(work())


def test_views_are_valid_until_the_next_read(run: Runner) -> None:
    async def work() -> None:
        with link() as (outside, flow):
            outside.send(udp(A, B, b"one"))
            outside.send(udp(A, B, b"two"))
            first, second = await flow.read_packets()
            assert isinstance(first, memoryview)
            assert bytes(first[28:]) == b"one"
            assert bytes(second[28:]) == b"two"

    run(work())


@pytest.mark.parametrize("flags", [0, FULL])
def test_malformed_packets_are_skipped_and_counted(run: Runner, flags: int) -> None:
    good = udp(A, B, b"good")

    async def work() -> None:
        with link(flags) as (outside, flow):
            head = PLAIN if flags else b""
            for packet in (b"\x45", good[:-1], b"\x75" + good[1:], good):
                outside.send(head + packet)
            assert [bytes(p) for p in await flow.read_packets()] == [good]
            await flow.write_packets([b"", good, b"\x45", good[:-1], b"\x75" + good[1:], good])
            assert flow.refused == 4
            for _ in range(2 if not flags else 1):
                assert outside.recv(2000).endswith(good[28:])

    run(work())


def test_a_padded_packet_is_written_without_its_padding(run: Runner) -> None:
    async def work() -> None:
        with link() as (outside, flow):
            await flow.write_packets([udp(A, B, b"x") + bytes(9)])
            assert outside.recv(2000) == udp(A, B, b"x")

    run(work())


def super_segment(count: int, size: int) -> bytes:
    packet = tcp(A, B, bytes(i % 251 for i in range(count * size)))
    return struct.pack("=BBHHHH", 1, 1, 40, size, 20, 16) + packet


def test_super_segments_are_cut_on_read(run: Runner) -> None:
    async def work() -> None:
        with link(LINK_VNET_HDR) as (outside, flow):
            outside.send(super_segment(10, 1000))
            packets = [bytes(packet) for packet in await flow.read_packets()]
            assert [len(packet) for packet in packets] == [1040] * 10
            assert all(checksums_right(packet) for packet in packets)
            assert b"".join(p[40:] for p in packets) == super_segment(10, 1000)[50:]

    run(work())


@pytest.mark.parametrize("flags", [0, LINK_VNET_HDR])
def test_units_come_and_go_whole(run: Runner, flags: int) -> None:
    async def work() -> None:
        with link(LINK_VNET_HDR, units=True) as (outside, flow), link(flags) as (far, out):
            outside.send(super_segment(10, 1000))
            outside.send(PLAIN + udp(A, B))
            units = await flow.read_packets()
            assert [len(unit) for unit in units] == [10040, 28]
            assert list(flow.sizes) == [1000, 0]
            await out.write_packets(units, flow.sizes)
            if flags:
                unit = far.recv(70000)
                assert struct.unpack_from("=BBHHHH", unit) == (1, 1, 40, 1000, 20, 16)
                assert unit[50:] == super_segment(10, 1000)[50:]
                assert far.recv(70000) == PLAIN + udp(A, B)
            else:
                packets = [far.recv(70000) for _ in range(10)]
                assert all(checksums_right(packet) for packet in packets)
                assert far.recv(70000) == udp(A, B)

    run(work())


@pytest.mark.parametrize(
    "unit", [udp(A, B)[:-8], b"\x45" + bytes(19), udp(A, B)[:9] + b"\x01" + udp(A, B)[10:]]
)
def test_a_unit_that_cannot_be_cut_is_refused(run: Runner, unit: bytes) -> None:
    async def work() -> None:
        with link(FULL) as (_, flow):
            await flow.write_packets([unit], [100])
            assert flow.refused == 1

    run(work())


def test_neighbours_of_a_flow_leave_as_one(run: Runner) -> None:
    packets = [tcp(A, B, bytes([i]) * 100, seq=i * 100) for i in range(20)]

    async def work() -> None:
        with link(FULL) as (outside, flow):
            await flow.write_packets([*packets, udp(A, B, b"1"), udp(A, B, b"2")])
            unit = outside.recv(70000)
            assert struct.unpack_from("=BBHHHH", unit) == (1, 1, 40, 100, 20, 16)
            assert unit[50:] == b"".join(packet[40:] for packet in packets)
            unit = outside.recv(70000)
            assert struct.unpack_from("=BBHHHH", unit) == (1, 5, 28, 1, 20, 6)
            assert unit[38:] == b"12"

    run(work())


def test_writes_wait_while_the_link_is_full(run: Runner) -> None:
    packets = [udp(A, B, bytes(1300))] * 2000

    async def work() -> None:
        with link() as (outside, flow):
            writing = asyncio.create_task(flow.write_packets(packets))
            outside.setblocking(False)
            for _ in range(20):
                await asyncio.sleep(0)
            assert not writing.done()
            loop = asyncio.get_running_loop()
            for packet in packets:
                assert await loop.sock_recv(outside, 2000) == packet
            await writing

    run(work())


def test_writers_take_turns(run: Runner) -> None:
    async def work() -> None:
        with linked(0) as (one, two):
            batches = [[udp(A, B, bytes([i]) * 1000)] * 300 for i in range(3)]
            tasks = [asyncio.create_task(one.write_packets(batch)) for batch in batches]
            got: list[int] = []
            while len(got) < 900:
                got += [packet[28] for packet in await two.read_packets()]
            assert got == [0] * 300 + [1] * 300 + [2] * 300
            await asyncio.gather(*tasks)

    run(work())


def test_the_other_end_closing_ends_the_flow(run: Runner) -> None:
    async def work() -> None:
        with link() as (outside, flow):
            reading = asyncio.create_task(flow.read_packets())
            await asyncio.sleep(0)
            outside.close()
            with pytest.raises(FlowClosed):
                await reading
            with pytest.raises(FlowClosed):
                await flow.write_packets([udp(A, B)])

    run(work())


def test_close_wakes_those_who_wait(run: Runner) -> None:
    async def work() -> None:
        with link() as (_, flow):
            reading = asyncio.create_task(flow.read_packets())
            writing = asyncio.create_task(flow.write_packets([udp(A, B, bytes(1300))] * 2000))
            for _ in range(5):
                await asyncio.sleep(0)
            flow.close()
            for waiting in (reading, writing):
                with pytest.raises(FlowClosed):
                    await waiting

    run(work())


def test_a_descriptor_that_is_no_link_is_an_error(run: Runner) -> None:
    async def work() -> None:
        read, write = os.pipe()
        os.close(write)
        flow = PacketFlow(read, 0)
        with pytest.raises(EngineError, match="flow write") as caught:
            await flow.write_packets([udp(A, B)])
        assert caught.value.errno == errno.EBADF
        os.close(read)

    run(work())


def test_cancelled_readers_leave_nothing_registered(run: Runner) -> None:
    async def work() -> None:
        with link() as (outside, flow):
            reading = asyncio.create_task(flow.read_packets())
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            outside.send(udp(A, B))
            assert len(await flow.read_packets()) == 1

    run(work())
