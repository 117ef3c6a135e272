"""Learn that a file of ours was removed or replaced, from inotify(7) on its folder.

A notification only means that something may have changed: the file is then looked at again and
compared with what it was. So a lost or merged notification costs nothing, and where inotify has
no watches left (they are few per user) a look each second takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

# <sys/inotify.h>
_NONBLOCK_CLOEXEC: Final = os.O_NONBLOCK | os.O_CLOEXEC
_MOVED_FROM, _MOVED_TO, _DELETE = 0x40, 0x80, 0x200
_DELETE_SELF, _MOVE_SELF, _ONLYDIR = 0x400, 0x800, 0x01000000
_MASK: Final = _MOVED_FROM | _MOVED_TO | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR

_POLL_SECONDS: Final = 1.0
_READ_SIZE: Final = 1 << 16

Identity = tuple[int, int]


def identity(path: Path) -> Identity | None:
    """Return (device, inode) of what is at the path itself, links not followed; None if nothing."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class FileWatch:
    """Calls `on_gone` once when the path stops being the file that it is at `start`.

    `inotify` False forces the look each second.
    """

    def __init__(self, path: Path, on_gone: Callable[[], None], *, inotify: bool = True) -> None:
        self._path = path
        self._on_gone = on_gone
        self._inotify = inotify
        self._identity: Identity | None = None
        self._descriptor = -1
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch, on the running loop. Raises FileNotFoundError where there is nothing."""
        self._identity = identity(self._path)
        if self._identity is None:
            raise FileNotFoundError(f"{self._path} is not there to be watched")
        with contextlib.suppress(OSError):
            if self._inotify:
                self._descriptor = open_inotify({self._path.parent: _MASK})
        loop = asyncio.get_running_loop()
        if self._descriptor >= 0:
            loop.add_reader(self._descriptor, self._readable)
            # What happened between the first look and the watch sent no notification.
            self._look()
        else:
            self._timer = loop.call_later(_POLL_SECONDS, self._tick)

    def close(self) -> None:
        """Stop watching; `on_gone` is not called any more. Safe to call again."""
        self._identity = None
        if self._timer is not None:
            self._timer.cancel()
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, _READ_SIZE)
        self._look()

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_POLL_SECONDS, self._tick)
        self._look()

    def _look(self) -> None:
        if self._identity is not None and identity(self._path) != self._identity:
            self.close()
            self._on_gone()


def open_inotify(masks: Mapping[Path, int]) -> int:
    """Return a descriptor that becomes readable at the events of each path. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.inotify_init1(_NONBLOCK_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1")
    for path, mask in masks.items():
        if libc.inotify_add_watch(descriptor, os.fsencode(path), ctypes.c_uint32(mask)) < 0:
            code = ctypes.get_errno()
            os.close(descriptor)
            raise OSError(code, f"inotify_add_watch: {path}")
    return descriptor
