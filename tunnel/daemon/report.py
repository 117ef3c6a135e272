"""The JSON of the control socket, as contract.md fixes it: nested, `schema` 1, absent is null."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from tunnel.policy.path import Path
from tunnel.provider import TunnelStatus
from tunnel.settings import Address
from tunnel.values import BadValue, address, endpoint

SCHEMA: Final = 1


class Barrier(Protocol):
    """What is told of a session's kill switch."""

    @property
    def state(self) -> str:
        """off, blocked, connecting or connected."""

    @property
    def opening(self) -> str | None:
        """A captive portal's opening, in words."""


#: The keys of one peer; a provider need not know them all.
PEER_KEYS: Final = (
    "public_key",
    "endpoint",
    "handshake_age",
    "rtt",
    "rx_bytes",
    "tx_bytes",
    "reason",
)


def status_report(
    interface: str,
    status: TunnelStatus,
    reason: str,
    path: Path | None,
    peers: Sequence[Mapping[str, Any]],
    barrier: Barrier,
) -> dict[str, Any]:
    """Return the answer to `tunnelctl status --json`; `path` None before there is one."""
    return {
        "schema": SCHEMA,
        "interface": interface,
        "status": status.value,
        "status_reason": reason or None,
        "path": None if path is None else path_report(path),
        "kill_switch": barrier.state,
        "kill_switch_opening": barrier.opening,
        "peers": [{key: peer.get(key) for key in (*PEER_KEYS, *peer)} for peer in peers],
    }


def path_report(path: Path) -> dict[str, Any]:
    """Return the `path` part: what the interface in use is, null where there is none."""
    used = path.interface
    return {
        "status": path.status.value,
        "reason": path.reason or None,
        "interface": None if used is None else used.name,
        "type": None if used is None else used.type.value,
        "expensive": None if used is None else used.expensive,
        "constrained": None if used is None else used.constrained,
        "gateways": [] if used is None else [str(gateway) for gateway in used.gateways],
        "mtu": None if used is None else used.mtu,
    }


def stats_report(interface: str, counters: Mapping[str, int]) -> dict[str, Any]:
    """Return the answer to `tunnelctl stats --json`: every counter by its name."""
    return {"schema": SCHEMA, "interface": interface, "counters": dict(counters)}


def endpoints(peers: Iterable[Mapping[str, Any]]) -> list[Address]:
    """Return the addresses of a report's peers, as far as they are known."""
    found = []
    for peer in peers:
        with contextlib.suppress(BadValue):
            found.append(address(endpoint(peer.get("endpoint") or "").host))
    return found
