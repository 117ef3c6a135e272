"""The values that configuration is made of, from text: keys, endpoints, networks, numbers.

wg-quick's format, the TOML form and the UAPI socket share these functions, so that a value is
right or wrong in all three alike. Each function takes one value's text without surrounding
whitespace and returns the value, or raises BadValue with the problem and the mend; the caller
knows the place and the key and makes the full line of it. Key material is never quoted, and
anything else only through `redact`, since people do put keys into the wrong place.

Ranges and spellings are those of wg(8) and wg-quick(8): `inet_pton` addresses, decimal numbers,
a bare address for a network of one, 44 characters of canonical base64 for a key.
"""

from __future__ import annotations

import binascii
import ipaddress
import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Final

from tunnel.config import HostPort
from tunnel.secret import KEY_BYTES, Secret, redact
from tunnel.settings import Address, Inbound, InterfaceAddress, Network, Table

MARK_MAX: Final = 2**32 - 1
TABLE_MAX: Final = 2**32 - 1
KEEPALIVE_MAX: Final = 65535  # seconds
MTU_MIN, MTU_MAX = 68, 65535  # RFC 791 (every module must forward 68), and IPv4's total length
INTERFACE_NAME_MAX: Final = 15  # IFNAMSIZ less the final zero

_KEY_CHARACTERS: Final = 44
_QUOTED_MAX: Final = 60
_HOST_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_HOST_MAX: Final = 253  # RFC 1035, section 2.3.4, less the length bytes at both ends
_INTERFACE_NAME: Final = re.compile(r"[A-Za-z0-9_=+.-]{1,15}")


class BadValue(ValueError):
    """A value that cannot be taken: `problem` says why, `mend` what to write instead."""

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(f"{problem}; {mend}")
        self.problem = problem
        self.mend = mend


def quoted(text: str) -> str:
    """Return text that may be shown: in quotes, keys hidden, control characters escaped."""
    shown = redact(text)
    return repr(shown if len(shown) <= _QUOTED_MAX else shown[: _QUOTED_MAX - 3] + "...")


def number(text: str, low: int, high: int, *, what: str = "a number") -> int:
    """Return a decimal number in [low, high]. Signs, spaces and other scripts' digits are no."""
    if text.isascii() and text.isdigit() and len(text) <= 20 and low <= int(text) <= high:
        return int(text)
    raise BadValue(f"{quoted(text)} is not {what}", f"write a number from {low} to {high}")


def _key(text: str) -> bytes:
    problem = "is not a key"
    mend = f"write {_KEY_CHARACTERS} characters of base64, as `wg genkey` and `wg pubkey` print"
    if len(text) != _KEY_CHARACTERS:
        problem = f"has {len(text)} characters where a key has {_KEY_CHARACTERS}"
        raise BadValue(problem, mend)
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise BadValue(problem, mend) from None  # the cause might quote the text
    # The last character before '=' carries two unused bits; wg takes only the one spelling.
    if len(data) != KEY_BYTES or binascii.b2a_base64(data, newline=False) != text.encode("ascii"):
        raise BadValue(problem, mend)
    return data


def public_key(text: str) -> bytes:
    """Return the 32 bytes of a public key in base64."""
    return _key(text)


def secret_key(text: str) -> Secret:
    """Return a private or preshared key in base64. The caller clamps a private one."""
    return Secret(_key(text))


def port(text: str) -> int:
    """Return a UDP port to listen on, 0 for any that is free."""
    return number(text, 0, 65535, what="a port")


def mark(text: str) -> int:
    """Return a firewall mark: 'off', decimal, or hexadecimal with 0x. 0 is off."""
    if text.lower() == "off":
        return 0
    if re.fullmatch(r"0[xX][0-9A-Fa-f]{1,8}", text):
        return int(text, 16)
    try:
        return number(text, 0, MARK_MAX)
    except BadValue:
        raise BadValue(
            f"{quoted(text)} is not a firewall mark", "write off, a number, or 0x and 1 to 8 digits"
        ) from None


def keepalive(text: str) -> int:
    """Return a persistent keepalive interval in seconds; 'off' and 0 are off."""
    if text.lower() == "off":
        return 0
    try:
        return number(text, 0, KEEPALIVE_MAX)
    except BadValue:
        raise BadValue(
            f"{quoted(text)} is not a keepalive interval",
            f"write off or 1 to {KEEPALIVE_MAX} seconds",
        ) from None


def mtu(text: str) -> int:
    """Return an MTU in bytes."""
    return number(text, MTU_MIN, MTU_MAX, what="an MTU in bytes")


def boolean(text: str) -> bool:
    """Return wg-quick's true or false."""
    words = {"true": True, "false": False}
    if text.lower() not in words:
        raise BadValue(f"{quoted(text)} is neither true nor false", "write true or false")
    return words[text.lower()]


def table(text: str, lookup: Callable[[str], int | None]) -> Table | int:
    """Return a routing table: auto, off, a number, or a name that `lookup` knows (rt_tables)."""
    for word in Table:
        if text.lower() == word.value:
            return word
    if re.fullmatch(r"0[xX][0-9A-Fa-f]{1,8}", text) and int(text, 16):
        return int(text, 16)  # ip(8) takes it
    if text.isascii() and text.isdigit():
        return number(text, 1, TABLE_MAX, what="a routing table")
    found = lookup(text)
    if found is None:
        raise BadValue(
            f"{quoted(text)} is not a routing table",
            "write auto, off, a number, or a name from /etc/iproute2/rt_tables",
        )
    return found


def address(text: str) -> Address:
    """Return an address; IPv6 may carry a scope ('fe80::1%wlan0')."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise BadValue(
            f"{quoted(text)} is not an address", "write an IPv4 or IPv6 address"
        ) from None


def _prefix(text: str) -> tuple[Address, int]:
    bare, slash, prefix = text.partition("/")
    try:
        ip = address(bare)
        if "%" in bare:
            raise BadValue("", "")
        return ip, number(prefix, 0, ip.max_prefixlen) if slash else ip.max_prefixlen
    except BadValue:
        longest = 128 if ":" in bare else 32
        raise BadValue(
            f"{quoted(text)} is not a network",
            f"write ADDRESS/PREFIX with a prefix from 0 to {longest}, or an address alone",
        ) from None


def interface_address(text: str) -> InterfaceAddress:
    """Return ADDRESS/PREFIX, host bits kept; a bare address is /32 or /128."""
    ip, bits = _prefix(text)
    return (
        IPv4Interface((int(ip), bits))
        if isinstance(ip, IPv4Address)
        else IPv6Interface((int(ip), bits))
    )


def network(text: str) -> Network:
    """Return ADDRESS/PREFIX as a network, host bits cleared; a bare address is one of its own."""
    ip, bits = _prefix(text)
    if isinstance(ip, IPv4Address):
        return IPv4Network((int(ip), bits), strict=False)
    return IPv6Network((int(ip), bits), strict=False)


def endpoint(text: str) -> HostPort:
    """Return HOST:PORT; IPv6 in brackets (or, as wg takes it, before the last colon)."""
    mend = "write HOST:PORT or [IPV6]:PORT"
    host, colon, digits = text.rpartition(":")
    if not colon or not digits:
        raise BadValue(f"{quoted(text)} names no port", mend)
    if host.startswith("["):
        if not host.endswith("]"):
            raise BadValue(f"{quoted(text)} has no matching bracket", mend)
        host = host[1:-1]
    if not is_host(host):
        raise BadValue(f"{quoted(text)} names no host", mend)
    try:
        return HostPort(host, number(digits, 1, 65535))
    except BadValue:
        raise BadValue(f"{quoted(text)} has no port from 1 to 65535", mend) from None


def literal(host: str) -> Address | None:
    """Return the address that an endpoint's host is; None where it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_host(text: str) -> bool:
    """Tell whether the text is an address or a possible host name (RFC 1123, and '_')."""
    try:
        ipaddress.ip_address(text)
        return True
    except ValueError:
        pass
    if re.fullmatch(r"[0-9.]*", text) or len(text) > _HOST_MAX:
        return False  # digits and dots are an address with a mistake in it
    return all(_HOST_LABEL.fullmatch(label) for label in text.removesuffix(".").split("."))


def dns(text: str) -> Address | str:
    """Return a resolver's address or a search domain, told apart as wg-quick does."""
    if ":" in text or re.fullmatch(r"[0-9.]+", text):
        return address(text)
    if not is_host(text):
        raise BadValue(
            f"{quoted(text)} is neither an address nor a domain",
            "write addresses and domains with commas between",
        )
    return text


def match_domain(text: str) -> str:
    """Return a domain whose names go to a tunnel's resolvers; empty for every name ("", "~.")."""
    domain = text.strip().removeprefix("~").strip(".").lower()
    if domain and not is_host(domain):
        raise BadValue(f"{quoted(text)} is not a domain", 'write domains, or "" for every name')
    return domain


def interface_name(text: str) -> str:
    """Return a network interface's name, as wg-quick allows it."""
    if _INTERFACE_NAME.fullmatch(text) and text not in (".", ".."):
        return text
    raise BadValue(
        f"{quoted(text)} is not an interface name",
        f"write 1 to {INTERFACE_NAME_MAX} of the characters a-z, A-Z, 0-9 and _=+.-",
    )


def inbound(text: str) -> Inbound:
    """Return PROTO/PORT@IF: what stays reachable from outside under the kill switch."""
    service, at, interface = text.partition("@")
    kind, slash, digits = service.partition("/")
    if not at or not slash or kind not in ("tcp", "udp"):
        raise BadValue(
            f"{quoted(text)} is not PROTO/PORT@IF with tcp or udp",
            "write PROTO/PORT@IF, as in tcp/22@eth0",
        )
    return Inbound(kind, number(digits, 1, 65535, what="a port"), interface_name(interface))
