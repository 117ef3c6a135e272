"""What a stack sends as bytes on the wire, and a stack under test with a scripted world around."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from tests.engine_lab import checksum_of
from tunnel.netstack.ip import Outgoing
from tunnel.netstack.stack import Stack

MS = 1_000_000
SECOND = 1000 * MS
NEAR, FAR, NEAR6, FAR6 = "10.1.0.1", "10.1.0.2", "fd01::1", "fd01::2"
SECRET = bytes(range(64))


def packed(*addresses: str) -> list[bytes]:
    return [ip_address(address).packed for address in addresses]


def complete(out: Outgoing) -> bytes:
    """Return a packet with its checksum; a unit stays whole."""
    data = bytearray(bytes(out.header) + bytes(out.payload))
    if out.checksum:
        at = out.transport + out.checksum
        sum_ = checksum_of(bytes(data[out.transport :])) or 0xFFFF
        data[at : at + 2] = sum_.to_bytes(2, "big")
    return bytes(data)


class World:
    """A stack at NEAR and NEAR6; packets are scapy's."""

    def __init__(self, mtu: int = 1420, **options: Any) -> None:
        self.stack = Stack(packed(NEAR, NEAR6), mtu, secret=SECRET, **options)
        self.now = SECOND

    def give(self, packet: Packet | bytes) -> list[Packet]:
        """Let a packet arrive; return what the stack answers, with right checksums."""
        self.stack.receive(memoryview(bytes(packet)), self.now)
        return self.sent()

    def sent(self) -> list[Packet]:
        """Return what the stack sends now."""
        found = []
        while packets := self.stack.packets_to_send(self.now):
            for out in packets:
                data = complete(out)
                kind = IP if data[0] >> 4 == 4 else IPv6
                packet = kind(data)
                assert _right(packet) == data
                found.append(packet)
        return found

    def later(self, nanoseconds: int) -> list[Packet]:
        """Let time pass; return what the stack sends then."""
        self.now += nanoseconds
        self.stack.handle_timeout(self.now)
        return self.sent()


def _right(packet: Packet) -> bytes:
    """Return the packet with checksums that scapy computes; a quoted packet stays as it is."""
    again = packet.copy()
    fragment = again.version == 4 and (again.frag or again.flags.MF)
    for layer in again.layers():
        if "error" in layer.__name__.lower():
            break
        for field in ("chksum", "cksum"):
            if field in again[layer].fields and (layer is IP or not fragment):
                again[layer].delfieldval(field)
    return bytes(again)
