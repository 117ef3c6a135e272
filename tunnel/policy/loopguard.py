"""The loop guard: a tunnel's own packets must not go into the tunnel itself. Pure.

A tunnel may be the underlay of another, so the way of the outer packets is followed through every
tunnel that they would enter: the lookup gives the interface; if that is a tunnel too, its own
packets are looked up with its mark and over its underlay, and so on. Coming back to where we
began is a loop, which would fill the machine with one packet. It is refused before it is made.

Of other tunnels we know what the kernel shows: the mark is that of the "not fwmark" rule that leads
to them, and which interface a tunneld's tunnel is bound to is in its slot's rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tunnel.policy.classify import TUNNEL_KINDS
from tunnel.policy.lookup import Packet, Tables
from tunnel.policy.numbers import Numbers
from tunnel.policy.path import Path
from tunnel.policy.rivals import ANYWHERE
from tunnel.policy.routing import Desired
from tunnel.policy.rtnl import Dump, Link
from tunnel.settings import Address

_HOPS = 16
_UDP = 17


def loop(
    wanted: Desired,
    path: Path,
    dump: Dump,
    endpoints: Iterable[Address],
    slots: Mapping[str, int],
    numbers: Numbers,
) -> str:
    """Say how the tunnel's packets would come back to it; empty when they do not.

    `dump` is the machine without this tunnel's rules and routes, which `wanted` adds; `slots` are
    the slots of the other tunnels of tunneld, by their interface's name.
    """
    own = next((link for link in dump.links if wanted.link and link.index == wanted.link), None)
    if own is None or (path.bound and path.interface is None):
        return ""
    tables = Tables(dump, wanted.rules, wanted.routes)
    links = {link.index: link for link in dump.links}
    oif = path.interface.name if path.bound and path.interface is not None else None
    far = tuple(endpoints) or tuple(
        ANYWHERE[version] for version in sorted({a.version for a in wanted.guarded})
    )
    for destination in far:
        chain = _follow(own, destination, oif, wanted.mark, tables, links, dump, slots, numbers)
        if chain == [own.name]:
            return (
                f"the way to {destination} leads into {own.name} itself; exclude that address with "
                "excluded_routes, or use --bind"
            )
        if chain:
            way = " into ".join(chain)
            return (
                f"{own.name}'s own packets would go into {way}: a loop; bind one of these tunnels "
                "to another interface with --bind"
            )
    return ""


def _follow(
    own: Link,
    destination: Address,
    oif: str | None,
    mark: int,
    tables: Tables,
    links: Mapping[int, Link],
    dump: Dump,
    slots: Mapping[str, int],
    numbers: Numbers,
) -> list[str]:
    """Return the tunnels that a packet enters until it is back at `own`; empty when it is not."""
    chain: list[str] = []
    for _ in range(_HOPS):
        packet = Packet(destination, oif=oif, mark=mark, ip_protocol=_UDP)
        link = links.get(tables.look_up(packet).index)
        if link is None or link.kind not in TUNNEL_KINDS or link.name in chain:
            return []
        chain.append(link.name)
        if link.name == own.name:
            return chain
        oif, mark = _underlay(link, dump, slots, numbers)
        destination = ANYWHERE[destination.version]
    return []


def _underlay(
    link: Link, dump: Dump, slots: Mapping[str, int], numbers: Numbers
) -> tuple[str | None, int]:
    """Return the interface another tunnel's sockets are bound to, if any, and their mark."""
    slot = slots.get(link.name)
    oif: str | None = None
    if slot is not None:
        bound = [r for r in dump.rules if r.oif and r.table in numbers.tables(slot)]
        oif = min(bound, key=lambda rule: rule.table).oif if bound else None
    led = {route.table for route in dump.routes if route.index == link.index}
    marks = [r.mark for r in dump.rules if r.invert and r.mark and r.table in led]
    return oif, marks[0] if marks else 0
