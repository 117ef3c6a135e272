"""Which network is behind an interface: routers, resolvers, and what the managers say."""

from __future__ import annotations

import asyncio
from pathlib import Path as FilePath

import pytest
from dbus_fast import Variant

from tests.bus import (
    DEVICE,
    POINT_2,
    WIRELESS,
    WLAN,
    WWAN,
    dbus_daemon,
    modem_manager,
    network_manager,
    service,
)
from tests.netns.conftest import TwoNetworks, address
from tunnel.policy import modemmanager, networkmanager
from tunnel.policy.binding import BindingPolicy, Term
from tunnel.policy.change import ChangeKind, PathChange
from tunnel.policy.dnswatch import DnsWatch
from tunnel.policy.interface import InterfaceType
from tunnel.policy.monitor import PathMonitor
from tunnel.policy.path import PathStatus

pytestmark = pytest.mark.root


async def until_kind(monitor: PathMonitor, kind: ChangeKind) -> PathChange:
    async with asyncio.timeout(10):
        async for change in monitor:
            if kind in change.kinds:
                return change
    raise AssertionError("the monitor ended")


def test_another_machine_with_the_gateways_address_is_another_network(
    networks: TwoNetworks,
) -> None:
    client, cell = networks.client, networks.cell

    async def main() -> None:
        async with PathMonitor(BindingPolicy((Term("wwan0"),))) as monitor:
            client.run("ping -c1 -W2 10.2.0.1")
            async with asyncio.timeout(5):
                while not any(monitor.path.interfaces[0].routers):
                    await monitor.refresh()
            before = monitor.path.interfaces[0].routers[0]
            # The address moves to other hardware, which says so as a new router does.
            cell.ip("link set down0 down")
            cell.ip("link set down0 address 02:00:00:00:00:77")
            cell.ip("link set down0 up")
            client.ip("neigh flush dev wwan0")
            client.run("ping -c1 -W2 10.2.0.1")
            change = await until_kind(monitor, ChangeKind.NETWORK)
            assert f"10.2.0.1 on wwan0 is another router (02:00:00:00:00:77, was {before})" in (
                change.cause
            )

    with client.entered():
        asyncio.run(main())


def test_the_managers_classify_and_say_what_could_be_connected(
    networks: TwoNetworks, tmp_path: FilePath
) -> None:
    client = networks.client
    client.ip("link set wwan0 down")

    async def main(bus: str) -> None:
        policy = BindingPolicy((Term(InterfaceType.CELLULAR),))
        async with (
            service(bus, networkmanager.SERVICE, network_manager()) as nm,
            service(bus, modemmanager.SERVICE, modem_manager()),
            PathMonitor(policy, bus=bus) as monitor,
        ):
            # Known from the beginning: a bound tunnel must not start before it knows.
            assert "wwan0 (cellular) is registered with Op but not connected" in monitor.path.reason
            assert monitor.path.status is PathStatus.SATISFIABLE
            client.ip("link set wwan0 up")
            address(client, "wwan0", 2, 700)
            nm.change(WWAN, DEVICE, State=Variant("u", 100))
            async with asyncio.timeout(5):
                while monitor.path.interface is None:
                    await anext(monitor)
            found = monitor.path.interface
            assert found.classification.evidence == "ModemManager port"
            assert (found.operator, found.roaming, found.expensive) == ("Op", True, True)
            # The same Wi-Fi interface in another Wi-Fi network.
            monitor.set_policy(BindingPolicy((Term(InterfaceType.WIFI),)))
            await until_kind(monitor, ChangeKind.INTERFACE)
            nm.change(WLAN, WIRELESS, ActiveAccessPoint=Variant("o", POINT_2))
            change = await until_kind(monitor, ChangeKind.NETWORK)
            assert "wlan0 joined another network" in change.cause
            assert change.new.interface is not None
            assert change.new.interface.type is InterfaceType.WIFI

    with dbus_daemon(tmp_path) as bus, client.entered():
        asyncio.run(main(bus))


def test_without_entering_it_the_monitor_can_be_iterated(networks: TwoNetworks) -> None:
    async def main() -> None:
        monitor = PathMonitor(BindingPolicy((Term("wwan0"),)))
        first = asyncio.create_task(anext(monitor))
        async with asyncio.timeout(10):
            while monitor.path.interface is None:  # noqa: ASYNC110 - it tells changes only
                await asyncio.sleep(0.01)
            networks.client.ip("link set wwan0 mtu 1300")
            assert "MTU 1300" in (await first).cause
        await monitor.aclose()

    with networks.client.entered():
        asyncio.run(main())


@pytest.mark.parametrize(
    "file",
    [
        "etc/resolv.conf",
        "run/systemd/resolve/netif/3",
        "run/systemd/netif/links/3",
        "var/lib/NetworkManager/internal-1-wwan0.lease",
        "run/resolvconf/interface/wwan0.dhcp",
    ],
)
def test_other_resolvers_are_noticed(tmp_path: FilePath, file: str) -> None:
    """A file is written, replaced and removed; its folder may come later than the watch."""
    path = tmp_path / file
    (tmp_path / "etc").mkdir()

    async def main() -> None:
        changed = asyncio.Event()
        watch = DnsWatch(changed.set, tmp_path)
        watch.start()

        async def look() -> None:
            """Let the loop see what the kernel has queued: it does so in the call that changes."""
            for _ in range(3):
                await asyncio.sleep(0)

        async def noticed() -> None:
            async with asyncio.timeout(10):
                await changed.wait()
            await look()
            changed.clear()

        path.parent.mkdir(parents=True, exist_ok=True)
        if not file.startswith("etc"):
            await noticed()
        path.write_text("nameserver 192.0.2.1\n")
        await noticed()
        other = path.with_name("new")
        other.write_text("nameserver 192.0.2.2\n")
        other.rename(path)
        await noticed()
        path.unlink()
        await noticed()
        (tmp_path / "etc" / "passwd").write_text("")  # the control: nobody's resolver
        await look()
        assert not changed.is_set()
        watch.close()
        watch.close()

    asyncio.run(main())
