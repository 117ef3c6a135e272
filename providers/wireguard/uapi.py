"""The cross-platform configuration protocol that wg(8) speaks: text <-> changes and snapshots.

A request is an operation line ('get=1' or 'set=1'), KEY=VALUE lines for set, and an empty line;
several may follow one another in one write. `RequestParser` takes bytes as they come and gives
whole requests. A set is checked to its end before anything of it is handed on: the first bad line
turns it into a Refusal, whose number the client gets as errno, and nothing changes. Lines are
decoded as they arrive and the buffers they were in are zeroed, as they may hold keys.

Source: wireguard.com/xplatform and what wg(8) and wireguard-go send; numbers as in protocol.md.
Stricter than wireguard-go in one point: a refused request is read to its end before the answer,
so that the requests behind it in the same write keep their meaning.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv6Address
from typing import Any, Final

from providers.wireguard.change import DeviceChange, DeviceSnapshot, PeerChange
from tunnel import values
from tunnel.errors import ConfigError
from tunnel.secret import KEY_BYTES, Secret, redact
from tunnel.settings import Address, Network
from tunnel.values import BadValue

BAD_VALUE: Final = -errno.EINVAL  # a value or a key that is not known
NO_EQUALS: Final = -errno.EPROTO
PORT_IN_USE: Final = -errno.EADDRINUSE
IO_FAILED: Final = -errno.EIO
OTHER: Final = -errno.ENOANO

LINE_MAX: Final = 1024  # bytes; the longest that wg sends has about 140
REQUEST_MAX: Final = 8 << 20  # bytes; 100,000 allowed IPs are less than 6 MB

_HEX: Final = tuple(b"%02x" % byte for byte in range(256))
_NIBBLES: Final = {ord(digit): value for value, digit in enumerate("0123456789abcdef")} | {
    ord(digit): value for value, digit in enumerate("ABCDEF", 10)
}


@dataclass(frozen=True, slots=True)
class Get:
    """Show the device."""


@dataclass(frozen=True, slots=True)
class Set:
    """Change the device."""

    change: DeviceChange


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that cannot be taken. `reason` is for the log and quotes no secret.

    After a `final` one nothing more is parsed: where the next request begins is unknown.
    """

    number: int
    reason: str
    final: bool = False


Request = Get | Set | Refusal


class UapiError(Exception):
    """A bad line: the errno for the client, and the reason for the log."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number
        self.reason = reason


class _State(Enum):
    OPERATION = "an operation comes next"
    GET = "in a get: the empty line comes next"
    SET = "in a set"
    REFUSED = "in a request with a mistake: what follows is skipped to the empty line"
    ENDED = "nothing more is read"


@dataclass(slots=True)
class _Peer:
    """A peer's lines so far."""

    public_key: bytes
    given: dict[str, Any] = field(default_factory=dict)
    allowed_ips: list[tuple[bool, Network]] = field(default_factory=list)

    def freeze(self) -> PeerChange:
        return PeerChange(self.public_key, allowed_ips=tuple(self.allowed_ips), **self.given)


class RequestParser:
    """Bytes in, requests out. One for each client."""

    def __init__(self) -> None:
        self._state = _State.OPERATION
        self._rest = bytearray()
        self._length = 0  # of the request so far
        self._refusal: Refusal | None = None
        self._begin()

    @property
    def idle(self) -> bool:
        """Whether no request has been begun and not ended."""
        return self._state is _State.OPERATION and not self._rest

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Request]:
        """Yield the requests that these bytes complete. Never raises for what a client sent."""
        if self._ended():
            return
        self._rest += data
        start = 0
        try:
            while (end := self._rest.find(b"\n", start)) >= 0:
                line = self._rest[start:end]
                self._length += len(line) + 1
                start = end + 1
                request = self._oversized(len(line), self._length) or self._line(line)
                _wipe(line, len(line))
                if request is not None:
                    yield request
                if self._ended():
                    return
            waiting = len(self._rest) - start
            if (request := self._oversized(waiting, self._length + waiting)) is not None:
                yield request
        finally:
            if self._ended():
                start = len(self._rest)
            _wipe(self._rest, start)
            del self._rest[:start]

    def close(self) -> None:
        """Wipe what is left of a request that never ended."""
        self._state = _State.ENDED
        _wipe(self._rest, len(self._rest))
        self._freeze().wipe()

    # -- lines -------------------------------------------------------------------------------

    def _ended(self) -> bool:
        return self._state is _State.ENDED

    def _line(self, line: bytearray) -> Request | None:
        match self._state:
            case _State.OPERATION:
                return self._operation(line) if line else None
            case _ if not line:
                return self._complete()
            case _State.GET:
                self._refuse(UapiError(BAD_VALUE, "get=1 takes no keys"))
            case _State.SET:
                try:
                    self._key(line)
                except UapiError as error:
                    self._refuse(error)
        return None

    def _operation(self, line: bytearray) -> Request | None:
        for operation, state in ((b"get=1", _State.GET), (b"set=1", _State.SET)):
            if line == operation:
                self._state = state
                return None
        number = BAD_VALUE if b"=" in line else NO_EQUALS
        return self._end(Refusal(number, "not an operation: get=1 or set=1 was due", final=True))

    def _complete(self) -> Request:
        request: Request = Get()
        if self._refusal is not None:
            request = self._refusal
        elif self._state is _State.SET:
            request = Set(self._freeze())
        self._begin()
        return request

    def _begin(self) -> None:
        self._state = _State.OPERATION
        self._refusal = None
        self._length = 0
        self._device: dict[str, Any] = {}
        self._peers: list[_Peer] = []

    def _refuse(self, error: UapiError) -> None:
        self._freeze().wipe()
        self._device, self._peers = {}, []
        self._refusal = Refusal(error.number, error.reason)
        self._state = _State.REFUSED

    def _oversized(self, line: int, request: int) -> Request | None:
        if line <= LINE_MAX and request <= REQUEST_MAX:
            return None
        what = f"a line of more than {LINE_MAX}" if line > LINE_MAX else f"more than {REQUEST_MAX}"
        return self._end(Refusal(BAD_VALUE, f"{what} bytes", final=True))

    def _end(self, refusal: Refusal) -> Refusal:
        self._freeze().wipe()
        self._state = _State.ENDED
        return refusal

    def _freeze(self) -> DeviceChange:
        return DeviceChange(**self._device, peers=tuple(peer.freeze() for peer in self._peers))

    # -- keys --------------------------------------------------------------------------------

    def _key(self, line: bytearray) -> None:
        at = line.find(b"=")
        if at < 0:
            raise UapiError(NO_EQUALS, "a line without '='")
        key, value = line[:at].decode("ascii", "replace"), line[at + 1 :]
        try:
            if key == "public_key":
                self._peers.append(_Peer(bytes(_secret(value).reveal())))
            elif self._peers:
                self._peer_key(self._peers[-1], key, value)
            else:
                self._device_key(key, value)
        except BadValue as error:
            raise UapiError(BAD_VALUE, f"{redact(key)}: {error.problem}") from None
        finally:
            _wipe(value, len(value))

    def _device_key(self, key: str, value: bytearray) -> None:
        match key:
            case "private_key":
                secret = _secret(value)
                if secret:  # all zeros clear the key
                    secret.clamp()
                _replace_secret(self._device, key, secret)
            case "listen_port":
                self._device[key] = values.port(_text(value))
            case "fwmark":
                self._device[key] = values.number(_text(value), 0, values.MARK_MAX)
            case "replace_peers":
                self._device[key] = _true(value)
            case _:
                raise _unknown("device")

    def _peer_key(self, peer: _Peer, key: str, value: bytearray) -> None:
        match key:
            case "remove" | "update_only":
                peer.given[key] = _true(value)
            case "preshared_key":
                _replace_secret(peer.given, key, _secret(value))
            case "endpoint":
                peer.given[key] = _endpoint(_text(value))
            case "persistent_keepalive_interval":
                seconds = values.number(_text(value), 0, values.KEEPALIVE_MAX)
                peer.given["persistent_keepalive"] = seconds
            case "replace_allowed_ips":
                peer.given[key] = _true(value)
                peer.allowed_ips.clear()  # what this request has added before goes too
            case "allowed_ip":
                text = _text(value)
                adds = not text.startswith("-")
                peer.allowed_ips.append((adds, values.network(text if adds else text[1:])))
            case "protocol_version":
                if _text(value) != "1":
                    raise BadValue("is not 1", "")
            case _:
                raise _unknown("peer")


def parse(text: bytes | bytearray) -> list[Request]:
    """Return the requests in a whole text; one that does not end is not there."""
    parser = RequestParser()
    try:
        return list(parser.feed(text))
    finally:
        parser.close()


def render(snapshot: DeviceSnapshot) -> bytearray:
    """Return the answer to a get, without its errno line; wipe it once it is sent.

    A bytearray from the first byte on: no immutable copy of a key is made.
    """
    out = bytearray()
    if snapshot.private_key:
        _put_key(out, b"private_key", snapshot.private_key.reveal())
    if snapshot.listen_port:
        out += b"listen_port=%d\n" % snapshot.listen_port
    if snapshot.fwmark:
        out += b"fwmark=%d\n" % snapshot.fwmark
    for peer in snapshot.peers:
        _put_key(out, b"public_key", peer.public_key)
        if peer.preshared_key:
            _put_key(out, b"preshared_key", peer.preshared_key.reveal())
        out += b"protocol_version=1\n"
        if peer.endpoint is not None:
            out += b"endpoint=%s\n" % _endpoint_text(*peer.endpoint).encode("ascii")
        seconds, nanoseconds = divmod(peer.last_handshake, 1_000_000_000)
        out += b"last_handshake_time_sec=%d\n" % seconds
        out += b"last_handshake_time_nsec=%d\n" % nanoseconds
        out += b"tx_bytes=%d\nrx_bytes=%d\n" % (peer.tx_bytes, peer.rx_bytes)
        out += b"persistent_keepalive_interval=%d\n" % peer.persistent_keepalive
        for network in peer.allowed_ips:
            out += b"allowed_ip=%s\n" % str(network).encode("ascii")
    return out


def errno_of(error: Exception) -> int:
    """Return the number that tells a client why a good request could not be carried out."""
    match error:
        case OSError() if error.errno == errno.EADDRINUSE:
            return PORT_IN_USE
        case OSError():
            return IO_FAILED
        case ConfigError() | ValueError():
            return BAD_VALUE
        case _:
            return OTHER


# -- values ----------------------------------------------------------------------------------


def _text(value: bytearray) -> str:
    return value.decode("utf-8", "replace")


def _true(value: bytearray) -> bool:
    if value == b"true":
        return True
    raise BadValue("is not 'true'", "write true, or leave the line out")


def _unknown(place: str) -> BadValue:
    return BadValue(f"is not a key of a {place}", "")


def _secret(value: bytearray) -> Secret:
    """Decode 64 hex digits without an immutable copy of them."""
    data = bytearray(KEY_BYTES)
    try:
        if len(value) != 2 * KEY_BYTES:
            raise BadValue("has not 64 hex digits", "")
        for i in range(KEY_BYTES):
            data[i] = _NIBBLES[value[2 * i]] << 4 | _NIBBLES[value[2 * i + 1]]
        return Secret(data)
    except KeyError:
        raise BadValue("has not 64 hex digits", "") from None
    finally:
        _wipe(data, len(data))


def _replace_secret(given: dict[str, Any], key: str, secret: Secret) -> None:
    if key in given:
        given[key].wipe()
    given[key] = secret


def _endpoint(text: str) -> tuple[Address, int]:
    parsed = values.endpoint(text)
    address = values.address(parsed.host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped  # our IPv6 socket carries IPv6 only
    return address, parsed.port


def _endpoint_text(address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _put_key(out: bytearray, name: bytes, key: bytes | bytearray) -> None:
    out += name
    out += b"="
    for byte in key:
        out += _HEX[byte]
    out += b"\n"


def _wipe(data: bytearray, length: int) -> None:
    data[:length] = bytes(length)
