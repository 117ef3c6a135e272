"""Packets through a provider written in Python: a batch is read, each answered, all written.

    pump (C) --> seqpacket pair --> read_packets, loopback provider, write_packets --> drain (C)

Pump and drain are threads that run without the interpreter lock. The link is the plainest there
is, one packet a system call: a TUN with offloads hands over dozens at once.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from providers.loopback import LoopbackProvider
from tunnel import Config, PacketFlow, StopReason

PACKETS = 100_000
SIZES = (64, 1420)


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


def echo_request(size: int) -> bytes:
    """Return an IPv4 packet of `size` bytes that holds a ping."""
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, size, 1, 0, 64, 1, 0, b"\n\0\0\1", b"\n\0\0\2")
    return (head + struct.pack("!BBHHH", 8, 0, 0, 1, 1)).ljust(size, b"x")


@pytest.mark.benchmark(group="packet flow")
@pytest.mark.parametrize("size", SIZES)
def test_loopback_provider(loops: ctypes.CDLL, measured: Callable[..., Any], size: int) -> None:
    packet = echo_request(size)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (near, far):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)

    context = Context(PacketFlow(near.fileno(), 0))
    provider = LoopbackProvider()
    provider.context = context  # type: ignore[assignment]

    async def pass_all() -> int:
        """Pass `PACKETS` through the provider; return how many came back whole."""
        loop = asyncio.get_running_loop()
        end = far.fileno()
        pump = loop.run_in_executor(threads, loops.bench_pump, end, packet, size, PACKETS)
        passed = await loop.run_in_executor(threads, loops.bench_drain, end, size, PACKETS)
        assert await pump == PACKETS
        assert context.error is None, context.error
        return int(passed)

    with near, far, ThreadPoolExecutor(2) as threads, asyncio.Runner() as runner:
        runner.run(provider.start_tunnel({}))
        assert measured(PACKETS, lambda: runner.run(pass_all())) == PACKETS
        runner.run(provider.stop_tunnel(StopReason.USER_INITIATED))
