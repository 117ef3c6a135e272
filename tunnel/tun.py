"""The TUN device: one queue a worker, with the offloads that this kernel has.

pytun makes the device and its queues; what it has no call for (offloads, the size of the virtio
header, the transmit queue's length) is done by ioctl on its descriptors. With IFF_VNET_HDR each
read and write starts with a virtio_net_hdr of 10 bytes and may carry a super-segment of 64 KB.
Offloads are asked for in falling order, since a kernel refuses the whole set for one unknown bit:
USO came with Linux 6.2, and its two halves only together.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Any

from tunnel.errors import MissingFacilityError, PrivilegeError, TunnelError, UsageError

LINK_VNET_HDR = 1
LINK_USO = 2
"""Flags of a link, the same as TC_LINK_* in tunnel_core.h (a test compares them)."""

TRANSMIT_QUEUE = 3000
"""Packets that wait in the kernel for us: 500, the default, drops bursts of small packets."""
INITIAL_MTU = 1420
VNET_HDR_BYTES = 10
NAME_MAX = 15

# linux/if_tun.h and linux/sockios.h
_TUNSETOFFLOAD, _TUNSETVNETHDRSZ = 0x400454D0, 0x400454D8
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6, _TUN_F_TSO_ECN = 0x01, 0x02, 0x04, 0x08
_TUN_F_USO4, _TUN_F_USO6 = 0x20, 0x40
_SIOCSIFMTU, _SIOCSIFTXQLEN = 0x8922, 0x8943
_TSO = _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6
_OFFLOADS = (
    (_TSO | _TUN_F_TSO_ECN | _TUN_F_USO4 | _TUN_F_USO6, LINK_USO),
    (_TSO | _TUN_F_USO4 | _TUN_F_USO6, LINK_USO),
    (_TSO | _TUN_F_TSO_ECN, 0),
    (_TSO, 0),
    (_TUN_F_CSUM, 0),
)
_NO_LINK_LOCAL = "1"


class Tun:
    """A TUN device that lives as long as this object. `fds` are non-blocking, one a worker.

    `link_flags` (LINK_*) and `offloads` say what is in force.
    """

    def __init__(self, name: str, devices: list[Any], link_flags: int, offloads: str) -> None:
        self.name = name
        self.link_flags = link_flags
        self.offloads = offloads
        self._devices = devices

    @classmethod
    def create(cls, name: str, workers: int = 1, *, offload: bool = True, uso: bool = True) -> Tun:
        """Make the device, down, with `workers` queues.

        `offload` and `uso` False force the fallbacks for kernels without them. Raises UsageError
        for a name that cannot be, TunnelError when the name is taken, PrivilegeError, and
        MissingFacilityError where there is no /dev/net/tun.
        """
        import pytun

        if not 0 < len(name.encode()) <= NAME_MAX or "/" in name or "%" in name:
            raise UsageError(f"{name!r} is no interface name; use 1 to {NAME_MAX} plain characters")
        with contextlib.suppress(OSError):
            socket.if_nametoindex(name)
            raise TunnelError(
                f"interface {name} exists and is not ours; choose another name or remove it"
            )
        flags = pytun.IFF_TUN | pytun.IFF_NO_PI
        flags |= pytun.IFF_VNET_HDR if offload else 0
        flags |= pytun.IFF_MULTI_QUEUE if workers > 1 else 0
        devices: list[Any] = []
        try:
            for worker in range(workers):
                # The first one must make the device, or we would join another program's.
                exclusive = pytun.IFF_TUN_EXCL if worker == 0 else 0
                devices.append(pytun.TunTapDevice(name=name, flags=flags | exclusive))
            link_flags, offloads = _prepare([d.fileno() for d in devices], offload, uso)
            _set_up(name)
        except OSError as error:
            for device in devices:
                device.close()
            raise _explained(name, error) from error
        return cls(name, devices, link_flags, offloads)

    @property
    def fds(self) -> list[int]:
        """The queues' descriptors; [] when closed."""
        return [device.fileno() for device in self._devices]

    def close(self) -> None:
        """Close the queues, which removes the device; safe to call again."""
        for device in self._devices:
            device.close()
        self._devices = []

    def __enter__(self) -> Tun:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _prepare(fds: list[int], offload: bool, uso: bool) -> tuple[int, str]:
    """Set every queue alike; return the link's flags and the offloads in words."""
    choices = [(bits, extra) for bits, extra in _OFFLOADS if uso or not extra] if offload else []
    for fd in fds:
        os.set_blocking(fd, False)
        fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        if offload:
            fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", VNET_HDR_BYTES))
    if not offload:
        return 0, "none"
    for bits, extra in choices:
        try:
            # The offloads belong to the device, whichever queue they are set through.
            fcntl.ioctl(fds[0], _TUNSETOFFLOAD, bits)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            continue
        names = ((_TUN_F_TSO4, "TSO"), (_TUN_F_TSO_ECN, "ECN"), (_TUN_F_USO4, "USO"))
        words = ["checksum", *(word for bit, word in names if bits & bit)]
        return LINK_VNET_HDR | extra, "+".join(words)
    return LINK_VNET_HDR, "none accepted"


def _set_up(name: str) -> None:
    """Set queue length and MTU, and keep the kernel from adding a link-local address of its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        request = name.encode().ljust(16, b"\0")
        fcntl.ioctl(control, _SIOCSIFTXQLEN, request + struct.pack("i", TRANSMIT_QUEUE))
        fcntl.ioctl(control, _SIOCSIFMTU, request + struct.pack("i", INITIAL_MTU))
    # A tunnel has no neighbours: a generated fe80:: address only sends solicitations into it.
    with contextlib.suppress(OSError):  # no IPv6 here, or /proc/sys is read-only
        Path(f"/proc/sys/net/ipv6/conf/{name}/addr_gen_mode").write_text(_NO_LINK_LOCAL)


def _explained(name: str, error: OSError) -> TunnelError:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return MissingFacilityError(
            "/dev/net/tun is not there; load the module (modprobe tun), or give the container "
            "the device"
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        return PrivilegeError(f"may not make interface {name}; run as root or with CAP_NET_ADMIN")
    if error.errno == errno.EBUSY:
        return TunnelError(f"interface {name} is in use by another program; choose another name")
    return TunnelError(f"interface {name} cannot be made: {error.strerror}")
