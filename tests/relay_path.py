"""The relay's model of a path, path.c, called in virtual time."""

from __future__ import annotations

import ctypes
from typing import Any

from tools.compiled import compiled
from tools.relaylib.relay import SOURCES
from tools.relaylib.settings import Link

_FIELDS = ("delay", "jitter", "loss", "byte_ns", "queue", "reorder", "duplicate", "corrupt")


class _Options(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_double)
        for name in (
            "loss", "queue", "byte_ns", "delay", "jitter", "reorder", "duplicate", "corrupt",
        )
    )  # fmt: skip


class _Link(ctypes.Structure):
    _fields_ = (
        ("options", _Options),
        ("seed", ctypes.c_uint64),
        ("header", ctypes.c_uint64),
        *((name, ctypes.c_double) for name in ("free_at", "seen", "last_due", "first", "area")),
        *(
            (name, ctypes.c_uint64)
            for name in (
                "datagrams", "bytes", "lost", "dropped", "duplicated", "corrupted",
                "queue_highest",
            )
        ),
    )  # fmt: skip


class _Fate(ctypes.Structure):
    _fields_ = (
        ("copies", ctypes.c_int),
        ("due", ctypes.c_double * 2),
        ("bit", ctypes.c_int64),
    )


def _entry() -> Any:
    source = next(path for path in SOURCES if path.name == "path.c")
    entry = ctypes.CDLL(str(compiled(source, shared=True))).link_enter
    entry.argtypes = (ctypes.POINTER(_Link), ctypes.c_size_t, ctypes.c_double)
    entry.restype = _Fate
    return entry


class VirtualLink:
    """One direction. Times are milliseconds; sizes are on the link, headers and all."""

    def __init__(self, link: Link, seed: int = 1) -> None:
        options = _Options(**dict(zip(_FIELDS, map(float, link.words()), strict=True)))
        self.link = _Link(options=options, seed=seed)
        self._enter = _entry()

    def enter(self, at: float, size: int = 1500) -> list[float]:
        """Return when the copies of a datagram leave."""
        return self.fate(at, size)[0]

    def fate(self, at: float, size: int = 1500) -> tuple[list[float], int]:
        """Return when the copies leave, and the bit that is turned, or -1."""
        found = self._enter(ctypes.byref(self.link), size, at * 1e6)
        return [found.due[i] / 1e6 for i in range(found.copies)], found.bit
