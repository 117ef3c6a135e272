"""The tunnel interface as a link of this machine: its MTU, and the news of what befell it.

`LinkWatch` listens to rtnetlink only for the hint that some link changed, and then looks at the
interface itself: notifications can be lost or merged, the interface cannot lie.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final

from tunnel.errors import MissingFacilityError
from tunnel.settings import InterfaceAddress

SIOCGIFFLAGS: Final = 0x8913
SIOCGIFMTU: Final = 0x8921
SIOCSIFMTU: Final = 0x8922
IFF_UP: Final = 1
RTMGRP_LINK: Final = 1
#: struct ifreq: the name, then a union of which the first int is used here
_IFREQ: Final = struct.Struct("16si20x")
_ATTEMPTS: Final = 8  # it may be renamed while it is looked at
_HINT_BYTES: Final = 65_536


def get_mtu(name: str) -> int:
    """Return an interface's MTU. Raises MissingFacilityError when it is not there."""
    mtu: int = _IFREQ.unpack(_ioctl(SIOCGIFMTU, name, 0))[1]
    return mtu


def is_up(name: str) -> bool:
    """Return whether an interface is up. Raises MissingFacilityError when it is not there."""
    flags: int = _IFREQ.unpack(_ioctl(SIOCGIFFLAGS, name, 0))[1]
    return bool(flags & IFF_UP)


def set_mtu(name: str, mtu: int) -> None:
    """Set an interface's MTU. Raises MissingFacilityError when it is not there."""
    _ioctl(SIOCSIFMTU, name, mtu)


def saved_addresses(
    name: str, configured: Sequence[InterfaceAddress]
) -> tuple[InterfaceAddress, ...]:
    """Return the addresses that the interface has now: those configured first, in their order.

    Link-local ones are the kernel's doing unless they were configured. Of an interface that is
    gone, the configured ones. Raises OSError.
    """
    from tunnel.policy.connection import Connection

    connection = Connection()
    try:
        dump = connection.read()
    finally:
        connection.close()
    link = dump.link(name)
    if link is None:
        return tuple(configured)
    found = [a.address for a in dump.addresses if a.index == link.index]
    kept = [address for address in configured if address in found]
    return (*kept, *(a for a in found if a not in kept and not a.ip.is_link_local))


def _ioctl(request: int, name: str, value: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            return fcntl.ioctl(sock, request, _IFREQ.pack(name.encode(), value))
        except OSError as error:
            raise MissingFacilityError(
                f"{name}: {error.strerror}; see whether `ip link` still shows the interface"
            ) from error


class LinkWatch:
    """Calls `gone` once when the interface was deleted, `mtu_changed` when its MTU changed, and
    `came_up` when it is up after it was down, which has cost it its routes, and `renamed` when
    it has another name.

    The interface is told by its index, so that a rename is not taken for a deletion.
    """

    def __init__(
        self,
        name: str,
        *,
        gone: Callable[[], None],
        mtu_changed: Callable[[int], None],
        came_up: Callable[[], None],
        renamed: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._name = name
        self._renamed = renamed
        self._index = socket.if_nametoindex(name)
        self._gone = gone
        self._mtu_changed = mtu_changed
        self._came_up = came_up
        self._mtu = get_mtu(name)
        self._up = is_up(name)
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0
        )
        self._socket.bind((0, RTMGRP_LINK))
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._hint)

    @property
    def mtu(self) -> int:
        """The MTU as it was last seen."""
        return self._mtu

    def close(self) -> None:
        """Stop watching; safe to call again."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def look(self) -> None:
        """Look at the interface now, and call what there is to call."""
        for _ in range(_ATTEMPTS):
            try:
                name = socket.if_indextoname(self._index)
            except OSError:
                self.close()
                self._gone()
                return
            with contextlib.suppress(MissingFacilityError):
                mtu, up = get_mtu(name), is_up(name)
                break
        else:
            return  # it has another name each time; the next notification is on its way
        if name != self._name:
            self._name = name
            self._renamed(name)
        if mtu != self._mtu:
            self._mtu = mtu
            self._mtu_changed(mtu)
        if up != self._up:
            self._up = up
            if up:
                self._came_up()

    def _hint(self) -> None:
        try:
            while self._socket.recv(_HINT_BYTES):
                pass
        except BlockingIOError:
            pass
        except OSError:
            pass  # ENOBUFS: hints were lost, which is one more reason to look
        self.look()
