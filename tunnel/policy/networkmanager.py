"""What NetworkManager says of interfaces, from its D-Bus objects. Pure.

`said` takes the answer to ObjectManager.GetManagedObjects, unpacked: path -> interface -> property
-> value. Names and numbers are those of NetworkManager's D-Bus API (NMDeviceType, NMDeviceState,
NMMetered).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunnel.policy.interface import Classification, Confidence, InterfaceType
from tunnel.policy.state import Said

SERVICE = "org.freedesktop.NetworkManager"
ROOT = "/org/freedesktop"
"""Where its object manager is."""
DEVICE = f"{SERVICE}.Device"
WIRELESS = f"{DEVICE}.Wireless"
ACCESS_POINT = f"{SERVICE}.AccessPoint"
TELLING = frozenset((DEVICE, WIRELESS, f"{SERVICE}.Connection.Active"))
"""Interfaces whose changed properties may change what is said here."""
TELLING_NOTHING = frozenset(("Bitrate", "LastScan", "AccessPoints", "RefreshRateMs"))

_TYPES = {
    1: (InterfaceType.WIRED, "ethernet"),
    2: (InterfaceType.WIFI, "wifi"),
    5: (InterfaceType.BLUETOOTH, "bluetooth"),
    6: (InterfaceType.WIFI, "OLPC mesh"),
    8: (InterfaceType.CELLULAR, "modem"),
    16: (InterfaceType.TUNNEL, "tun"),
    17: (InterfaceType.TUNNEL, "IP tunnel"),
    29: (InterfaceType.TUNNEL, "wireguard"),
    30: (InterfaceType.WIFI, "wifi p2p"),
    32: (InterfaceType.LOOPBACK, "loopback"),
}
_UNAVAILABLE, _DISCONNECTED, _ACTIVATED = 20, 30, 100
_METERED = {1: True, 2: False, 3: True, 4: False}

Objects = Mapping[str, Mapping[str, Mapping[str, Any]]]


def said(objects: Objects) -> dict[str, Said]:
    """Return what it says, by interface name."""
    found: dict[str, Said] = {}
    for interfaces in objects.values():
        device = interfaces.get(DEVICE)
        if device is None:
            continue
        point = interfaces.get(WIRELESS, {}).get("ActiveAccessPoint", "/")
        ssid = objects.get(point, {}).get(ACCESS_POINT, {}).get("Ssid")
        one = Said(
            classification=_classification(device),
            metered=_METERED.get(device.get("Metered", 0)),
            waiting=_waiting(device),
            ssid=bytes(ssid).decode(errors="backslashreplace") if ssid else None,
        )
        for key in ("Interface", "IpInterface"):
            if device.get(key):
                found[device[key]] = one
    return found


def _classification(device: Mapping[str, Any]) -> Classification | None:
    known = _TYPES.get(device.get("DeviceType", 0))
    if known is None:
        return None
    return Classification(known[0], f"NetworkManager device type {known[1]}", Confidence.CERTAIN)


def _waiting(device: Mapping[str, Any]) -> str:
    state = device.get("State", 0)
    if state == _DISCONNECTED:
        return "is not connected, NetworkManager says"
    if _DISCONNECTED < state < _ACTIVATED:
        return "is being connected by NetworkManager"
    return ""
