"""Two netlink sockets that say when the firewall or the list of interfaces may have changed.

A notification only means that something changed; what, is read anew by who is told. Where the
kernel lost some for want of room, that too is a notification.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable
from typing import Final

from tunnel.policy.killswitch import nfnl

_RTMGRP_LINK: Final = 1
_BYTES: Final = 1 << 16
_ROOM: Final = 1 << 20
_SO_RCVBUFFORCE: Final = 33
_GENERATION: Final = nfnl.SUBSYSTEM << 8 | nfnl.NEWGEN


class Watch:
    """Calls `firewall(who)` after another program's changes of any table, `links()` after those of
    interfaces. `own` is the netlink port whose changes are ours.
    """

    def __init__(
        self, own: int, firewall: Callable[[str], None], links: Callable[[], None]
    ) -> None:
        self._own = own
        self._firewall = firewall
        self._links = links
        self._loop = asyncio.get_running_loop()
        groups = 1 << (nfnl.GROUP_NFTABLES - 1)
        self._tables = _listening(nfnl.NETLINK_NETFILTER, groups)
        self._devices = _listening(socket.NETLINK_ROUTE, _RTMGRP_LINK)
        self._loop.add_reader(self._tables, self._on_tables)
        self._loop.add_reader(self._devices, self._on_devices)

    def close(self) -> None:
        """Stop watching."""
        for one in (self._tables, self._devices):
            self._loop.remove_reader(one)
            one.close()

    def _on_tables(self) -> None:
        data, lost = _everything(self._tables)
        who = "another program" if lost else ""
        for message in nfnl.received(data):
            if message.port != self._own:
                who = who or "another program"
                if message.kind == _GENERATION:
                    who = _program(message.body) or who
        if who:
            self._firewall(who)

    def _on_devices(self) -> None:
        _everything(self._devices)
        self._links()


def _program(body: bytes) -> str:
    """Return which process changed the ruleset, as in 'nft (pid 123)'."""
    items = dict(nfnl.parsed(body))
    pid = int.from_bytes(items.get(2, b""), "big")
    name = items.get(3, b"").split(b"\0")[0].decode(errors="replace")
    return f"{name} (pid {pid})" if name and pid else ""


def _listening(family: int, groups: int) -> socket.socket:
    one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
    with contextlib.suppress(PermissionError):
        one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
    one.bind((0, groups))
    one.setblocking(False)
    return one


def _everything(one: socket.socket) -> tuple[bytes, bool]:
    """Read all that is there; whether some was lost as well."""
    data, lost = b"", False
    while True:
        try:
            data += one.recv(_BYTES)
        except BlockingIOError:
            return data, lost
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            lost = True
