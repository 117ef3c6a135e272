"""What changed between two states of the network, in words. Pure.

A PathChange is worth telling when the path itself differs, or when something differs that the
kernel's sockets and our tables depend on though the path reads the same: routes of an interface in
use, or other programs' rules.

A change of *interface* is told apart from a change of *network*: the same interface that finds
itself behind another router, in another Wi-Fi network, or with other resolvers. The network is
another one when its SSID is, or the link-layer address of a gateway that kept its address, or the
DNS servers or search domains. A router that is merely heard of for the first time is no change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from tunnel.policy.interface import Interface
from tunnel.policy.path import Path
from tunnel.policy.state import NetworkState


class ChangeKind(Enum):
    """What is another one now."""

    INTERFACE = "interface"
    NETWORK = "network"
    DETAIL = "detail"


@dataclass(frozen=True, slots=True)
class PathChange:
    """The path before and after, and why, as in 'wwan0 lost its carrier'.

    `kinds` says whether another interface is in use, the network behind it is another one, or only
    details (addresses, MTU, routes, a path that stands by) differ.
    """

    old: Path
    new: Path
    cause: str
    kinds: frozenset[ChangeKind] = frozenset((ChangeKind.DETAIL,))

    def then(self, later: PathChange) -> PathChange:
        """Merge with a later change that nobody has seen yet."""
        causes = dict.fromkeys((*self.cause.split("; "), *later.cause.split("; ")))
        kinds = (self.kinds | later.kinds) - {ChangeKind.INTERFACE}
        kinds |= _kinds(self.old, later.new) & {ChangeKind.INTERFACE}
        return replace(later, old=self.old, cause="; ".join(causes), kinds=kinds)


def path_change(
    old_state: NetworkState, old: Path, new_state: NetworkState, new: Path
) -> PathChange | None:
    """Return the change to tell, or None when nothing that matters to the path differs."""
    before = {interface.name: interface for interface in old_state.interfaces}
    after = {interface.name: interface for interface in new_state.interfaces}
    used = {i.name for i in (*old.interfaces, *new.interfaces)}
    causes: list[str] = []
    rerouted = [
        name
        for name in after
        if name in used
        and name in before
        and old_state.routes_of(before[name]) != new_state.routes_of(after[name])
    ]
    differs = _told(old, new) != _told(new, old)
    if differs or rerouted:
        names = sorted(before.keys() | after.keys())
        found = {name: differences(before.get(name), after.get(name)) for name in names}
        # Of what happened at the same time, that of the interfaces in use is the likelier cause.
        causes += [cause for name in names if name in used for cause in found[name]]
        causes += [f"routes of {name} changed" for name in sorted(rerouted) if not found[name]]
        causes = causes or [cause for name in names for cause in found[name]]
    if (old_state.rules, old_state.leading) != (new_state.rules, new_state.leading):
        causes.append("routing rules changed")
    if not differs and not causes:
        return None
    return PathChange(old, new, "; ".join(causes) or "the policy changed", _kinds(old, new))


def network_differs(before: Interface, after: Interface) -> list[str]:
    """Say why the network behind an interface is another one; an empty list when it is not."""
    said = []
    name = after.name
    if before.ssid != after.ssid and after.ssid is not None and before.ssid is not None:
        said.append(f"{name} joined another network ({after.ssid!r}, was {before.ssid!r})")
    old, new = (dict(zip(i.gateways, i.routers, strict=False)) for i in (before, after))
    said += [
        f"{gateway} on {name} is another router ({new[gateway]}, was {old[gateway]})"
        for gateway in new
        if new[gateway] and old.get(gateway) and new[gateway] != old[gateway]
    ]
    if before.dns != after.dns:
        said.append(f"{name} has other DNS servers")
    if before.search != after.search:
        said.append(f"{name} has other search domains")
    return said


def _kinds(old: Path, new: Path) -> frozenset[ChangeKind]:
    before, after = old.interface, new.interface
    kinds = set()
    if (before and (before.name, before.index)) != (after and (after.name, after.index)):
        kinds.add(ChangeKind.INTERFACE)
    elif before is not None and after is not None and network_differs(before, after):
        kinds.add(ChangeKind.NETWORK)
    return frozenset(kinds or {ChangeKind.DETAIL})


def _told(path: Path, other: Path) -> Path:
    """Return the path without the routers that only one of the two has heard of."""
    unheard = {
        (i.index, gateway)
        for one in (path, other)
        for i in one.interfaces
        for gateway, router in zip(i.gateways, i.routers, strict=False)
        if not router
    }
    interfaces = tuple(
        replace(
            i,
            routers=tuple(
                "" if (i.index, gateway) in unheard else router
                for gateway, router in zip(i.gateways, i.routers, strict=False)
            ),
        )
        for i in path.interfaces
    )
    return replace(path, interfaces=interfaces)


def differences(before: Interface | None, after: Interface | None) -> list[str]:
    """Say how one interface differs between two readings; an empty list when it does not."""
    if before is None and after is not None:
        return [f"{after.name} appeared"]
    if after is None and before is not None:
        return [f"{before.name} is gone"]
    if before is None or after is None or before == after:
        return []
    name = after.name
    said: list[str] = []
    if before.index != after.index:
        said.append(f"{name} was made again")
    if before.up != after.up:
        said.append(f"{name} is {'up' if after.up else 'down'}")
    if before.carrier != after.carrier:
        said.append(f"{name} {'has its carrier back' if after.carrier else 'lost its carrier'}")
    if before.addresses != after.addresses:
        said.append(f"{name} has other addresses")
    if (before.gateways, before.routed, before.metric) != (
        after.gateways,
        after.routed,
        after.metric,
    ):
        said.append(f"{name} has {'another' if after.routed else 'no'} default route")
    if before.mtu != after.mtu:
        said.append(f"{name} has MTU {after.mtu}, had {before.mtu}")
    said += network_differs(before, after)
    if before.prefixes != after.prefixes:
        said.append(f"routers on {name} advertise other prefixes")
    if before.waiting != after.waiting and after.waiting:
        said.append(f"{name} {after.waiting}")
    if before.cut_off != after.cut_off:
        said.append(f"{name} is {'cut off' if after.cut_off else 'not cut off any more'}")
    if before.expensive != after.expensive:
        said.append(f"{name} is {'expensive' if after.expensive else 'not expensive any more'}")
    if before.classification != after.classification:
        said.append(f"{name} counts as {after.type.value} ({after.classification.evidence})")
    return said or [f"{name} changed"]
