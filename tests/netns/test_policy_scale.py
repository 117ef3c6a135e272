"""A thousand interfaces, ten thousand routes, clocks that jump: right, soon, and no bigger."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from pathlib import Path as FilePath

import pytest

from tests.netns.conftest import TwoNetworks
from tests.netns.routes import CELLULAR
from tunnel.policy.apply import MachineRoutes
from tunnel.policy.binding import BindingPolicy
from tunnel.policy.monitor import PathMonitor
from tunnel.policy.path import Path
from tunnel.settings import TunnelSettings

pytestmark = pytest.mark.root

REACTION = 1.0
"""Seconds of processor time: what the issue allows a reaction as a whole."""


def resident() -> int:
    """Bytes of memory that this process has in use."""
    gc.collect()
    return int(FilePath("/proc/self/statm").read_text().split()[1]) * 4096


async def reactions(monitor: PathMonitor, routes: MachineRoutes, networks: TwoNetworks) -> float:
    """Change the interface's MTU a few times; return the most that following it cost."""
    most = 0.0
    for mtu in range(1400, 1410):
        began = time.process_time()
        networks.client.ip(f"link set wwan0 mtu {mtu}")
        async with asyncio.timeout(10):
            while monitor.path.interface is None or monitor.path.interface.mtu != mtu:
                await anext(monitor)
        await routes.apply(None, TunnelSettings(), monitor.path)
        most = max(most, time.process_time() - began)
    return most


def lines(count: int) -> str:
    return "".join(
        f"route add 172.{16 + i // 62500}.{i // 250 % 250}.{i % 250}/32 via 10.2.0.1 dev wwan0\n"
        for i in range(count)
    )


def links(count: int) -> str:
    return "".join(f"link add a{i} type veth peer name b{i}\n" for i in range(count // 2))


@pytest.mark.parametrize("batch", [lines(10_000), links(1_000)], ids=["routes", "interfaces"])
def test_many(
    networks: TwoNetworks, tmp_path: FilePath, batch: str, record_property: Callable[..., None]
) -> None:
    client = networks.client

    async def main() -> None:
        routes = MachineRoutes(run=tmp_path)
        async with PathMonitor(CELLULAR) as monitor:
            await asyncio.to_thread(client.run, "ip -batch -", input=batch)
            most = await reactions(monitor, routes, networks)
            record_property("reaction_cpu_seconds", most)
            print(f"{len(monitor.state.interfaces)} interfaces, most: {most * 1000:.0f} ms of CPU")
            assert most < REACTION
            before = resident()
            for _ in range(3):
                await reactions(monitor, routes, networks)
            assert resident() - before < 4 << 20
            found = monitor.path.interface
            assert found is not None
            assert (found.name, found.routed) == ("wwan0", {4, 6})
            await routes.clear()

    with client.entered():
        asyncio.run(main())


class JumpyLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps: a machine that slept, as CLOCK_BOOTTIME shows it."""

    offset = 0.0

    def time(self) -> float:
        """The monotonic clock, and what it slept through."""
        return super().time() + self.offset


def test_a_clock_that_jumps_delays_nothing(
    networks: TwoNetworks, tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = networks.client
    loop = JumpyLoop()

    def moved(path: Path, mtu: int) -> bool:
        return path.interface is not None and path.interface.mtu == mtu

    async def main() -> None:
        routes = MachineRoutes(run=tmp_path)
        async with PathMonitor(BindingPolicy()) as monitor:
            await routes.apply(None, TunnelSettings(), monitor.path)
            for number, jump in enumerate((3600.0, 86_400.0 * 400, 0.001)):
                loop.offset += jump
                wall = 1e9 * (-1) ** number
                monkeypatch.setattr(time, "time", lambda wall=wall: wall)
                mtu = 1300 + number
                client.ip(f"link set wlan0 mtu {mtu}")
                task = asyncio.create_task(_until(monitor, lambda p, mtu=mtu: moved(p, mtu)))
                # Real seconds: the loop's own time-outs would end at a jump.
                deadline = time.monotonic() + 10
                while not task.done():
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.01)
                await routes.apply(None, TunnelSettings(), monitor.path)
            readings = monitor.readings
            await asyncio.sleep(0.2)
            assert monitor.readings == readings
            await routes.clear()

    with client.entered():
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()


async def _until(monitor: PathMonitor, done: Callable[[Path], bool]) -> None:
    while not done(monitor.path):
        await anext(monitor)
