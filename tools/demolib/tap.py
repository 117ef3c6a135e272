"""Counts the packets on an interface, in the kernel, so that none is missed at any rate.

A packet socket with a filter counts what the filter takes, read or not (PACKET_STATISTICS), so
one socket a question answers it exactly and nothing has to keep up. Two questions are asked of
every frame at a router's end of a client's link:

    outer   UDP from or to the tunnel's port, in either direction
    other   anything else that came from the client, except what every host says to its neighbours
            (ARP, IPv6 neighbour discovery and multicast membership)

What a filter lets through is kept until the socket's buffer is full: the first frames that should
not be there can be shown.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from dataclasses import dataclass
from typing import Final

from tools.netlab import Namespace

_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6
_SO_ATTACH_FILTER: Final = 26
_ETH_P_ALL: Final = 3

# Classic BPF (linux/filter.h, linux/bpf_common.h): operations that load and jump.
_LOAD_BYTE: Final = 0x30
_LOAD_HALF: Final = 0x28
_LOAD_HALF_AT_X: Final = 0x48
_LOAD_X_IP_HEADER: Final = 0xB1
_JUMP_EQUAL: Final = 0x15
_JUMP_ANY_BIT: Final = 0x45
_JUMP_ABOVE: Final = 0x25
_RETURN: Final = 0x06
_PACKET_TYPE: Final = 0xFFFFF004  # SKF_AD_OFF + SKF_AD_PKTTYPE
_OUTGOING: Final = 4  # PACKET_OUTGOING
_UDP, _ICMPV6 = 17, 58

Step = tuple[str, int, int, str, str]  # own label, operation, operand, label if true, if false
TAKE: Final = ("take", _RETURN, 0xFFFF, "", "")
LEAVE: Final = ("leave", _RETURN, 0, "", "")


def _udp_port(port: int, yes: str, no: str) -> list[Step]:
    """Go to `yes` for UDP from or to a port, over either IP, in an Ethernet frame."""
    return [
        ("", _LOAD_HALF, 12, "", ""),
        ("", _JUMP_EQUAL, 0x86DD, "ipv6", ""),
        ("", _JUMP_EQUAL, 0x0800, "", no),
        ("", _LOAD_BYTE, 23, "", ""),
        ("", _JUMP_EQUAL, _UDP, "", no),
        ("", _LOAD_HALF, 20, "", ""),
        ("", _JUMP_ANY_BIT, 0x1FFF, no, ""),  # a later fragment has no ports
        ("", _LOAD_X_IP_HEADER, 14, "", ""),
        ("", _LOAD_HALF_AT_X, 14, "", ""),
        ("", _JUMP_EQUAL, port, yes, ""),
        ("", _LOAD_HALF_AT_X, 16, "", ""),
        ("", _JUMP_EQUAL, port, yes, no),
        ("ipv6", _LOAD_BYTE, 20, "", ""),
        ("", _JUMP_EQUAL, _UDP, "", no),
        ("", _LOAD_HALF, 54, "", ""),
        ("", _JUMP_EQUAL, port, yes, ""),
        ("", _LOAD_HALF, 56, "", ""),
        ("", _JUMP_EQUAL, port, yes, no),
    ]


def _from_client_but_small_talk(yes: str, no: str) -> list[Step]:
    """Go to `yes` for frames that came in and are not ARP, neighbour discovery or the like."""
    return [
        ("", _LOAD_HALF, 12, "", ""),
        ("", _JUMP_EQUAL, 0x0806, no, ""),
        ("", _JUMP_EQUAL, 0x86DD, "", "way"),
        ("", _LOAD_HALF, 38, "", ""),
        ("", _JUMP_EQUAL, 0xFF02, no, ""),
        ("", _LOAD_BYTE, 20, "", ""),
        ("", _JUMP_EQUAL, _ICMPV6, "", "way"),
        ("", _LOAD_BYTE, 54, "", ""),
        ("", _JUMP_ABOVE, 137, "way", ""),
        ("", _JUMP_ABOVE, 132, no, ""),
        ("way", _LOAD_BYTE, _PACKET_TYPE, "", ""),
        ("", _JUMP_EQUAL, _OUTGOING, no, yes),
    ]


def outer_filter(port: int) -> bytes:
    """Return the program that takes the tunnel's outer packets."""
    return _assemble([*_udp_port(port, "take", "leave"), TAKE, LEAVE])


def other_filter(port: int) -> bytes:
    """Return the program that takes what else the client sends."""
    rest = _from_client_but_small_talk("take", "leave")
    rest[0] = ("rest", *rest[0][1:])
    return _assemble([*_udp_port(port, "leave", "rest"), *rest, TAKE, LEAVE])


def attach(sock: socket.socket, program: bytes) -> None:
    """Let a socket receive only what a program takes."""
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def _assemble(steps: list[Step]) -> bytes:
    """Turn labels into distances; an empty one means the next step."""
    places = {label: place for place, (label, *_) in enumerate(steps) if label}

    def distance(place: int, label: str) -> int:
        return places[label] - place - 1 if label else 0

    return b"".join(
        struct.pack("HBBI", operation, distance(place, yes), distance(place, no), operand)
        for place, (_, operation, operand, yes, no) in enumerate(steps)
    )


@dataclass(frozen=True, slots=True)
class Count:
    """Packets seen so far: outer packets of the tunnel, and others of the client."""

    outer: int = 0
    other: int = 0

    def __sub__(self, earlier: Count) -> Count:
        return Count(self.outer - earlier.outer, self.other - earlier.other)


class Tap:
    """Counts on one interface of a namespace from now on."""

    def __init__(self, namespace: Namespace, interface: str, port: int) -> None:
        with namespace.entered():
            self._outer = _Counter(interface, outer_filter(port))
            self._other = _Counter(interface, other_filter(port))

    def read(self) -> Count:
        """Return what was seen since the tap was made."""
        return Count(self._outer.read(), self._other.read())

    def others(self, most: int = 5) -> list[bytes]:
        """Return the first frames that were neither the tunnel's nor small talk."""
        return self._other.frames(most)

    def close(self) -> None:
        """Stop counting."""
        self._outer.close()
        self._other.close()


class _Counter:
    """A packet socket that takes what a filter takes; the kernel counts."""

    def __init__(self, interface: str, program: bytes) -> None:
        # Without a protocol it hears nothing until it is bound, when the filter is in place.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        attach(self._socket, program)
        self._socket.bind((interface, _ETH_P_ALL))
        self._socket.setblocking(False)
        self._total = 0

    def read(self) -> int:
        """Return the packets so far; the kernel's counter starts again at each reading."""
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        packets, _dropped = struct.unpack("II", statistics)  # packets includes dropped ones
        self._total += packets
        return self._total

    def frames(self, most: int) -> list[bytes]:
        frames: list[bytes] = []
        while len(frames) < most:
            try:
                frames.append(self._socket.recv(2048))
            except BlockingIOError:
                break
            except OSError:
                continue  # the interface was down for a while; what came before is still there
        return frames

    def close(self) -> None:
        self._socket.close()
