"""The path monitor against the kernel, and the sockets that follow it."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable

import pytest

from tests.netns.conftest import TwoNetworks, address
from tunnel.bind import OuterSockets
from tunnel.policy.binding import BindingPolicy, Term
from tunnel.policy.change import PathChange
from tunnel.policy.interface import InterfaceType
from tunnel.policy.monitor import PathMonitor
from tunnel.policy.path import Path, PathStatus
from tunnel.policy.state import Override

pytestmark = pytest.mark.root

CELLULAR = BindingPolicy((Term(InterfaceType.CELLULAR),))


async def until(monitor: PathMonitor, done: Callable[[Path], bool]) -> list[PathChange]:
    """Follow the monitor until a path fulfils the condition; fails after ten seconds."""
    seen: list[PathChange] = []
    async with asyncio.timeout(10):
        async for change in monitor:
            seen.append(change)
            if done(change.new):
                return seen
    raise AssertionError("the monitor ended")


def unsatisfied(reason: str) -> Callable[[Path], bool]:
    return lambda path: path.status is PathStatus.UNSATISFIED and reason in path.reason


def on(name: str) -> Callable[[Path], bool]:
    return lambda path: path.interface is not None and path.interface.name == name


def run(
    networks: TwoNetworks, policy: BindingPolicy, work: Callable[[PathMonitor], Awaitable[None]]
) -> None:
    async def main() -> None:
        async with PathMonitor(policy) as monitor:
            await work(monitor)

    with networks.client.entered():
        asyncio.run(main())


def test_the_first_path_is_there_at_once(networks: TwoNetworks) -> None:
    async def work(monitor: PathMonitor) -> None:
        found = monitor.path.interface
        assert found is not None
        assert found.name == "wwan0"
        assert found.type is InterfaceType.CELLULAR
        assert found.classification.evidence == "name wwan0"
        assert found.routed == {4, 6}
        assert monitor.path.bound

    run(networks, CELLULAR, work)


def test_unbound_follows_the_routes(networks: TwoNetworks) -> None:
    async def work(monitor: PathMonitor) -> None:
        assert on("wlan0")(monitor.path)
        assert not monitor.path.bound
        networks.wifi.ip("link set down0 down")
        await until(monitor, on("wwan0"))
        networks.wifi.ip("link set down0 up")
        await until(monitor, on("wlan0"))

    run(networks, BindingPolicy(), work)


def test_carrier(networks: TwoNetworks) -> None:
    async def work(monitor: PathMonitor) -> None:
        networks.cell.ip("link set down0 down")
        seen = await until(monitor, unsatisfied("wwan0 (cellular) has no carrier"))
        assert "wwan0 lost its carrier" in seen[-1].cause
        networks.cell.ip("link set down0 up")
        await until(monitor, on("wwan0"))

    run(networks, CELLULAR, work)


def test_admin_down_and_up_takes_the_routes_silently(networks: TwoNetworks) -> None:
    async def work(monitor: PathMonitor) -> None:
        networks.client.ip("link set wwan0 down")
        seen = await until(monitor, lambda p: "wwan0 (cellular) is down" in p.reason)
        assert seen[-1].new.status is PathStatus.SATISFIABLE  # whoever brings it up has a path
        networks.client.ip("link set wwan0 up")
        # The kernel brings the interface back, but not the default routes.
        await until(monitor, unsatisfied("wwan0 (cellular) has no default route"))
        address(networks.client, "wwan0", 2, 700)
        await until(monitor, on("wwan0"))

    run(networks, CELLULAR, work)


def test_no_default_route(networks: TwoNetworks) -> None:
    async def work(monitor: PathMonitor) -> None:
        networks.client.ip("route del default dev wwan0")
        seen = await until(monitor, lambda path: path.supports(6) and not path.supports(4))
        networks.client.ip("-6 route del default dev wwan0")
        seen = await until(monitor, unsatisfied("wwan0 (cellular) has no default route"))
        assert "wwan0 has no default route" in seen[-1].cause

    run(networks, CELLULAR, work)


def test_renamed(networks: TwoNetworks) -> None:
    async def work(monitor: PathMonitor) -> None:
        networks.client.ip("link set wwan0 down")
        networks.client.ip("link set wwan0 name uplink")
        networks.client.ip("link set uplink up")
        address(networks.client, "uplink", 2, 700)
        seen = await until(monitor, unsatisfied("uplink (other) is not permitted"))
        assert not on("uplink")(seen[-1].new)

    run(networks, CELLULAR, work)


def test_renamed_to_a_name_that_is_permitted(networks: TwoNetworks) -> None:
    policy = BindingPolicy((Term("wwan0"), Term("uplink")))

    async def work(monitor: PathMonitor) -> None:
        networks.client.ip("link set wwan0 down")
        networks.client.ip("link set wwan0 name uplink")
        networks.client.ip("link set uplink up")
        address(networks.client, "uplink", 2, 700)
        await until(monitor, on("uplink"))

    run(networks, policy, work)


def test_readdressed(networks: TwoNetworks) -> None:
    async def work(monitor: PathMonitor) -> None:
        networks.client.ip("addr add 10.2.0.77/24 dev wwan0")
        seen = await until(
            monitor,
            lambda path: (
                path.interface is not None
                and "10.2.0.77" in {str(a.ip) for a in path.interface.addresses}
            ),
        )
        assert seen[-1].cause == "wwan0 has other addresses"

    run(networks, CELLULAR, work)


def test_mtu_and_other_routes(networks: TwoNetworks) -> None:
    async def work(monitor: PathMonitor) -> None:
        networks.client.ip("link set wwan0 mtu 1428")
        seen = await until(monitor, lambda p: p.interface is not None and p.interface.mtu == 1428)
        assert "wwan0 has MTU 1428, had 1500" in seen[-1].cause
        networks.client.ip("route add 198.51.100.0/24 via 10.2.0.1 dev wwan0")
        seen = await until(monitor, on("wwan0"))
        assert seen[-1].cause == "routes of wwan0 changed"
        networks.client.ip("rule add pref 300 from all lookup 99")
        seen = await until(monitor, on("wwan0"))
        assert seen[-1].cause == "routing rules changed"

    run(networks, CELLULAR, work)


def test_duplicate_address_detection(networks: TwoNetworks) -> None:
    client = networks.client
    client.sysctl("net.ipv6.conf.wwan0.accept_dad", 1)
    client.ip("addr flush dev wwan0 scope global")

    async def work(monitor: PathMonitor) -> None:
        assert monitor.path.status is PathStatus.UNSATISFIED
        client.ip("-6 addr add fd00:2::9/64 dev wwan0")
        client.ip("-6 route add default via fd00:2::1 dev wwan0")
        tentative = client.ip("-6 addr show dev wwan0 tentative")
        seen = await until(monitor, on("wwan0"))
        if "fd00:2::9" in tentative:
            first = seen[0].new if len(seen) > 1 else seen[0].old
            assert first.status is PathStatus.UNSATISFIED
        assert "fd00:2::9" not in client.ip("-6 addr show dev wwan0 tentative")

    run(networks, CELLULAR, work)


def test_overrides_and_exclusion(networks: TwoNetworks) -> None:
    async def main() -> None:
        overrides = {"wlan0": Override(type=InterfaceType.CELLULAR)}
        async with PathMonitor(CELLULAR, overrides) as monitor:
            assert [i.name for i in monitor.path.interfaces] == ["wlan0", "wwan0"]
        async with PathMonitor(CELLULAR, overrides, exclude={"wlan0"}) as monitor:
            assert [i.name for i in monitor.path.interfaces] == ["wwan0"]
            monitor.set_policy(BindingPolicy((Term(InterfaceType.WIFI),)))
            await until(monitor, unsatisfied("no permitted interface"))

    with networks.client.entered():
        asyncio.run(main())


def test_iteration_ends_with_the_monitor(networks: TwoNetworks) -> None:
    async def work(monitor: PathMonitor) -> None:
        async def follow() -> int:
            return len([change async for change in monitor])

        follower = asyncio.create_task(follow())
        networks.client.ip("link set wwan0 mtu 1400")
        while monitor.path.interface is None or monitor.path.interface.mtu != 1400:
            await monitor.refresh()
        await monitor.aclose()
        assert await asyncio.wait_for(follower, 5) >= 1

    run(networks, CELLULAR, work)


def test_a_storm_is_read_few_times_and_lost_notifications_do_not_matter(
    networks: TwoNetworks,
) -> None:
    async def work(monitor: PathMonitor) -> None:
        watch = monitor._socket
        assert watch is not None
        watch.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # a few messages: ENOBUFS
        lines = "".join(
            f"route add 198.51.{i}.{j}/32 via 10.1.0.1\n" for i in range(8) for j in range(250)
        )
        before, used = monitor.readings, time.process_time()
        storm = asyncio.to_thread(networks.client.run, "ip -batch -", input=lines)
        await storm
        networks.client.ip("link set wwan0 mtu 1300")
        await until(monitor, lambda p: p.interface is not None and p.interface.mtu == 1300)
        assert monitor.readings - before < 500  # of 2001 notifications
        assert time.process_time() - used < 10
        # Nothing goes on when nothing happens.
        await asyncio.sleep(0.3)
        quiet = monitor.readings
        await asyncio.sleep(0.3)
        assert monitor.readings == quiet

    run(networks, CELLULAR, work)


def test_sockets_follow_a_link_that_is_made_again(
    networks: TwoNetworks, record_property: Callable[[str, object], None]
) -> None:
    client, cell = networks.client, networks.cell

    async def work(monitor: PathMonitor) -> None:
        outer = OuterSockets()
        outer.open(interface="wwan0")
        loop = asyncio.get_running_loop()
        delays = []
        for round_ in range(5):
            before = monitor.path.interface
            assert before is not None
            client.ip("link del wwan0")
            await until(monitor, unsatisfied("no permitted interface"))
            client.ip(f"link add wwan0 type veth peer name down0 netns {cell.name}")
            cell.ip("link set down0 up")
            cell.ip("addr add 10.2.0.1/24 dev down0")
            cell.ip("-6 addr add fd00:2::1/64 dev down0 nodad")
            client.ip("link set wwan0 up")
            address(client, "wwan0", 2, 700)
            await until(monitor, on("wwan0"))
            outer.rebind("wwan0")
            after = monitor.path.interface
            assert after is not None
            assert after.index != before.index
            with socket.socket(fileno=os.dup(outer.pairs[0][0])) as one:
                one.sendto(b"x", ("10.2.0.1", 9))
            # From the kernel's RTM_NEWLINK to sockets that are bound again: its MTU changes.
            began = loop.time()
            client.ip(f"link set wwan0 mtu {1400 + round_}")
            commanded = loop.time()
            await until(
                monitor,
                lambda p, mtu=1400 + round_: p.interface is not None and p.interface.mtu == mtu,
            )
            outer.rebind("wwan0")
            delays.append((loop.time() - commanded, loop.time() - began))
        outer.close()
        milliseconds = sorted(round(1000 * d, 1) for d, _ in delays)
        record_property("rebind_ms", milliseconds)
        print("from `ip link` having returned to sockets bound again, ms:", milliseconds)

    run(networks, CELLULAR, work)
