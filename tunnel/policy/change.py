"""What changed between two states of the network, in words. Pure.

A PathChange is worth telling when the path itself differs, or when something differs that the
kernel's sockets and our tables depend on though the path reads the same: routes of an interface in
use, or other programs' rules.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tunnel.policy.interface import Interface
from tunnel.policy.path import Path
from tunnel.policy.state import NetworkState


@dataclass(frozen=True, slots=True)
class PathChange:
    """The path before and after, and why, as in 'wwan0: lost its carrier'."""

    old: Path
    new: Path
    cause: str

    def then(self, later: PathChange) -> PathChange:
        """Merge with a later change that nobody has seen yet."""
        causes = dict.fromkeys((*self.cause.split("; "), *later.cause.split("; ")))
        return replace(later, old=self.old, cause="; ".join(causes))


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
    if old != new or rerouted:
        names = sorted(before.keys() | after.keys())
        found = {name: differences(before.get(name), after.get(name)) for name in names}
        # Of what happened at the same time, that of the interfaces in use is the likelier cause.
        causes += [cause for name in names if name in used for cause in found[name]]
        causes += [f"routes of {name} changed" for name in sorted(rerouted) if not found[name]]
        causes = causes or [cause for name in names for cause in found[name]]
    if old_state.rules != new_state.rules:
        causes.append("routing rules changed")
    if old == new and not causes:
        return None
    return PathChange(old, new, "; ".join(causes) or "the policy changed")


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
    if before.dns != after.dns:
        said.append(f"{name} has other DNS servers")
    if before.classification != after.classification:
        said.append(f"{name} counts as {after.type.value} ({after.classification.evidence})")
    return said or [f"{name} changed"]
