"""What ModemManager says of interfaces, from its D-Bus objects. Pure.

`said` takes the answer to ObjectManager.GetManagedObjects, unpacked, and the bearers, which are not
in it. Names and numbers are those of ModemManager's D-Bus API (MMModemState, MMModemPortType,
MMModem3gppRegistrationState).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunnel.policy.interface import Classification, Confidence, InterfaceType
from tunnel.policy.networkmanager import Objects
from tunnel.policy.state import Said

SERVICE = "org.freedesktop.ModemManager1"
ROOT = "/org/freedesktop/ModemManager1"
MODEM = f"{SERVICE}.Modem"
MODEM_3GPP = f"{MODEM}.Modem3gpp"
BEARER = f"{SERVICE}.Bearer"
TELLING = frozenset((MODEM, MODEM_3GPP, BEARER))
TELLING_NOTHING = frozenset(("SignalQuality", "Stats"))

_PORT_NET = 2
_LOCKED, _SEARCHING, _REGISTERED, _CONNECTING = 2, 7, 8, 10
_ROAMING = {1: False, 5: True, 6: False, 7: True, 9: False, 10: True}


def bearers(objects: Objects) -> list[str]:
    """Return the paths of the bearers that `said` wants to know of."""
    modems = (interfaces.get(MODEM, {}) for interfaces in objects.values())
    return [path for modem in modems for path in modem.get("Bearers", ())]


def said(objects: Objects, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Said]:
    """Return what it says, by interface name. `known` has the bearers' properties by path."""
    found: dict[str, Said] = {}
    for interfaces in objects.values():
        modem = interfaces.get(MODEM)
        if modem is None:
            continue
        network = interfaces.get(MODEM_3GPP, {})
        operator = network.get("OperatorName") or network.get("OperatorCode") or None
        one = Said(
            waiting=_waiting(modem.get("State", 0), operator),
            operator=operator,
            roaming=_ROAMING.get(network.get("RegistrationState", 4)),
        )
        names = {name: "port" for name, kind in modem.get("Ports", ()) if kind == _PORT_NET}
        for path in modem.get("Bearers", ()):
            if name := known.get(path, {}).get("Interface"):
                names[name] = "bearer"
        for name, what in names.items():
            evidence = f"ModemManager {what}"
            kind = Classification(InterfaceType.CELLULAR, evidence, Confidence.CERTAIN)
            found[name] = Said(kind).over(one)
    return found


def _waiting(state: int, operator: str | None) -> str:
    with_whom = f" with {operator}" if operator else ""
    if state == _REGISTERED:
        return f"is registered{with_whom} but not connected"
    if state == _CONNECTING:
        return f"is connecting{with_whom}"
    return ""
