"""Addresses as sockets spell them, and back."""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final

from tunnel.netstack.tcpsocket import Place

_KNOWN: Final = 1024  # spellings that are remembered


@lru_cache(_KNOWN)
def literal(host: str) -> bytes | None:
    """Return the packed address that `host` spells, None for a name."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except (OSError, ValueError):
        return _scoped(host) if "%" in host else None


def _scoped(host: str) -> bytes | None:
    try:
        return ip_address(host).packed
    except ValueError:
        return None


def is_far(address: bytes) -> bool:
    """Tell whether a packed address can be that of another host: neither nobody's, nor loopback,
    nor of many at once.
    """
    first = address[0]
    if len(address) == 4:
        return first not in (0, 127) and first < 224
    return first != 0xFF and (any(address[:15]) or address[15] > 1)


@lru_cache(_KNOWN)
def text(address: bytes) -> str:
    """Spell a packed address."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def spelt(place: Place) -> tuple[Any, ...]:
    """Return an address as sockets have it: (host, port), or (host, port, 0, 0) for IPv6."""
    host = text(place.address)
    return (host, place.port) if len(place.address) == 4 else (host, place.port, 0, 0)


def failure(code: int, place: Place | None = None, doing: str = "") -> OSError:
    """Return the OSError of an errno, of the fitting kind, that names the address."""
    words = os.strerror(code)
    if place is not None:
        words = f"{doing} {text(place.address)} port {place.port}: {words}"
    return OSError(code, words)
