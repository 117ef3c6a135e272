"""Every way out that a kill switch must stop: a program of the standard library alone, to be quick.

usage: senders.py [--loop | --alive] IF,IF

`--loop` goes on until it is killed; `--alive` sends what must pass, a DHCP client's broadcast.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time

MARKER = b"LEAK"
PUBLIC, PUBLIC6 = "198.51.100.7", "2001:db8:5::7"
CLAIMED = "203.0.113.9"  # in a network that the link claims to be on-link
INJECTED = "198.51.100.99"  # behind a route such as DHCP may push
LAN_DNS = "10.1.0.1"
SERVER = ("192.0.2.1", 51820)
_BIND = socket.SO_BINDTODEVICE


def send_all(interfaces: list[str]) -> None:
    """Try every way out once; what is refused is refused."""
    for address in (PUBLIC, CLAIMED, INJECTED, SERVER[0]):
        _udp(address, 9)
    _udp(PUBLIC6, 9)
    _udp(LAN_DNS, 53)
    _tcp(PUBLIC, "")
    for name in interfaces:
        for address, port in ((PUBLIC, 9), (CLAIMED, 9), SERVER, (LAN_DNS, 53), (PUBLIC6, 9)):
            _udp(address, port, name)
        _tcp(PUBLIC, name)
        _frames(name)


def _udp(address: str, port: int, name: str = "") -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as one:
        if name:
            one.setsockopt(socket.SOL_SOCKET, _BIND, name.encode())
        one.sendto(MARKER * 4, (address, port))


def _tcp(address: str, name: str) -> None:
    with contextlib.suppress(OSError), socket.socket() as one:
        if name:
            one.setsockopt(socket.SOL_SOCKET, _BIND, name.encode())
        one.setblocking(False)
        one.connect((address, 80))


def _frames(name: str) -> None:
    """Send IP by packet sockets: plainly, from the cooked one, and called ARP by a liar."""
    packet = _ip_packet(PUBLIC)
    frame = b"\xff" * 6 + b"\x02\0\0\0\0\1" + b"\x08\0" + packet
    with contextlib.suppress(OSError), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as one:
        one.sendto(frame, (name, 0x0800))
        one.sendto(frame, (name, 0x0806))
        one.sendto(frame, (name, 0x888E))
    with contextlib.suppress(OSError), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as one:
        one.sendto(packet, (name, 0x0800, 0, 1, b"\xff" * 6))


def _ip_packet(to: str, ports: tuple[int, int] = (9, 9)) -> bytes:
    data = MARKER * 4
    udp = struct.pack("!4H", *ports, 8 + len(data), 0) + data
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0,
        socket.inet_aton("10.1.0.2"), socket.inet_aton(to),
    )  # fmt: skip
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    check = struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)
    return head[:10] + check + head[12:] + udp


def send_alive(interfaces: list[str]) -> None:
    """Send what must pass: a DHCP client's broadcast."""
    packet = _ip_packet("255.255.255.255", (68, 67))
    for name in interfaces:
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as one:
            one.sendto(packet, (name, 0x0800, 0, 1, b"\xff" * 6))


def main(words: list[str]) -> None:
    interfaces = words[-1].split(",")
    if "--alive" in words:
        send_alive(interfaces)
    elif "--loop" in words:
        print("sending", flush=True)
        while True:
            send_all(interfaces)
            time.sleep(0.002)
    else:
        send_all(interfaces)


if __name__ == "__main__":
    main(sys.argv[1:])
