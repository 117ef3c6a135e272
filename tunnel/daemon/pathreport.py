"""The answer to `tunnelctl path --json`: the path, and why each interface is used or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunnel.daemon.report import SCHEMA, path_report

if TYPE_CHECKING:
    from tunnel.daemon.session import TunnelSession
    from tunnel.policy.interface import Interface


def path_view(session: TunnelSession) -> dict[str, Any]:
    """Return the report of a session. Of the path's interfaces the one in use comes first."""
    path, policy = session.path, session.policy
    permitted = [i.name for i in path.interfaces]
    others = [i for i in session.interfaces() if i.name not in permitted]
    dns = session.dns.in_force
    return {
        "schema": SCHEMA,
        "interface": session.interface,
        "link": session.barrier.tunnel,
        "policy": str(policy),
        "bound": path.bound,
        "mark": session.outer.mark,
        "port": session.outer.port or None,
        "path": path_report(path),
        "interfaces": [
            *(
                _interface(i, "in use" if i is path.interface else "stands by", "")
                for i in path.interfaces
            ),
            *(_interface(i, "not used", policy.refusal(i) or i.reason) for i in others),
        ],
        "endpoints": _endpoints(session.provider.peers()),
        "dns": {
            "servers": [str(server) for server in dns.servers],
            "search": list(dns.search),
            "match_domains": list(dns.match_domains),
            "method": session.dns.method if dns.servers else None,
        },
    }


def _interface(interface: Interface, role: str, reason: str) -> dict[str, Any]:
    kind = interface.classification
    return {
        "name": interface.name,
        "role": role,
        "reason": reason or None,
        "type": kind.type.value,
        "evidence": kind.evidence,
        "confidence": kind.confidence.value,
        "addresses": [str(address) for address in interface.addresses],
        "gateways": [str(gateway) for gateway in interface.gateways],
        "dns": [str(server) for server in interface.dns],
        "ipv4": 4 in interface.routed,
        "ipv6": 6 in interface.routed,
        "carrier": interface.carrier,
        "expensive": interface.expensive,
        "constrained": interface.constrained,
        "ultra_constrained": interface.ultra_constrained,
        "mtu": interface.mtu,
        "metric": interface.metric,
    }


def _endpoints(peers: list[dict[str, Any]]) -> dict[str, int]:
    """Return address -> port of the peers' endpoints."""
    found = {}
    for peer in peers:
        address, _, port = (peer.get("endpoint") or "").rpartition(":")
        if port.isdigit():
            found[address.strip("[]")] = int(port)
    return found
