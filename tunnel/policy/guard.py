"""The firewall rules that go with a tunnel's routing. Pure. The kill switch is another table.

As wg-quick has them: packets for the tunnel's address that come from another link are dropped
before connection tracking (CVE-2019-14899: a network could otherwise probe what runs inside the
tunnel). The mark of our outer packets is kept with their connection and given to the replies, so
that the reverse-path check (src_valid_mark) looks them up as we would route them.

Where routes are enforced, routing alone cannot hold a socket that was bound to another interface:
IPv4 takes any destination for a neighbour then. What would leave elsewhere for an enforced network
is rejected, but for the tunnel's own marked packets and what keeps the network alive.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from tunnel.settings import InterfaceAddress, Network

_ALIVE = (
    "    meta l4proto igmp accept\n"
    "    icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, "
    "mld-listener-report, mld2-listener-report, mld-listener-done } accept\n"
    "    udp sport 68 udp dport 67 accept\n"
    "    udp sport 546 udp dport 547 accept\n"
)


def table_name(slot: int) -> str:
    """Return the name of the nftables table (family inet) of a slot."""
    return f"tunneld-{slot}"


def render(
    slot: int,
    interface: str,
    addresses: Sequence[InterfaceAddress],
    mark: int,
    enforced: Sequence[Network] = (),
) -> str:
    """Return the transaction for `nft -f` that puts the table in place of the former one."""
    drops = "".join(
        f'    iifname != "{interface}" {"ip" if a.version == 4 else "ip6"} daddr {a.ip} '
        "fib saddr type != local counter drop\n"
        for a in addresses
    )
    return (
        f"{removal(slot)}"
        f"table inet {table_name(slot)} {{\n"
        "  chain raw {\n"
        "    type filter hook prerouting priority raw; policy accept;\n"
        f"{drops}"
        "  }\n"
        "  chain restore {\n"
        "    type filter hook prerouting priority mangle; policy accept;\n"
        f"    meta l4proto {{ tcp, udp }} ct mark {mark:#x} meta mark set ct mark\n"
        "  }\n"
        "  chain save {\n"
        "    type filter hook postrouting priority mangle; policy accept;\n"
        f"    meta l4proto {{ tcp, udp }} meta mark {mark:#x} ct mark set meta mark\n"
        "  }\n"
        f"{_enforcing(interface, mark, enforced)}"
        "}\n"
    )


def _enforcing(interface: str, mark: int, enforced: Sequence[Network]) -> str:
    rejects = ""
    four = collapse_addresses(n for n in enforced if isinstance(n, IPv4Network))
    six = collapse_addresses(n for n in enforced if isinstance(n, IPv6Network))
    for word, networks in (("ip", list(map(str, four))), ("ip6", list(map(str, six)))):
        if networks:
            elements = ", ".join(networks)
            rejects += (
                f"    {word} daddr {{ {elements} }} counter reject with icmpx admin-prohibited\n"
            )
    if not rejects:
        return ""
    return "".join(
        f"  chain enforce_{hook} {{\n"
        f"    type filter hook {hook} priority filter; policy accept;\n"
        f'    oifname {{ "{interface}", "lo" }} accept\n'
        f"    meta mark {mark:#x} accept\n"
        f"{_ALIVE}{rejects}"
        "  }\n"
        for hook in ("output", "forward")
    )


def removal(slot: int) -> str:
    """Return the lines for `nft -f` that remove the table, whether it is there or not."""
    return f"table inet {table_name(slot)}\ndelete table inet {table_name(slot)}\n"
