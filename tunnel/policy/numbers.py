"""Every number that tunneld puts into the kernel's routing, on one page.

Each running tunnel owns one slot (see slot.py). A slot stands for a range of table ids and one
preference in each rule band, so that tunnels do not touch each other's routes and what a crashed
one left can be told from what a living one needs.

Each kind of rule has a band of preferences, SLOTS wide: rule_base + band*SLOTS + slot. The order of
the bands (see Band) is what makes tunnels beside each other, and inside each other, work:

All interface rules of all tunnels come before the first default route of any, or the replies to one
tunnel's outer packets would be judged (rp_filter) by the default route of another. Tunnels whose
routes are enforced come before any look into the main table. Of two tunnels the one that runs
inside the other comes first, or what was to go into it would go into the outer one at once.

A rule added without a preference lands just above the lowest that is there: that is what wg-quick
does, and the reason for `Numbers.rule_base` being far from zero (room for 7,000 of them).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

SLOTS = 16
TABLES_PER_SLOT = 64


class Band(IntEnum):
    """The kinds of rules, in the order in which the kernel asks them."""

    OIF = 0
    """oif IF [fwmark M] lookup T(IF)"""
    SOURCE = 1
    """from ADDR [fwmark M] lookup T(IF)"""
    EXCEPTION = 2
    """what the network needs to stay alive, lookup main"""
    ENFORCED_INNER = 3
    ENFORCED = 4
    """not fwmark M lookup T(tunnel); inner: of a tunnel that runs over another one"""
    MAIN = 5
    """lookup main suppress_prefixlength 0"""
    INNER = 6
    PLAIN = 7
    """not fwmark M lookup T(tunnel), as above"""


BANDS = len(Band)

PROTOCOL = 0x74
"""Written into each route (RTA_PROTOCOL) and rule (FRA_PROTOCOL) of ours; free in rt_protos."""

TABLE_MAIN = 254
METRIC_IPV6 = 1024
"""What the kernel makes of an IPv6 route without a metric."""
LAST_METRIC = 0xFFFF_FF00
"""Of the `unreachable` routes that remain when a link and its routes are gone."""

OUTER_OVERHEAD = 80
"""IPv6 header 40, UDP 8, WireGuard 32: what an outer packet adds (contract.md)."""
TUN_MTU_MIN = 1280
TUN_MTU_MAX = 1420


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers that may be overridden: first table id, first preference, first mark, and the
    mark of what a captive portal's opening lets through.
    """

    table_base: int = 74_000
    rule_base: int = 7_400
    mark_base: int = 0x7400
    portal_mark: int = 0x74FF

    def interface_table(self, slot: int, position: int) -> int:
        """Return the table of the slot's n-th interface; 0 is the tunnel's own table."""
        if not 0 <= position < TABLES_PER_SLOT:
            raise ValueError(f"a tunnel has {TABLES_PER_SLOT - 1} interface tables at most")
        return self.table_base + slot * TABLES_PER_SLOT + position

    def tunnel_table(self, slot: int) -> int:
        """Return the table that holds the tunnel's own default routes."""
        return self.interface_table(slot, 0)

    def tables(self, slot: int) -> range:
        """Return all table ids of a slot."""
        first = self.tunnel_table(slot)
        return range(first, first + TABLES_PER_SLOT)

    def mark(self, slot: int) -> int:
        """Return the mark of a tunnel that needs one and was given none."""
        return self.mark_base + slot
