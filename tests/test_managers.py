"""What the network managers say, over a real D-Bus with stand-ins for the services."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from dbus_fast import Variant

from tests.bus import (
    DEVICE,
    MODEM,
    MODEM_0,
    POINT,
    POINT_1,
    POINT_2,
    WIRELESS,
    WLAN,
    WWAN,
    dbus_daemon,
    modem_manager,
    network_manager,
    service,
)
from tunnel.policy import modemmanager, networkmanager
from tunnel.policy.interface import InterfaceType
from tunnel.policy.managers import Managers, machine_bus

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@contextlib.asynccontextmanager
async def asking(address: str) -> AsyncIterator[tuple[Managers, Callable[..., object]]]:
    changed = asyncio.Event()
    managers = Managers(address, changed.set)

    async def until(done: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not done():
                changed.clear()
                await changed.wait()

    managers.start()
    try:
        yield managers, until
    finally:
        await managers.aclose()


def test_both_services_are_heard_and_followed(tmp_path: Path) -> None:
    async def main(address: str) -> None:
        async with (
            service(address, networkmanager.SERVICE, network_manager()) as nm,
            service(address, modemmanager.SERVICE, modem_manager()) as mm,
            asking(address) as (managers, until),
        ):
            await until(lambda: len(managers.said) >= 2)
            wlan, wwan = managers.said["wlan0"], managers.said["wwan0"]
            assert wlan.classification is not None
            assert wlan.classification.type is InterfaceType.WIFI
            assert wlan.classification.evidence == "NetworkManager device type wifi"
            assert (wlan.metered, wlan.ssid, wlan.waiting) == (False, "Home", "")
            assert wwan.classification is not None
            assert wwan.classification.type is InterfaceType.CELLULAR
            assert (wwan.operator, wwan.roaming, wwan.metered) == ("Op", True, True)
            assert wwan.waiting == "is registered with Op but not connected"
            # Another network, told by one signal.
            nm.change(WLAN, WIRELESS, ActiveAccessPoint=Variant("o", POINT_2))
            await until(lambda: managers.said["wlan0"].ssid == "Caf\\xe9")
            mm.change(MODEM_0, MODEM, State=Variant("i", 11))
            nm.change(WWAN, DEVICE, State=Variant("u", 100))
            await until(lambda: managers.said["wwan0"].waiting == "")
            # What changes all the time is not asked about.
            asked = nm.asked
            for strength in range(50):
                nm.say(POINT_1, POINT, Strength=Variant("y", strength))
                nm.say(WLAN, WIRELESS, Bitrate=Variant("u", strength))
            nm.change(WLAN, DEVICE, Metered=Variant("u", 1))
            await until(lambda: managers.said["wlan0"].metered is True)
            assert nm.asked - asked <= 2

    with dbus_daemon(tmp_path) as address:
        asyncio.run(main(address))


def test_services_that_come_later_and_go(tmp_path: Path) -> None:
    async def main(address: str) -> None:
        async with asking(address) as (managers, until):
            async with service(address, networkmanager.SERVICE, network_manager()):
                await until(lambda: "wlan0" in managers.said)
            await until(lambda: not managers.said)
            async with service(address, modemmanager.SERVICE, modem_manager()):
                await until(lambda: managers.said.keys() == {"wwan0"})

    with dbus_daemon(tmp_path) as address:
        asyncio.run(main(address))


def test_a_bus_that_is_not_there_or_goes_away_is_borne(tmp_path: Path) -> None:
    async def main() -> None:
        async with asking(f"unix:path={tmp_path}/none") as (managers, _):
            await asyncio.sleep(0.05)
            assert managers.said == {}
        with dbus_daemon(tmp_path) as address:
            async with (
                asking(address) as (managers, until),
                service(address, networkmanager.SERVICE, network_manager()) as nm,
            ):
                await until(lambda: bool(managers.said))
                nm.objects.clear()
                nm.say(WLAN, DEVICE)
                await until(lambda: not managers.said)

    asyncio.run(main())


def test_a_bus_named_on_purpose_counts_in_any_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere")
    assert machine_bus() == "unix:path=/nowhere"


@pytest.mark.parametrize(
    ("state", "waiting"),
    [(20, ""), (30, "is not connected, NetworkManager says"), (100, ""),
     (70, "is being connected by NetworkManager")],
)  # fmt: skip
def test_device_states(state: int, waiting: str) -> None:
    device = {"Interface": "eth0", "DeviceType": 1, "State": state}
    assert networkmanager.said({"/1": {DEVICE: device}})["eth0"].waiting == waiting


def test_odd_objects_say_nothing() -> None:
    assert networkmanager.said({"/": {}, "/1": {DEVICE: {}}}) == {}
    assert modemmanager.said({"/1": {MODEM: {"Ports": []}}}, {}) == {}
    (said,) = networkmanager.said({"/1": {DEVICE: {"Interface": "x", "DeviceType": 99}}}).values()
    assert said.classification is None
    bearer = {"Interface": "ppp0", "Connected": True}
    objects = {"/1": {MODEM: {"Bearers": ["/b"], "State": 11}}}
    assert modemmanager.said(objects, {"/b": bearer}).keys() == {"ppp0"}
    assert modemmanager.bearers(objects) == ["/b"]
