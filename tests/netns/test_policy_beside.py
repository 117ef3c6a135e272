"""Routes beside others': a second tunnel, what a killed one left, wg-quick, an interface gone."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path as FilePath

import pytest

from tests.netns.conftest import FAR, FAR6, TwoNetworks
from tests.netns.routes import FULL, answering, exchange, footprint, run
from tunnel.bind import OuterSockets
from tunnel.errors import MissingFacilityError
from tunnel.policy.apply import MachineRoutes
from tunnel.policy.monitor import PathMonitor
from tunnel.policy.numbers import PROTOCOL
from tunnel.settings import TunnelSettings
from tunnel.tun import Tun

pytestmark = pytest.mark.root


def test_two_tunnels_do_not_touch_each_other(networks: TwoNetworks, tmp_path: FilePath) -> None:
    client = networks.client
    before = footprint(client)

    async def work(monitor: PathMonitor, routes: MachineRoutes) -> None:
        other = MachineRoutes(run=tmp_path)
        with Tun.create("tt0"):
            first = await routes.apply("tt0", FULL, monitor.path)
            alone = footprint(client)
            with Tun.create("tt1"):
                second = await other.apply("tt1", FULL, monitor.path)
                assert second.mark != first.mark
                await other.clear()
            assert footprint(client) == alone
            with Tun.create("tt1"):
                await other.apply("tt1", FULL, monitor.path)
                await routes.clear()
                # The sysctl belongs to both: the one that stays keeps it.
                assert "src_valid_mark = 1" in footprint(client)
                await other.clear()
        assert footprint(client) == before

    run(networks, tmp_path, work)


CRASH = """
import asyncio, sys
from pathlib import Path
from ipaddress import ip_interface, ip_network
from tunnel.policy.apply import MachineRoutes
from tunnel.policy.binding import BindingPolicy, Term
from tunnel.policy.interface import InterfaceType
from tunnel.policy.monitor import PathMonitor
from tunnel.settings import TunnelSettings
from tunnel.tun import Tun

async def main():
    policy = BindingPolicy((Term(InterfaceType.CELLULAR),))
    async with PathMonitor(policy, exclude={"tt0"}) as monitor:
        tun = Tun.create("tt0")
        await MachineRoutes(run=Path(sys.argv[1])).apply(
            "tt0",
            TunnelSettings((ip_interface("10.9.0.2/24"),), None, (ip_network("0.0.0.0/0"),)),
            monitor.path,
        )
        print("up", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_what_a_killed_one_left_is_removed_by_the_next(
    networks: TwoNetworks, tmp_path: FilePath
) -> None:
    client = networks.client
    before = footprint(client)
    process = client.start(
        [sys.executable, "-c", CRASH, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    children = FilePath(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    victim = int(children[0]) if children else process.pid
    os.kill(victim, signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    left = footprint(client)
    assert "oif wwan0" in left  # the control: it did leave something
    assert "table inet tunneld-0" in left
    assert "src_valid_mark = 1" in left

    async def work(monitor: PathMonitor, routes: MachineRoutes) -> None:
        await routes.start()
        assert footprint(client) == before

    log = run(networks, tmp_path, work)
    assert any("crashed" in line for line in log)
    assert footprint(client) == before
    assert PROTOCOL == 0x74


def test_binding_holds_beside_a_real_wg_quick(networks: TwoNetworks, tmp_path: FilePath) -> None:
    client = networks.client
    if shutil.which("wg-quick") is None or shutil.which("wireguard-go") is None:
        pytest.skip("wg-quick and wireguard-go are not installed")
    for scope in ("all", "wwan0", "wlan0"):
        client.sysctl(f"net.ipv4.conf.{scope}.rp_filter", 1)
    config = tmp_path / f"wq{os.getpid()}.conf"
    key = client.run("wg genkey").stdout.strip()
    config.write_text(
        f"[Interface]\nPrivateKey = {key}\nAddress = 10.66.0.2/24\n"
        f"[Peer]\nPublicKey = {key}\nAllowedIPs = 0.0.0.0/0\nEndpoint = {FAR}:51820\n"
    )
    config.chmod(0o600)
    quick = ["env", "WG_QUICK_USERSPACE_IMPLEMENTATION=wireguard-go", "wg-quick"]
    before = footprint(client)

    async def work(monitor: PathMonitor, routes: MachineRoutes) -> None:
        await routes.apply(None, TunnelSettings(), monitor.path)
        outer = OuterSockets()
        outer.open(interface="wwan0")
        with answering(networks.cell, socket.AF_INET) as at:
            client.run([*quick, "up", str(config)])
            try:
                # The control: its rules come first and send the reverse-path check to its tunnel.
                client.sysctl("net.ipv4.conf.all.src_valid_mark", 0)
                assert not exchange(outer, at, FAR)
                changed = await monitor.refresh()
                await routes.apply(None, TunnelSettings(), changed)
                assert exchange(outer, at, FAR)
                assert f"dev {config.stem}" in client.ip(f"route get {FAR}")
            finally:
                client.run([*quick, "down", str(config)])
        outer.close()

    run(networks, tmp_path, work)
    assert footprint(client) == before


def test_nothing_leaves_elsewhere_when_the_permitted_interface_is_gone(
    networks: TwoNetworks, tmp_path: FilePath
) -> None:
    """Even if nobody closed the sockets in time, as between the kernel's news and our reaction."""

    def attempt(outer: OuterSockets) -> None:
        for fd, far in zip(outer.pairs[0], (FAR, FAR6), strict=True):
            with socket.socket(fileno=os.dup(fd)) as one, contextlib.suppress(OSError):
                one.sendto(b"outer", (far, 7000))

    async def work(monitor: PathMonitor, routes: MachineRoutes) -> None:
        await routes.apply(None, TunnelSettings(), monitor.path)
        outer = OuterSockets()
        outer.open(interface="wwan0")
        with (
            answering(networks.wifi, socket.AF_INET) as at4,
            answering(networks.wifi, socket.AF_INET6) as at6,
        ):
            for change in ("addr flush dev wwan0", "link set wwan0 down", "link del wwan0"):
                networks.client.ip(change)
                attempt(outer)
                await routes.apply(None, TunnelSettings(), await monitor.refresh())
                assert monitor.path.interface is None
                attempt(outer)
            outer.rebind(None)
            attempt(outer)
            # The control, and proof that nothing came before it: the first packet is this one's.
            for at in (at4, at6):
                assert at.recv(99) == b"outer"
                at.setblocking(False)
                with pytest.raises(BlockingIOError):
                    at.recv(99)
        with pytest.raises(MissingFacilityError, match="wwan0"):
            outer.open(interface="wwan0")
        assert outer.pairs == []
        outer.close()

    run(networks, tmp_path, work)
