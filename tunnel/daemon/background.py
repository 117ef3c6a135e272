"""A process fit to be a daemon: hardened, and, where asked for, in the background.

Going to the background happens before any thread or event loop exists. The command that the user
typed stays until the daemon says that it is ready, or ends with the daemon's own exit code, so
that a script such as wg-quick can go on at once and knows whether it may.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final

_PR_SET_DUMPABLE: Final = 4
Ready = Callable[[], None]


def open_streams() -> None:
    """Open /dev/null for each standard stream that the caller closed.

    Otherwise the next sockets would get their numbers, receive what is printed, and the event
    loop, which refuses to close such a number, would end the process.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(opened)


def harden() -> None:
    """No core dump, no debugger of the same user, nothing made that others may read."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.umask(0o077)


def in_background(work: Callable[[Ready], int]) -> int:
    """Run `work` in a daemon; return in both processes, with the code to exit with.

    `work` is given a function to call when it is ready; until then it has the terminal for its
    errors, afterwards the standard streams are /dev/null.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    told, tell = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)  # who stops waiting was not told that all is well
        os.close(tell)
        os.waitpid(child, 0)
        with open(told, "rb") as pipe:
            said = pipe.read(1)
        return said[0] if said else 1
    # Twice, so that the daemon is nobody's child and can get no controlling terminal.
    os.close(told)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    done = False

    def ready() -> None:
        nonlocal done
        if not done:
            done = True
            _close_streams()
            os.write(tell, b"\0")
            os.close(tell)

    code = work(ready)
    if not done:
        os.write(tell, bytes([code]))
    return code


def _close_streams() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)


def notify(state: str) -> None:
    """Tell systemd, where it listens: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as outlet:
        try:
            outlet.connect("\0" + address[1:] if address[0] == "@" else address)
            outlet.send(state.encode())
        except OSError:
            pass  # its absence is not the tunnel's trouble
