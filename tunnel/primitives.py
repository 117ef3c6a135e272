"""Single operations of the native core, for handshakes, tests and benchmarks; how its calls fail.

`engine` and this module share the conversions at the boundary: buffers, addresses, errno.
"""

from __future__ import annotations

import errno
import functools
import operator
import os
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from tunnel._core import ffi, lib
from tunnel.errors import MissingFacilityError, TunnelError
from tunnel.settings import Address

TAG_BYTES: Final = 16

Buffer = bytes | bytearray | memoryview


class EngineError(TunnelError):
    """A call of the native engine failed; `errno` says why."""

    def __init__(self, call: str, code: int) -> None:
        super().__init__(f"engine: {call}: {os.strerror(code)}")
        self.errno = code


class AuthenticationError(TunnelError):
    """A ciphertext's tag is wrong: it was not made with this key, or it was altered."""


@dataclass(frozen=True, slots=True)
class ParsedPacket:
    """What the core's parser finds in an IP packet; offsets in bytes from its start."""

    version: int
    transport: int
    ds: int
    fragment: bool
    tcp_flags: int
    icmp_type: int
    icmp_code: int
    source_port: int
    destination_port: int
    transport_offset: int
    payload_offset: int
    total: int
    source: Address
    destination: Address


def check(call: str, result: int) -> int:
    """Return a call's result; raise ValueError for EINVAL, EngineError for other failures."""
    if result >= 0:
        return result
    if result == -errno.EINVAL:
        raise ValueError(f"engine: {call}: argument out of range")
    raise EngineError(call, -result)


def address_of(family: int, field: Any) -> Address:
    """Return the address in a 16-byte field of the core."""
    raw = bytes(field)
    return IPv4Address(raw[:4]) if family == 4 else IPv6Address(raw)


def octets(data: Buffer) -> Any:
    """Lend a buffer to the core for one call."""
    return ffi.from_buffer("uint8_t[]", data)


def sized(what: str, data: Buffer, size: int) -> Any:
    """Lend a buffer that must have exactly `size` bytes."""
    if len(data) != size:
        raise ValueError(f"{what}: {len(data)} bytes where {size} are needed")
    return octets(data)


def hchacha20(key: Buffer, nonce: Buffer) -> bytes:
    """Return the 32-byte subkey of a 32-byte key and a 16-byte nonce (draft-irtf-cfrg-xchacha)."""
    out = ffi.new("uint8_t[32]")
    lib.tc_hchacha20(sized("key", key, 32), sized("nonce", nonce, 16), out)
    return bytes(ffi.buffer(out))


_CRYPTO_FLAGS: Final = {
    "auto": 0,
    "avx512ifma": 0,
    "avx512": lib.TC_NO_IFMA,
    "avx2": lib.TC_NO_AVX512,
    "libcrypto": lib.TC_NO_AVX512 | lib.TC_NO_AVX2,
}
CRYPTO_CHOICES: Final = tuple(_CRYPTO_FLAGS)
"""What `--crypto` takes: the fastest that there is, or one by name."""

_WITHOUT_FLAGS: Final = {
    "tun-offload": 0,
    "tun-uso": 0,
    "connected-udp": 0,
    "udp-segment": lib.TC_NO_UDP_SEGMENT,
    "udp-gro": lib.TC_NO_UDP_GRO,
    "coalesce-tcp": lib.TC_NO_COALESCE_TCP,
    "coalesce-udp": lib.TC_NO_COALESCE_UDP,
    "uplink-queue": lib.TC_NO_UPLINK_QUEUE,
}
WITHOUT_CHOICES: Final = tuple(_WITHOUT_FLAGS)
"""What `--without` takes: facilities. Those without a flag are others' to heed."""


def seal(key: Buffer, counter: int, data: Buffer) -> bytes:
    """Return ciphertext and tag of a data message's packet."""
    out = bytearray(len(data) + TAG_BYTES)
    result = lib.tc_seal(sized("key", key, 32), counter, octets(data), len(data), octets(out))
    check("seal", result)
    return bytes(out)


def open_(key: Buffer, counter: int, data: Buffer) -> bytes:
    """Return the packet of ciphertext and tag. Raises AuthenticationError."""
    if len(data) < TAG_BYTES:
        raise AuthenticationError("a ciphertext shorter than its tag")
    out = bytearray(len(data) - TAG_BYTES)
    result = lib.tc_open(sized("key", key, 32), counter, octets(data), len(data), octets(out))
    if result == -errno.EBADMSG:
        raise AuthenticationError("the tag is wrong")
    check("open", result)
    return bytes(out)


def crypto_name(flags: int = 0) -> str:
    """Return what an engine with these flags seals and opens packets with."""
    name: bytes = ffi.string(lib.tc_crypto_name(flags))
    return name.decode()


def crypto_flags(choice: str) -> int:
    """Return the engine's flags for one of CRYPTO_CHOICES.

    Raises MissingFacilityError where this processor does not have what is asked for.
    """
    flags = _CRYPTO_FLAGS[choice]
    if choice not in ("auto", crypto_name(flags)):
        raise MissingFacilityError(
            f"crypto {choice}: this processor does not have it; auto would take {crypto_name()}"
        )
    return flags


def without_flags(names: Iterable[str]) -> int:
    """Return the engine's flags that force the fallbacks of some of WITHOUT_CHOICES."""
    return functools.reduce(operator.or_, (_WITHOUT_FLAGS[name] for name in names), 0)


def parse(packet: Buffer) -> ParsedPacket:
    """Parse an IP packet. Raises ValueError when it is malformed."""
    out = ffi.new("tc_packet *")
    if lib.tc_parse(octets(packet), len(packet), out) < 0:
        raise ValueError("not an IP packet, or cut short")
    return ParsedPacket(
        version=out.version,
        transport=out.transport,
        ds=out.ds,
        fragment=bool(out.fragment),
        tcp_flags=out.tcp_flags,
        icmp_type=out.icmp_type,
        icmp_code=out.icmp_code,
        source_port=out.source_port,
        destination_port=out.destination_port,
        transport_offset=out.transport_offset,
        payload_offset=out.payload_offset,
        total=out.total,
        source=address_of(out.version, out.source),
        destination=address_of(out.version, out.destination),
    )


def wipe(buffer: bytearray | memoryview) -> None:
    """Zero a writable buffer in a way that nothing optimises away."""
    lib.tc_wipe(ffi.from_buffer("uint8_t[]", buffer, require_writable=True), len(buffer))
