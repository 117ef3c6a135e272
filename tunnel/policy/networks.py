"""Arithmetic on networks, and which of them are "local". Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import cast

from tunnel.settings import Network

EVERYTHING: dict[int, Network] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
PRIVATE: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",  # RFC 1918
        "169.254.0.0/16", "fe80::/10",  # RFC 3927, RFC 4291: link-local
        "fc00::/7",  # RFC 4193: unique local
    )
)  # fmt: skip
"""What a network may claim to have on-link. A public address that it claims is not local: it could
claim the whole Internet so."""
MULTICAST: tuple[Network, ...] = (ip_network("224.0.0.0/4"), ip_network("ff00::/8"))


def covers(outer: Network, inner: Network) -> bool:
    """Whether every address of `inner` is in `outer`."""
    if isinstance(outer, IPv4Network):
        return isinstance(inner, IPv4Network) and inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and inner.subnet_of(outer)


def is_private(network: Network) -> bool:
    """Whether a network holds private addresses only."""
    return any(covers(private, network) for private in PRIVATE)


def subtract(included: Iterable[Network], excluded: Iterable[Network]) -> list[Network]:
    """Return networks that cover what is in `included` and not in `excluded`.

    An included network that is more specific than an excluded one stays: the longest prefix wins.
    """
    # The largest first: a piece that is left over from a small one would look more specific.
    holes = sorted(set(excluded), key=lambda network: network.prefixlen)
    left: list[Network] = []
    for network in dict.fromkeys(included):
        pieces: list[Network] = [network]
        for hole in (hole for hole in holes if covers(network, hole)):
            pieces = [rest for piece in pieces for rest in _without(piece, hole)]
        left += pieces
    return left


def _without(network: Network, hole: Network) -> Iterable[Network]:
    if not covers(network, hole):
        return (network,)
    if isinstance(network, IPv4Network):
        return network.address_exclude(cast(IPv4Network, hole))
    return network.address_exclude(cast(IPv6Network, hole))
