"""DnsWatch: notices that somebody wrote other DNS servers down, from inotify(7) on the folders.

Nothing tells of a new resolver over netlink. The files that dns.py reads are replaced or rewritten
by whoever configures the network; each write, rename or removal in their folders calls back, and
the reader looks again at what there is. Folders that come later (resolved's, when it starts) are
watched from then on, since each folder is watched from the nearest one that exists.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

from tunnel.filewatch import open_inotify

FOLDERS = (
    "etc",
    "run/systemd/resolve",
    "run/systemd/resolve/netif",
    "run/systemd/netif/links",
    "run/resolvconf/interface",
    "run/resolvconf/interfaces",
    "run/resolvconf/keys",
    "var/lib/NetworkManager",
    "var/lib/dhcp",
    "var/lib/dhclient",
)
_IN_CLOSE_WRITE, _IN_MOVED_FROM, _IN_MOVED_TO = 0x8, 0x40, 0x80
_IN_CREATE, _IN_DELETE, _IN_DELETE_SELF, _IN_MOVE_SELF = 0x100, 0x200, 0x400, 0x800
_IN_ONLYDIR, _IN_IGNORED, _IN_Q_OVERFLOW = 0x01000000, 0x8000, 0x4000
_MASK = (
    _IN_CLOSE_WRITE | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE
    | _IN_DELETE_SELF | _IN_MOVE_SELF | _IN_ONLYDIR
)  # fmt: skip
_EVENT = struct.Struct("=iIII")
_READ_SIZE = 1 << 16
_CROWDED = {"etc": frozenset(("resolv.conf",))}
"""Of a folder where much else is written, the entries that matter."""


class DnsWatch:
    """Calls `changed` on the running loop; `root` is where the file system starts, for tests.

    Where inotify has no room left, nothing is noticed here: the monitor reads the files again at
    each other change of the network, and before names are resolved.
    """

    def __init__(self, changed: Callable[[], None], root: Path = Path("/")) -> None:
        self._changed = changed
        self._root = root
        self._descriptor = -1
        self._watched: dict[int, tuple[Path, frozenset[str] | None]] = {}

    def start(self) -> None:
        """Begin to watch."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        with contextlib.suppress(OSError):
            self._descriptor = open_inotify({})
            self._watch_folders()
            asyncio.get_running_loop().add_reader(self._descriptor, self._readable)

    def close(self) -> None:
        """Stop watching; safe to call again."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            self._watched.clear()

    def _watch_folders(self) -> None:
        here = {folder for folder, _ in self._watched.values()}
        wanted: dict[Path, set[str] | None] = {}
        for name in FOLDERS:
            folder, only = self._root / name, _CROWDED.get(name)
            while not folder.is_dir() and folder != self._root:
                folder, only = folder.parent, frozenset((folder.name,))
            entries = wanted.setdefault(folder, set())
            if only is None or entries is None:
                wanted[folder] = None
            else:
                entries |= only
        for folder, names in wanted.items():
            if folder not in here:
                mask = ctypes.c_uint32(_MASK)
                number = self._libc.inotify_add_watch(self._descriptor, os.fsencode(folder), mask)
                if number >= 0:
                    only = None if names is None else frozenset(names)
                    self._watched[number] = folder, only

    def _readable(self) -> None:
        concerned = False
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._descriptor, _READ_SIZE)
            offset = 0
            while offset < len(data):
                number, mask, _, length = _EVENT.unpack_from(data, offset)
                offset += _EVENT.size
                name = os.fsdecode(data[offset : offset + length].rstrip(b"\0"))
                offset += length
                _, only = self._watched.get(number, (self._root, None))
                if mask & _IN_IGNORED:
                    self._watched.pop(number, None)
                concerned |= bool(mask & (_IN_Q_OVERFLOW | _IN_IGNORED))
                concerned |= only is None or name in only or not name
        if concerned:
            self._watch_folders()
            self._changed()
