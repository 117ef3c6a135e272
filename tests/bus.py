"""A real dbus-daemon with a stand-in for a service on it: its objects, and their changes."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

Objects = dict[str, dict[str, dict[str, Variant]]]


@contextlib.contextmanager
def dbus_daemon(folder: Path) -> Iterator[str]:
    """Run a bus on a socket in the folder; yields its address."""
    program = shutil.which("dbus-daemon")
    if program is None:
        pytest.skip("dbus-daemon is not installed")
    address = f"unix:path={folder}/bus"
    process = subprocess.Popen(
        [program, "--session", "--nofork", "--nopidfile", f"--address={address}",
         "--print-address"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield address
    finally:
        process.terminate()
        process.wait(5)
        if process.stdout is not None:
            process.stdout.close()


class Service:
    """Answers GetManagedObjects and GetAll from `objects`, as the real services do."""

    def __init__(self, bus: MessageBus, objects: Objects) -> None:
        self.bus = bus
        self.objects = objects
        self.asked = 0
        bus.add_message_handler(self._answer)

    def change(self, path: str, interface: str, **properties: Variant) -> None:
        """Change properties of an object, and say so."""
        self.objects[path][interface].update(properties)
        self.say(path, interface, **properties)

    def say(self, path: str, interface: str, **properties: Variant) -> None:
        """Send PropertiesChanged."""
        self.bus.send(
            Message.new_signal(
                path,
                "org.freedesktop.DBus.Properties",
                "PropertiesChanged",
                "sa{sv}as",
                [interface, properties, []],
            )
        )

    def _answer(self, message: Message) -> Message | None:
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        if message.member == "GetManagedObjects":
            self.asked += 1
            body: list[Any] = [self.objects]
            return Message.new_method_return(message, "a{oa{sa{sv}}}", body)
        if message.member == "GetAll":
            found = self.objects.get(str(message.path), {}).get(message.body[0], {})
            return Message.new_method_return(message, "a{sv}", [found])
        return None


@contextlib.asynccontextmanager
async def service(address: str, name: str, objects: Objects) -> AsyncIterator[Service]:
    """Put a stand-in with this well-known name onto the bus."""
    bus = await MessageBus(bus_address=address).connect()
    stand_in = Service(bus, objects)
    await bus.request_name(name)
    try:
        yield stand_in
    finally:
        bus.disconnect()
        await asyncio.sleep(0)


DEVICE, WIRELESS = (
    "org.freedesktop.NetworkManager.Device",
    ("org.freedesktop.NetworkManager.Device.Wireless"),
)
POINT = "org.freedesktop.NetworkManager.AccessPoint"
MODEM = "org.freedesktop.ModemManager1.Modem"
MODEM_3GPP = f"{MODEM}.Modem3gpp"
BEARER = "org.freedesktop.ModemManager1.Bearer"
WLAN, WWAN, POINT_1, POINT_2 = (
    f"/org/freedesktop/NetworkManager/{end}"
    for end in ("Devices/2", "Devices/3", "AccessPoint/1", "AccessPoint/2")
)
MODEM_0, BEARER_0 = (f"/org/freedesktop/ModemManager1/{end}" for end in ("Modem/0", "Bearer/0"))


def network_manager() -> Objects:
    """A laptop in a Wi-Fi network, with a modem that is not connected."""
    return {
        WLAN: {
            DEVICE: {
                "Interface": Variant("s", "wlan0"),
                "DeviceType": Variant("u", 2),
                "State": Variant("u", 100),
                "Metered": Variant("u", 4),
            },
            WIRELESS: {"ActiveAccessPoint": Variant("o", POINT_1)},
        },
        WWAN: {
            DEVICE: {
                "Interface": Variant("s", "cdc-wdm0"),
                "IpInterface": Variant("s", "wwan0"),
                "DeviceType": Variant("u", 8),
                "State": Variant("u", 30),
                "Metered": Variant("u", 1),
            }
        },
        POINT_1: {POINT: {"Ssid": Variant("ay", b"Home"), "Strength": Variant("y", 80)}},
        POINT_2: {POINT: {"Ssid": Variant("ay", b"Caf\xe9"), "Strength": Variant("y", 60)}},
    }


def modem_manager() -> Objects:
    """A modem that is registered while roaming, not connected."""
    return {
        MODEM_0: {
            MODEM: {
                "State": Variant("i", 8),
                "Ports": Variant("a(su)", [["cdc-wdm0", 6], ["wwan0", 2]]),
                "Bearers": Variant("ao", [BEARER_0]),
            },
            MODEM_3GPP: {
                "OperatorName": Variant("s", "Op"),
                "RegistrationState": Variant("u", 5),
            },
        },
        BEARER_0: {BEARER: {"Interface": Variant("s", ""), "Connected": Variant("b", False)}},
    }
