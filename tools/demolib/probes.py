"""What other programs of the client may try while everything is to go through the tunnel.

Each kind of probe is sent the same number of times, outside the tunnel as far as its sender can
bring that about. Whether one leaves is not asked here: the routers count.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import Final

from tools.demolib.lab import WIFI
from tools.netlab import Namespace

#: How often each probe is sent.
TIMES: Final = 5
#: A host of the internet that is not the gateway, and two ports there: any, and DNS.
TARGET: Final = "203.0.113.254"
_PORT, _DNS = 9, 53
_BIND_TO_DEVICE: Final = 25  # SO_BINDTODEVICE of asm-generic/socket.h
#: What the kernel may answer to a sender that is not let out.
_REFUSALS: Final = (errno.EPERM, errno.EACCES, errno.ENETUNREACH, errno.EHOSTUNREACH,
                    errno.ECONNREFUSED, errno.ENOBUFS)  # fmt: skip


def _bound_to_wifi() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, _BIND_TO_DEVICE, WIFI.encode() + b"\0")
        sock.sendto(b"probe", (TARGET, _PORT))


def _name_server() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, _BIND_TO_DEVICE, WIFI.encode() + b"\0")
        sock.sendto(b"probe", (TARGET, _DNS))


def _from_wifis_address() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("192.0.2.2", 0))
        sock.sendto(b"probe", (TARGET, _PORT))


def _raw_frame() -> None:
    """Send a whole frame to everybody on the link, past the routing table."""
    payload = struct.pack("!4H", _PORT, _PORT, 13, 0) + b"probe"
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0, 64, 17, 0,
        socket.inet_aton("192.0.2.2"), socket.inet_aton(TARGET),
    )  # fmt: skip
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((WIFI, 0))
        sock.send(b"\xff" * 6 + b"\x02" + bytes(5) + b"\x08\x00" + header + payload)


PROBES: Final[dict[str, Callable[[], None]]] = {
    "a socket bound to Wi-Fi": _bound_to_wifi,
    "a name server on Wi-Fi": _name_server,
    "Wi-Fi's own address": _from_wifis_address,
    "a packet socket on Wi-Fi": _raw_frame,
}


def send(client: Namespace) -> int:
    """Send every probe from the client's namespace; return how many were tried."""
    with client.entered():
        for probe in PROBES.values():
            for _ in range(TIMES):
                _attempt(probe)
    return TIMES * len(PROBES)


def _attempt(probe: Callable[[], None]) -> None:
    try:
        probe()
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
