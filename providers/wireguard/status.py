"""How the tunnel is doing, in the words of contract.md: a pure reading of the device."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from providers.wireguard.messages import SECOND
from providers.wireguard.peer import Phase
from tunnel import TunnelStatus

if TYPE_CHECKING:
    from providers.wireguard.device import Device
    from providers.wireguard.peer import Peer
    from tunnel import Endpoint, Path


def tunnel_status(
    device: Device, trouble: str = "", path: Path | None = None
) -> tuple[TunnelStatus, str]:
    """Return the tunnel's status and its reason. `trouble` is why sending fails, if it does.

    `path` is the one in use: a kernel takes what it cannot route over a bound interface for
    on-link and drops it without a word, so that only the path's routes can tell.

    Up with one peer is up. Keys that were erased after a long silence are not a loss: the next
    packet gets new ones.
    """
    phases = device.peers.phases
    if phases[Phase.UP] or phases[Phase.RESTING]:
        lost = phases[Phase.TRYING] + phases[Phase.FAILED]
        if phases[Phase.UP] or not lost:
            return TunnelStatus.CONNECTED, _connected(device, phases[Phase.UP])
    if device.identity is None:
        return TunnelStatus.CONNECTING, "no private key: waiting for `wg set`"
    if not len(device.peers):
        return TunnelStatus.CONNECTING, "no peers: waiting for `wg set`"
    if device.was_up:
        return TunnelStatus.REASSERTING, _waiting(device, trouble, path)
    return TunnelStatus.CONNECTING, _waiting(device, trouble, path)


def _connected(device: Device, up: int) -> str:
    total = len(device.peers)
    return "handshake complete" if total == 1 else f"{up} of {total} peers"


def _waiting(device: Device, trouble: str, path: Path | None) -> str:
    """Say what is waited for, by the peer that is nearest to being up; no figure that grows."""
    phase = next(phase for phase in _URGENCY if device.peers.phases[phase])
    first = next(peer for peer in device.peers if peer.phase is phase)
    info = device.engine.peer_info(first.id)
    if not first.usable or info.endpoint is None or first.phase is Phase.NEW:
        text = first.reason(device.engine.now(), has_identity=True) or "waiting for the peer"
    elif first.phase is Phase.FAILED:
        text = f"no answer from {shown(info.endpoint)}; trying again at the next packet"
    else:
        text = f"waiting for an answer from {shown(info.endpoint)}"
        text += _unrouted(info.endpoint, path)
    others = f" (and {len(device.peers) - 1} more peers)" if len(device.peers) > 1 else ""
    return text + others + (f"; sending fails: {trouble}" if trouble else "")


def _unrouted(endpoint: Endpoint, path: Path | None) -> str:
    version = endpoint.address.version
    if path is None or not path.bound or path.interface is None or path.supports(version):
        return ""
    return f", but {path.interface.name} has no IPv{version} route"


_URGENCY = (Phase.TRYING, Phase.FAILED, Phase.NEW, Phase.RESTING, Phase.UP)


def shown(endpoint: Endpoint) -> str:
    """Return an endpoint as people write it."""
    if endpoint.address.version == 4:
        return f"{endpoint.address}:{endpoint.port}"
    scope = f"%{endpoint.scope}" if endpoint.scope else ""
    return f"[{endpoint.address}{scope}]:{endpoint.port}"


def peer_report(device: Device, peer: Peer, now: int) -> dict[str, Any]:
    """Return one peer of `tunnelctl status --json`. Ages and round trips are in seconds."""
    info = device.engine.peer_info(peer.id)
    return {
        "public_key": base64.b64encode(peer.public_key).decode("ascii"),
        "endpoint": None if info.endpoint is None else shown(info.endpoint),
        "handshake_age": (
            None if peer.handshake_at is None else round((now - peer.handshake_at) / SECOND, 3)
        ),
        "rtt": None if peer.rtt is None else round(peer.rtt / SECOND, 6),
        "rx_bytes": info.rx_bytes,
        "tx_bytes": info.tx_bytes + peer.sent_aside,
        "reason": peer.reason(now, has_identity=device.identity is not None),
    }
