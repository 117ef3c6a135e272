"""ADDR:PORT as users write it, for what listens and for what is dialled.

The command line and the TOML form share these readers, which raise BadValue.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from tunnel.values import BadValue, is_host, quoted

LOOPBACK: Final = "127.0.0.1"
PROTOCOLS: Final = ("tcp", "udp")


@dataclass(frozen=True, slots=True)
class Place:
    """A host, by address or name, and a port. IPv6 addresses are printed in brackets.

    Without a host it is a port of all addresses.
    """

    host: str
    port: int

    def __str__(self) -> str:
        if not self.host:
            return f"port {self.port}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, slots=True)
class Forward:
    """What arrives at `listen` is carried to `to`, by `protocol` tcp or udp."""

    protocol: str
    listen: Place
    to: Place

    def __str__(self) -> str:
        return f"{self.protocol} {self.listen} to {self.to}"


def place(text: str, *, host: str | None = None) -> Place:
    """Read HOST:PORT, or PORT alone where `host` says what is meant then. Raises BadValue."""
    before, colon, port = text.rpartition(":")
    if not colon and host is not None:
        before = host
    elif before.startswith("[") and before.endswith("]"):
        before = before[1:-1]
    elif ":" in before:
        raise BadValue(f"{quoted(text)} is not ADDR:PORT", "write an IPv6 address in brackets")
    if not before and host != "":
        raise BadValue(f"{quoted(text)} is not ADDR:PORT", "write it as in 127.0.0.1:1080")
    if before and not is_host(before):
        raise BadValue(f"{quoted(before)} is neither an address nor a host name", "correct it")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise BadValue(f"{quoted(text)}: the port is not a number from 1 to 65535", "correct it")
    return Place(before, int(port))


def forward(text: str) -> Forward:
    """Read PROTO:[ADDR:]PORT=HOST:PORT, which listens on this machine. Raises BadValue."""
    protocol, listen, to = _parts(text, "PROTO:LISTEN=DEST", "tcp:8080=10.0.0.1:80")
    return Forward(protocol, place(listen, host=LOOPBACK), place(to))


def expose(text: str) -> Forward:
    """Read PROTO:PORT=[HOST:]PORT, which listens inside the tunnel. Raises BadValue."""
    protocol, listen, to = _parts(text, "PROTO:PORT=LOCAL", "tcp:80=8080")
    if ":" in listen:
        raise BadValue(f"{quoted(text)}: only a port can be exposed", "write it as in tcp:80=8080")
    return Forward(protocol, place(listen, host=""), place(to, host=LOOPBACK))


def _parts(text: str, form: str, example: str) -> tuple[str, str, str]:
    protocol, colon, rest = text.partition(":")
    listen, equals, to = rest.partition("=")
    if protocol not in PROTOCOLS or not (colon and equals and listen and to):
        raise BadValue(f"{quoted(text)} is not {form}", f"write it as in {example}, or udp")
    return protocol, listen, to
