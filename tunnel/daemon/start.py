"""The console script of tunneld: what has to be there before everything else is imported.

A service manager may stop us in the third of a second that importing takes. Nothing has been made
by then, so that leaving at once is an orderly end; and the configuration is yet to be read, so that
there is none to be read again.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Final

ORDERLY: Final = (signal.SIGTERM, signal.SIGINT)


def main() -> None:
    """Run tunneld."""
    for number in ORDERLY:
        signal.signal(number, _leave)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from tunnel.daemon.service import main as serve

    serve()


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(0)
