"""What a rule looks at, each as nft writes it and as the kernel's expressions. Pure.

An expression loads something of the packet into a register, or compares the register with a value;
a rule's expressions run in order until one says no. Everything here uses the one 16-byte register.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from tunnel.policy.killswitch.nfnl import ACCEPT, DROP, JUMP, Attribute, be32, be64, text
from tunnel.settings import Address, Network

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
_PROTOCOLS: Final = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMPV6: "ipv6-icmp"}
ETHERTYPE_IP: Final = {4: 0x0800, 6: 0x86DD}

_VERDICT_REGISTER, _REGISTER = 0, 1
_EQUAL, _OTHER = 0, 1
_LINK, _NETWORK, _TRANSPORT = 0, 1, 2  # enum nft_payload_bases
_META: Final = {"mark": 3, "iifname": 6, "oifname": 7, "skuid": 10, "nfproto": 15, "l4proto": 16}
_NFPROTO: Final = {4: 2, 6: 10}
_CT_STATES: Final = {"established": 2, "related": 4}  # NF_CT_STATE_BIT
_CT_MARK: Final = 3  # enum nft_ct_keys
_IFNAMSIZ: Final = 16

#: One expression: its name and its attributes.
Expression = tuple[str, tuple[Attribute, ...]]


@dataclass(frozen=True, slots=True)
class Match:
    """One condition: `text` in nft's language."""

    text: str
    expressions: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a packet that matches."""

    text: str
    expression: Expression


def _meta(key: str) -> Expression:
    return "meta", ((2, be32(_META[key])), (1, be32(_REGISTER)))


def _payload(base: int, offset: int, length: int) -> Expression:
    return "payload", (
        (1, be32(_REGISTER)),
        (2, be32(base)),
        (3, be32(offset)),
        (4, be32(length)),
    )


def _compare(value: bytes, operator: int = _EQUAL) -> Expression:
    return "cmp", ((1, be32(_REGISTER)), (2, be32(operator)), (3, ((1, value),)))


def _masked(mask: bytes) -> Expression:
    return "bitwise", (
        (1, be32(_REGISTER)),
        (2, be32(_REGISTER)),
        (3, be32(len(mask))),
        (4, ((1, mask),)),
        (5, ((1, bytes(len(mask))),)),
    )


def _load(value: bytes) -> Expression:
    return "immediate", ((1, be32(_REGISTER)), (2, ((1, value),)))


def _native32(value: int) -> bytes:
    return struct.pack("=I", value)


def _interface(key: str, name: str, *, other: bool) -> Match:
    operator = _OTHER if other else _EQUAL
    value = name.encode().ljust(_IFNAMSIZ, b"\0")
    return Match(f'{key} {"!= " if other else ""}"{name}"', (_meta(key), _compare(value, operator)))


def into(name: str, *, other: bool = False) -> Match:
    """Match the interface that a packet goes to; `other`: every one but this."""
    return _interface("oifname", name, other=other)


def out_of(name: str, *, other: bool = False) -> Match:
    """Match the interface that a packet came from; `other`: every one but this."""
    return _interface("iifname", name, other=other)


def mark(value: int) -> Match:
    """Match a packet's mark."""
    return Match(f"meta mark {value:#010x}", (_meta("mark"), _compare(_native32(value))))


def connection_mark(value: int) -> Match:
    """Match the mark that is kept with the packet's connection."""
    load: Expression = ("ct", ((2, be32(_CT_MARK)), (1, be32(_REGISTER))))
    return Match(f"ct mark {value:#010x}", (load, _compare(_native32(value))))


def set_mark(value: int) -> Match:
    """Give the packet a mark: no condition, but done once those before it are met."""
    load = _load(_native32(value))
    store: Expression = ("meta", ((2, be32(_META["mark"])), (3, be32(_REGISTER))))
    return Match(f"meta mark set {value:#010x}", (load, store))


def keep_mark(value: int) -> Match:
    """Keep a mark with the packet's connection, as set_mark does with the packet."""
    load = _load(_native32(value))
    store: Expression = ("ct", ((2, be32(_CT_MARK)), (4, be32(_REGISTER))))
    return Match(f"ct mark set {value:#010x}", (load, store))


def user(uid: int) -> Match:
    """Match the user whose socket sent it."""
    return Match(f"meta skuid {uid}", (_meta("skuid"), _compare(_native32(uid))))


def control_group(level: int, number: int, path: str) -> Match:
    """Match the control group whose process made the socket, or one below it."""
    load: Expression = ("socket", ((1, be32(3)), (2, be32(_REGISTER)), (3, be32(level))))
    shown = f'socket cgroupv2 level {level} "{path}"'
    return Match(shown, (load, _compare(struct.pack("=Q", number))))


def version(number: int, *, netdev: bool = False) -> Match:
    """Match IPv4 or IPv6."""
    if netdev:
        word = {4: "ip", 6: "ip6"}[number]
        load: Expression = ("meta", ((2, be32(1)), (1, be32(_REGISTER))))
        return Match(
            f"meta protocol {word}", (load, _compare(struct.pack(">H", ETHERTYPE_IP[number])))
        )
    word = {4: "ipv4", 6: "ipv6"}[number]
    return Match(f"meta nfproto {word}", (_meta("nfproto"), _compare(bytes([_NFPROTO[number]]))))


def protocol(number: int) -> Match:
    """Match the protocol above IP."""
    name = _PROTOCOLS[number]
    return Match(f"meta l4proto {name}", (_meta("l4proto"), _compare(bytes([number]))))


def _address(which: str, network: Network | Address) -> Match:
    """Match an address; the version must have been matched before."""
    v6 = network.version == 6
    length = 16 if v6 else 4
    offset = {"saddr": 8 if v6 else 12, "daddr": 24 if v6 else 16}[which]
    load = _payload(_NETWORK, offset, length)
    shown = f"{'ip6' if v6 else 'ip'} {which} {network}"
    if isinstance(network, IPv4Address | IPv6Address):
        return Match(shown, (load, _compare(network.packed)))
    if network.prefixlen == network.max_prefixlen:
        shown = shown.rpartition("/")[0]
        return Match(shown, (load, _compare(network.network_address.packed)))
    mask = _masked(network.netmask.packed)
    return Match(shown, (load, mask, _compare(network.network_address.packed)))


def source(network: Network | Address) -> Match:
    """Match the source address."""
    return _address("saddr", network)


def destination(network: Network | Address) -> Match:
    """Match the destination address."""
    return _address("daddr", network)


def source_port(name: str, port: int) -> Match:
    """Match a source port; `name` is tcp or udp, which must have been matched before."""
    return Match(f"{name} sport {port}", (_payload(_TRANSPORT, 0, 2), _port(port)))


def destination_port(name: str, port: int) -> Match:
    """Match a destination port; `name` is tcp or udp, which must have been matched before."""
    return Match(f"{name} dport {port}", (_payload(_TRANSPORT, 2, 2), _port(port)))


def _port(port: int) -> Expression:
    return _compare(struct.pack(">H", port))


def icmpv6_type(number: int) -> Match:
    """Match ICMPv6's type."""
    return Match(f"icmpv6 type {number}", (_payload(_TRANSPORT, 0, 1), _compare(bytes([number]))))


def hop_limit(number: int) -> Match:
    """Match IPv6's hop limit."""
    return Match(f"ip6 hoplimit {number}", (_payload(_NETWORK, 7, 1), _compare(bytes([number]))))


def no_first_segment() -> Match:
    """Match any TCP segment but the one that begins a connection."""
    return Match(
        "tcp flags & (syn | ack) != syn",
        (_payload(_TRANSPORT, 13, 1), _masked(b"\x12"), _compare(b"\x02", _OTHER)),
    )


def connection(*states: str) -> Match:
    """Match what connection tracking says: established, related."""
    bits = sum(_CT_STATES[state] for state in states)
    load: Expression = ("ct", ((2, be32(0)), (1, be32(_REGISTER))))
    return Match(
        f"ct state {','.join(states)}",
        (load, _masked(_native32(bits)), _compare(bytes(4), _OTHER)),
    )


def source_not_ours() -> Match:
    """Match a source address that is none of this machine's."""
    load: Expression = ("fib", ((2, be32(3)), (3, be32(1)), (1, be32(_REGISTER))))
    return Match("fib saddr type != local", (load, _compare(_native32(2), _OTHER)))


def frame_type(number: int, *, tagged: bool = False, other: bool = False) -> Match:
    """Match the Ethernet type as it is in the frame, behind a VLAN's tag where `tagged`.

    What the sender says beside the frame (`meta protocol`) may be a lie.
    """
    offset = 16 if tagged else 12
    operator = _OTHER if other else _EQUAL
    sign = "!= " if other else ""
    return Match(
        f"@ll,{offset * 8},16 {sign}{number:#06x}",
        (_payload(_LINK, offset, 2), _compare(struct.pack(">H", number), operator)),
    )


def link_local_group() -> Match:
    """Match the frames that no bridge forwards (IEEE 802.1Q, table 8-1): STP, LACP, LLDP, EAPOL."""
    return Match(
        "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00",
        (
            _payload(_LINK, 0, 6),
            _masked(b"\xff\xff\xff\xff\xff\xf0"),
            _compare(b"\x01\x80\xc2\x00\x00\x00"),
        ),
    )


def running(timers: str, key: int, *, ended: bool = False) -> Match:
    """Match while an element of a set of timers is there; `ended`: once it has gone."""
    load = _load(_native32(key))
    found: list[Attribute] = [(1, text(timers)), (2, be32(_REGISTER))]
    if ended:
        found.append((5, be32(1)))
    sign = "!= " if ended else ""
    return Match(f"timer {key} {sign}@{timers}", (load, ("lookup", tuple(found))))


def _constant(code: int, chain: str = "") -> Expression:
    verdict: list[Attribute] = [(1, be32(code))]
    if chain:
        verdict.append((2, text(chain)))
    return "immediate", ((1, be32(_VERDICT_REGISTER)), (2, ((2, tuple(verdict)),)))


ACCEPTED: Final = Verdict("accept", _constant(ACCEPT))
DROPPED: Final = Verdict("drop", _constant(DROP))
#: For local senders: an error at once, where a drop would be a long wait.
REJECTED: Final = Verdict(
    "reject with icmpx admin-prohibited", ("reject", ((1, be32(2)), (2, b"\x03")))
)


def jump(chain: str) -> Verdict:
    """Go on in another chain, and come back."""
    return Verdict(f"jump {chain}", _constant(JUMP, chain))


def counter(packets: int, size: int) -> Expression:
    """Count packets and bytes, from these numbers on."""
    return "counter", ((1, be64(size)), (2, be64(packets)))
