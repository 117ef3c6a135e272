"""The probes of `tunnelctl leaktest`: what might get out past a tunnel, one attempt each.

They go to addresses that are nobody's (RFC 5737, RFC 3849) and to the resolvers of the networks
that the machine is on, whose ports 53 and 853 must not be reached either. Each is known again by
what it carries: a token, or where a handshake cannot carry one, its addresses and ports.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

from tunnel.settings import Address

NOBODY: Final = {4: ip_address("198.51.100.7"), 6: ip_address("2001:db8::c633:6407")}
PORT, DNS, DNS_OVER_TLS = 443, 53, 853
SO_MARK: Final = 36
ETH_P: Final = {4: 0x0800, 6: 0x86DD}
TOKEN_BYTES: Final = 16
_BROADCAST: Final = b"\xff" * 6
_TTL: Final = 64
_UDP: Final = 17


@dataclass(slots=True)
class Probe:
    """One attempt. `signs` are byte strings that are all in its frame; `error` why it was not sent.

    `interface` is what its socket is bound to, '' for a plain one.
    """

    kind: str
    interface: str
    target: Address
    port: int
    tcp: bool = False
    mark: int = 0
    signs: tuple[bytes, ...] = ()
    error: str = ""
    sockets: list[socket.socket] = field(default_factory=list)

    def close(self) -> None:
        """Close its socket; safe to call again."""
        for one in self.sockets:
            one.close()
        self.sockets.clear()


def planned(path: Mapping[str, Any]) -> Iterator[Probe]:
    """Yield every probe that must not get out, given a tunneld's answer to `path`."""
    links = [one for one in path["interfaces"] if one["addresses"] and one["carrier"]
             and one["type"] not in ("loopback", "tunnel")]  # fmt: skip
    for version, target in NOBODY.items():
        yield Probe(f"plain socket, IPv{version}", "", target, PORT)
        yield Probe(f"plain socket, IPv{version}", "", target, PORT, tcp=True)
    inside = set(path["dns"]["servers"])
    resolvers = {server: one for one in links for server in one["dns"] if server not in inside}
    for server in (*resolvers, str(NOBODY[4]), str(NOBODY[6])):
        yield Probe("DNS", "", ip_address(server), DNS)
        yield Probe("DNS over TLS", "", ip_address(server), DNS_OVER_TLS, tcp=True)
    for one in links:
        name = one["name"]
        for version, target in NOBODY.items():
            if any(ip_address(a.split("/")[0]).version == version for a in one["addresses"]):
                yield Probe(f"bound socket, IPv{version}", name, target, PORT)
                yield Probe(f"bound socket, IPv{version}", name, target, PORT, tcp=True)
                yield Probe(f"packet socket, IPv{version}", name, target, PORT)
        for server in (s for s in one["dns"] if s not in inside):
            yield Probe("DNS, bound socket", name, ip_address(server), DNS)


def send(probe: Probe) -> None:
    """Make the attempt; what the kernel says against it is noted, not raised."""
    try:
        if probe.kind.startswith("packet socket"):
            _send_frame(probe)
        elif probe.tcp:
            _connect(probe)
        else:
            _send_datagram(probe)
    except OSError as error:
        probe.error = error.strerror or str(error)


def _socket(probe: Probe, kind: int) -> socket.socket:
    family = socket.AF_INET if probe.target.version == 4 else socket.AF_INET6
    one = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    probe.sockets.append(one)
    if probe.interface:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, probe.interface.encode())
    if probe.mark:
        one.setsockopt(socket.SOL_SOCKET, SO_MARK, probe.mark)
    return one


def _send_datagram(probe: Probe) -> None:
    token = os.urandom(TOKEN_BYTES)
    probe.signs = (token,)
    _socket(probe, socket.SOCK_DGRAM).sendto(token, _sockaddr(probe))


def _connect(probe: Probe) -> None:
    one = _socket(probe, socket.SOCK_STREAM)
    code = one.connect_ex(_sockaddr(probe))
    source = one.getsockname()[1]
    probe.signs = (probe.target.packed, struct.pack("!HH", source, probe.port))
    if code not in (0, errno.EINPROGRESS):
        raise OSError(code, os.strerror(code))


def _sockaddr(probe: Probe) -> tuple[Any, ...]:
    scope = probe.target.scope_id if isinstance(probe.target, IPv6Address) else None
    if scope is None:
        return str(probe.target), probe.port
    return str(probe.target).split("%")[0], probe.port, 0, socket.if_nametoindex(scope)


def _send_frame(probe: Probe) -> None:
    """Send a frame past the whole IP stack, as a packet socket can."""
    token = os.urandom(TOKEN_BYTES)
    probe.signs = (token,)
    version = probe.target.version
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0) as one:
        packet = datagram(_source(version), probe.target, probe.port, token)
        one.sendto(packet, (probe.interface, ETH_P[version], 0, 0, _BROADCAST))


def _source(version: int) -> Address:
    return IPv4Address("192.0.2.7") if version == 4 else IPv6Address("2001:db8::c000:207")


def datagram(source: Address, target: Address, port: int, data: bytes) -> bytes:
    """Return an IP packet with UDP in it (RFC 791, RFC 8200, RFC 768)."""
    size = 8 + len(data)
    udp = struct.pack("!HHHH", port, port, size, 0) + data
    pseudo = source.packed + target.packed + struct.pack("!II", size, _UDP)
    udp = udp[:6] + struct.pack("!H", _checksum(pseudo + udp) or 0xFFFF) + udp[8:]
    ends = source.packed + target.packed
    if source.version == 6:
        return struct.pack("!IHBB", 6 << 28, size, _UDP, _TTL) + ends + udp
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, 0, 0, _TTL, _UDP, 0)
    return head[:10] + struct.pack("!H", _checksum(head + ends)) + ends + udp


def _checksum(data: Sequence[int] | bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    padded = bytes(data) + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
