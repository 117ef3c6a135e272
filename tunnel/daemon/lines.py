"""tunneld's log: one line for people at a time, on standard error or in the system's log.

    tunneld: wg0: connected: handshake with ...

A line that repeats the one before it is left out.
"""

from __future__ import annotations

import logging
import sys
import syslog
from typing import Final

_PRIORITY: Final = {
    logging.ERROR: syslog.LOG_ERR,
    logging.WARNING: syslog.LOG_WARNING,
    logging.INFO: syslog.LOG_INFO,
    logging.DEBUG: syslog.LOG_DEBUG,
}


class _Merge(logging.Filter):
    last = ""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        repeated = text == self.last and record.exc_info is None
        self.last = text
        return not repeated


class _SystemLog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        syslog.syslog(_PRIORITY.get(record.levelno, syslog.LOG_INFO), self.format(record))


def open_log(name: str, level: str) -> logging.Logger:
    """Return the log of one tunnel, on standard error."""
    log = logging.getLogger("tunnel")
    log.setLevel(level.upper())
    log.propagate = False
    _hand_over(log, logging.StreamHandler(sys.stderr), f"tunneld: {name}: ")
    return log


def use_system_log(log: logging.Logger, name: str) -> None:
    """Write to the system's log from now on: a daemon in the background has no terminal."""
    syslog.openlog("tunneld", syslog.LOG_PID, syslog.LOG_DAEMON)
    _hand_over(log, _SystemLog(), f"{name}: ")


def _hand_over(log: logging.Logger, handler: logging.Handler, prefix: str) -> None:
    handler.addFilter(_Merge())  # on the handler, which providers' own loggers share
    handler.setFormatter(logging.Formatter(prefix.replace("%", "%%") + "%(message)s"))
    log.handlers[:] = [handler]
