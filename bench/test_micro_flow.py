"""Packets through a provider written in Python: a batch is read, each answered, all written.

    pump (C) --> seqpacket pair --> read_packets, loopback provider, write_packets --> drain (C)

Pump and drain are threads that run without the interpreter lock. `single` packets cost a system
call each way; `super` is what a TUN with offloads does: its UDP packets come and go as
super-segments, which the flow cuts and joins. Python handles every packet in both.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from providers.loopback import LoopbackProvider
from tunnel import Config, PacketFlow, StopReason
from tunnel.engine import LINK_USO, LINK_VNET_HDR

UNITS = {"single": 100_000, "super": 3_000}


class Context:
    """As much of a provider's context as the loopback provider uses."""

    def __init__(self, flow: PacketFlow) -> None:
        self.packet_flow = flow
        self.config = Config()
        self.error: BaseException | None = None

    async def apply(self, settings: object) -> None: ...

    def status_changed(self, status: object, reason: str = "") -> None: ...

    def cancel(self, error: BaseException) -> None:
        self.error = error


@dataclass(frozen=True)
class Load:
    """What one unit on the link is: its bytes, and how many packets of which size it holds."""

    unit: bytes
    header: int
    segment: int
    packets: int
    flags: int = 0


def single(size: int) -> Load:
    """Return a ping of `size` bytes."""
    return Load(_ipv4(1, struct.pack("!BBHHH", 8, 0, 0, 1, 1), size), 0, size, 1)


def super_segment(size: int) -> Load:
    """Return 40 UDP packets of `size` bytes in one, behind a struct virtio_net_hdr."""
    segment, packets = size - 28, 40
    udp = struct.pack("!HHHH", 5000, 5001, 8 + segment * packets, 0)
    vnet = struct.pack("=BBHHHH", 1, 5, 28, segment, 20, 6)  # checksum open; UDP segmentation
    unit = vnet + _ipv4(17, udp, 28 + segment * packets)
    return Load(unit, len(vnet) + 28, segment, packets, LINK_VNET_HDR | LINK_USO)


def _ipv4(protocol: int, transport: bytes, size: int) -> bytes:
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, size, 1, 0, 64, protocol, 0, b"\n\0\0\1", b"\n\0\0\2"
    )
    return (head + transport).ljust(size, b"x")


@pytest.mark.benchmark(group="packet flow")
@pytest.mark.parametrize("size", [64, 1420])
@pytest.mark.parametrize("kind", UNITS)
def test_loopback_provider(
    loops: ctypes.CDLL, measured: Callable[..., Any], kind: str, size: int
) -> None:
    load = single(size) if kind == "single" else super_segment(size)
    count = UNITS[kind] * load.packets
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (near, far):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    context = Context(PacketFlow(near.fileno(), load.flags))
    provider = LoopbackProvider()
    provider.context = context  # type: ignore[assignment]

    async def pass_all() -> int:
        """Pass all units through the provider; return how many packets came back."""
        run, end = asyncio.get_running_loop().run_in_executor, far.fileno()
        pump = run(threads, loops.bench_pump, end, load.unit, len(load.unit), UNITS[kind])
        passed = await run(threads, loops.bench_drain, end, load.header, load.segment, count)
        assert await pump == UNITS[kind]
        assert context.error is None, context.error
        return int(passed)

    with near, far, ThreadPoolExecutor(2) as threads, asyncio.Runner() as runner:
        runner.run(provider.start_tunnel({}))
        assert measured(count, lambda: runner.run(pass_all())) == count
        runner.run(provider.stop_tunnel(StopReason.USER_INITIATED))
