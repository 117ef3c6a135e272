"""The firewall rules that go with a default route through the tunnel, as wg-quick has them. Pure.

Packets for the tunnel's address that come from another link are dropped before connection tracking
(CVE-2019-14899: a network could otherwise probe what runs inside the tunnel). The mark of our outer
packets is kept with their connection and given to the replies, so that the reverse-path check
(src_valid_mark) looks them up as we would route them. The kill switch is another table.
"""

from __future__ import annotations

from collections.abc import Sequence

from tunnel.settings import InterfaceAddress


def table_name(slot: int) -> str:
    """Return the name of the nftables table (family inet) of a slot."""
    return f"tunneld-{slot}"


def render(slot: int, interface: str, addresses: Sequence[InterfaceAddress], mark: int) -> str:
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
        f"    meta l4proto udp ct mark {mark:#x} meta mark set ct mark\n"
        "  }\n"
        "  chain save {\n"
        "    type filter hook postrouting priority mangle; policy accept;\n"
        f"    meta l4proto udp meta mark {mark:#x} ct mark set meta mark\n"
        "  }\n"
        "}\n"
    )


def removal(slot: int) -> str:
    """Return the lines for `nft -f` that remove the table, whether it is there or not."""
    return f"table inet {table_name(slot)}\ndelete table inet {table_name(slot)}\n"
