"""nf_tables over netlink: messages to bytes and back. Pure; the numbers are linux/netfilter/*.h.

A netlink message is a header, nfgenmsg (family, version, resource) and attributes; an attribute is
length, type and a value padded to four bytes, or attributes again. A transaction is a batch: the
kernel commits all of its messages or none. Numbers inside attributes are big-endian, but what is
compared with a packet's metadata is as the machine has it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

NETLINK_NETFILTER: Final = 12
GROUP_NFTABLES: Final = 7  # NFNLGRP_NFTABLES
SUBSYSTEM: Final = 10  # NFNL_SUBSYS_NFTABLES
NESTED: Final = 0x8000  # NLA_F_NESTED
TYPE_MASK: Final = 0x3FFF

# linux/netlink.h
ERROR, DONE = 2, 3
REQUEST, ACK, ROOT_AND_MATCH = 1, 4, 0x300
CREATE, APPEND = 0x400, 0x800
# linux/netfilter/nfnetlink.h
BATCH_BEGIN, BATCH_END = 16, 17
# linux/netfilter/nf_tables.h: enum nf_tables_msg_types
NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, DELCHAIN = 0, 1, 2, 3, 4, 5
NEWRULE, GETRULE, NEWSET, NEWSETELEM, GETSETELEM = 6, 7, 9, 12, 13
NEWGEN, GETGEN = 15, 16
# linux/netfilter.h: families and hooks
UNSPEC, INET, ARP, NETDEV = 0, 1, 3, 5
PRE_ROUTING, LOCAL_IN, FORWARD, LOCAL_OUT, POST_ROUTING = 0, 1, 2, 3, 4
EGRESS: Final = 1  # NF_NETDEV_EGRESS
ARP_IN: Final = 0  # NF_ARP_IN
TABLE_OWNER, TABLE_PERSIST = 2, 4  # enum nft_table_flags
DROP, ACCEPT = 0, 1
JUMP: Final = -3

_HEADER = struct.Struct("=IHHII")
_GENMSG = struct.Struct(">BBH")
_ATTRIBUTE = struct.Struct("=HH")

#: An attribute to send: its type, and its bytes or the attributes in it.
Attribute = tuple[int, "bytes | Sequence[Attribute]"]


@dataclass(frozen=True, slots=True)
class Message:
    """A message that was received; `kind` is without the subsystem for nf_tables' own."""

    kind: int
    flags: int
    sequence: int
    port: int
    family: int
    body: bytes


def attributes(items: Sequence[Attribute]) -> bytes:
    """Return attributes as the kernel reads them."""
    parts = []
    for kind, value in items:
        if not isinstance(value, bytes):
            kind, value = kind | NESTED, attributes(value)
        parts.append(_ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4))
    return b"".join(parts)


def parsed(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, value) of each attribute; what is cut short ends it."""
    place = 0
    while place + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, place)
        if length < 4 or place + length > len(data):
            return
        yield kind & TYPE_MASK, data[place + 4 : place + length]
        place += (length + 3) & ~3


def text(value: str) -> bytes:
    """Return a string attribute's value."""
    return value.encode() + b"\0"


def be32(value: int) -> bytes:
    """Return a number as 32 bits in network order; negative ones as the kernel's verdicts are."""
    return struct.pack(">i" if value < 0 else ">I", value)


def be64(value: int) -> bytes:
    """Return a number as 64 bits in network order."""
    return struct.pack(">Q", value)


def message(
    kind: int, sequence: int, family: int, items: Sequence[Attribute], *, flags: int = 0
) -> bytes:
    """Return one nf_tables message."""
    return _message(SUBSYSTEM << 8 | kind, sequence, _GENMSG.pack(family, 0, 0), items, flags)


def batch(messages: Sequence[tuple[int, int, Sequence[Attribute], int]], first: int) -> bytes:
    """Return a transaction of (kind, family, attributes, flags), numbered from `first`.

    The kernel answers what it refuses, and acknowledges the last message where all is well.
    """
    parts = [_message(BATCH_BEGIN, first, _GENMSG.pack(UNSPEC, 0, SUBSYSTEM), (), 0)]
    last = first + len(messages)
    for number, (kind, family, items, flags) in enumerate(messages, start=first + 1):
        parts.append(
            message(kind, number, family, items, flags=flags | (ACK if number == last else 0))
        )
    parts.append(_message(BATCH_END, last + 1, _GENMSG.pack(UNSPEC, 0, SUBSYSTEM), (), 0))
    return b"".join(parts)


def _message(
    kind: int, sequence: int, head: bytes, items: Sequence[Attribute], flags: int
) -> bytes:
    body = head + attributes(items)
    return _HEADER.pack(_HEADER.size + len(body), kind, REQUEST | flags, sequence, 0) + body


def received(data: bytes) -> Iterator[Message]:
    """Yield the messages of one datagram from the kernel."""
    place = 0
    while place + _HEADER.size <= len(data):
        length, kind, flags, sequence, port = _HEADER.unpack_from(data, place)
        if length < _HEADER.size or place + length > len(data):
            return
        body = data[place + _HEADER.size : place + length]
        family = 0
        if kind >> 8 == SUBSYSTEM:
            kind, family, body = kind & 0xFF, body[0], body[4:]
            kind |= SUBSYSTEM << 8
        yield Message(kind, flags, sequence, port, family, body)
        place += (length + 3) & ~3


def error_of(body: bytes) -> tuple[int, int]:
    """Return (errno, sequence of the message it is about) of an NLMSG_ERROR; errno 0 is an ACK."""
    (code,) = struct.unpack_from("=i", body)
    _, _, _, sequence, _ = _HEADER.unpack_from(body, 4)
    return -code, sequence
