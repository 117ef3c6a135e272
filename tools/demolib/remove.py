"""Takes a lab away by its tag alone: processes, namespaces, sockets, files.

The demonstration ends with this whatever happened; `tools/demo --remove` does the same for a lab
that was kept, or whose demonstration was killed. So it relies on names only, and each step may
find its work done.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

#: One folder for each lab that exists: keys, configuration, logs. Only root can enter it.
LABS: Final = Path("/run/tunneld-demo")

#: Seconds that the lab's programs get to end in an orderly way.
GRACE: Final = 10.0

_NAMESPACES: Final = Path("/run/netns")
_FILES: Final = (Path("/run/wireguard"), Path("/run/tunneld"))
_FOLDERS: Final = (_NAMESPACES, *_FILES)
_ABSENT: Final = "absent-before"


def prepare(tag: str) -> Path:
    """Make a lab's folder, note which of the system's folders are not there yet, return it."""
    LABS.mkdir(mode=0o700, exist_ok=True)
    folder = LABS / tag
    folder.mkdir(mode=0o700)
    absent = [str(path) for path in _FOLDERS if not path.exists()]
    (folder / _ABSENT).write_text("\n".join(absent))
    return folder


def tags() -> list[str]:
    """Return the tags of the labs that there are."""
    return sorted(path.name for path in LABS.iterdir()) if LABS.is_dir() else []


def remove(tag: str) -> None:
    """Remove everything that belongs to a lab. Safe to call again."""
    names = [path.name for path in _NAMESPACES.glob(f"{tag}-*")]
    _end(pid for name in names for pid in _pids(name))
    # tunneld names its files after its interface, and its locks after the namespace's inode.
    patterns = [f"{tag}[cg].*", *(f"*-{(_NAMESPACES / name).stat().st_ino}-*" for name in names)]
    for path in (
        path for folder in _FILES for pattern in patterns for path in folder.glob(pattern)
    ):
        path.unlink(missing_ok=True)
    for name in names:
        subprocess.run(["ip", "netns", "del", name], check=False)
    folder = LABS / tag
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / _ABSENT).read_text().splitlines():
            _remove_folder(Path(line))
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        LABS.rmdir()


def _pids(namespace: str) -> list[int]:
    done = subprocess.run(
        ["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False
    )
    return [int(word) for word in done.stdout.split() if int(word) != os.getpid()]


def _end(pids: Iterable[int]) -> None:
    """Ask processes to end, wait for all of them, and kill those that did not in time."""
    waiting: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            waiting[os.pidfd_open(pid)] = pid
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for handle in waiting:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, sign)
        deadline = time.monotonic() + GRACE
        while waiting and (left := deadline - time.monotonic()) > 0:
            for handle in select.select(list(waiting), [], [], left)[0]:
                os.close(handle)
                del waiting[handle]


def _remove_folder(path: Path) -> None:
    """Remove a folder of the system's that this lab was the first to need, once it is empty."""
    if path.is_dir() and not any(path.iterdir()):
        if path == _NAMESPACES:  # `ip netns` mounts it on itself
            subprocess.run(["umount", str(path)], check=False, stderr=subprocess.DEVNULL)
        with contextlib.suppress(OSError):
            path.rmdir()
