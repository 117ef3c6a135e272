"""Learn that another program wrote, replaced or removed a file, from inotify(7).

Three things are watched, because a resolv.conf may be a link: the folder of the path, the file that
it leads to, and the folder of that one. After each notification they are looked up anew, since the
link may lead elsewhere by then. A notification only means "look again", and whoever is told has to
compare; where inotify has no watches left a look twice a second takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tunnel.filewatch import open_inotify

# <sys/inotify.h>
_CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x8, 0x40, 0x80, 0x100, 0x200
_FILE: Final = _CLOSE_WRITE
_FOLDER: Final = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_POLL_SECONDS: Final = 0.5

Look = tuple[str | None, int, int, int, int] | None


def look(path: Path) -> Look:
    """Return where the path leads, and the identity, time and size of what is there."""
    try:
        target = str(path.readlink()) if path.is_symlink() else None
        status = path.stat()
    except OSError:
        return None
    return target, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


class ContentWatch:
    """Calls `changed` after each change of the file, on the running loop, and sometimes without.

    `inotify` False forces the look twice a second.
    """

    def __init__(self, path: Path, changed: Callable[[], None], *, inotify: bool = True) -> None:
        self._path = path
        self._changed = changed
        self._inotify = inotify
        self._seen: Look = None
        self._descriptor = -1
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._seen = look(self._path)
        self._open()

    def close(self) -> None:
        """Stop watching; safe to call again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        target = self._path.resolve()
        masks = {self._path.parent: _FOLDER, target.parent: _FOLDER}
        if target.exists():
            masks[target] = _FILE
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            if self._inotify:
                self._descriptor = open_inotify(masks)
        if self._descriptor >= 0:
            loop.add_reader(self._descriptor, self._notified)
        else:
            self._timer = loop.call_later(_POLL_SECONDS, self._tick)

    def _notified(self) -> None:
        # A new watch for each notification: the link may lead elsewhere by now. What happens while
        # there is none is seen by the look that `changed` leads to.
        self.close()
        self._open()
        self._changed()

    def _tick(self) -> None:
        self.close()
        self._open()
        found = look(self._path)
        if found is None or found != self._seen:
            self._seen = found
            self._changed()
