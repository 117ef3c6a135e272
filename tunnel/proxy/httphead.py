"""Heads of HTTP/1 messages as a proxy reads and passes them on (RFC 9110, 9112).

What two readers could take in two ways is refused, since between them it smuggles a request past
one of them (RFC 9112, section 11.2): lines that end in a bare LF, folded fields, space before a
colon, two lengths, a length and chunks at once, two Hosts. What is passed on is written anew: in
origin form, the target's Host, none of the fields that are for one hop alone (RFC 9110, 7.6.1),
and `Connection: close`, so that one connection carries one request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tunnel.places import Place, place
from tunnel.values import BadValue

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_FIELD: Final = re.compile(rb"(" + _TOKEN + rb"):([\t\x20-\x7e\x80-\xff]*)")
_REQUEST: Final = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_STATUS: Final = re.compile(rb"HTTP/1\.[0-9] ([0-9]{3})([ \t][\t\x20-\x7e\x80-\xff]*)?")
_ONE_HOP: Final = frozenset((
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization",
    b"proxy-authenticate", b"te", b"upgrade",
))  # fmt: skip
_FRAMING: Final = frozenset((b"host", b"content-length", b"transfer-encoding"))
_WANTED: Final = "this is a proxy: ask for http://HOST/ as a whole, or to CONNECT HOST:PORT"
_NO_HTTP: Final = "the server's answer is not the HTTP that could be passed on"
_CLOSE: Final = b"Connection: close\r\n\r\n"
LENGTH_DIGITS: Final = 18

Field = tuple[bytes, bytes]


class BadHead(Exception):
    """A message that cannot be served; the text is a status line's end, `why` is for a person."""

    def __init__(self, status: str, why: str = "") -> None:
        super().__init__(status)
        self.why = why


@dataclass(frozen=True, slots=True)
class Request:
    """A request's head: its method, where it is for, and what goes there (empty for CONNECT).

    `length` is of its body in bytes, None for one in chunks.
    """

    method: str
    to: Place
    authorization: bytes
    head: bytes
    length: int | None = 0


def may_begin(first: bytes) -> bool:
    """Tell whether a request can begin with this byte. TLS and SOCKS begin with others."""
    return first == b"\r" or re.fullmatch(_TOKEN, first) is not None


def read_request(lines: Sequence[bytes]) -> Request:
    """Read a request from its lines, without their ends. Raises BadHead."""
    found = _REQUEST.fullmatch(lines[0])
    if found is None:
        raise BadHead("400 Bad Request")
    method, target = found[1].decode(), found[2].decode()
    if found[3] != b"1":
        raise BadHead("505 HTTP Version Not Supported")
    fields = _fields(lines[1:])
    authorization = b"".join(_all(fields, b"proxy-authorization")[:1])
    if len(_all(fields, b"host")) > 1:
        raise BadHead("400 Bad Request")
    length = _length(fields, old=found[4] == b"0")
    if method == "CONNECT":
        return Request(method, _place(target, None), authorization, b"")
    scheme, separator, after = target.partition("://")
    if scheme.lower() != "http" or not separator:
        raise BadHead("400 Bad Request", _WANTED)
    authority = re.split("[/?#]", after, maxsplit=1)[0]
    path = after[len(authority) :].partition("#")[0]
    if not path and method == "OPTIONS":
        path = "*"  # RFC 9112, section 3.2.4
    elif not path.startswith("/"):
        path = f"/{path}"
    to = _place(authority, 80)
    first = f"{method} {path} HTTP/1.{found[4].decode()}\r\nHost: {authority}\r\n".encode()
    kept = [field for field in passed_on(fields) if field[0].lower() != b"host"]
    return Request(method, to, authorization, first + _written(kept) + _CLOSE, length)


def read_answer(lines: Sequence[bytes]) -> tuple[int, bytes]:
    """Return a response's status and its head as it goes on to the client. Raises BadHead.

    How its body ends is the client's to see: the server closes behind it.
    """
    found = _STATUS.fullmatch(lines[0])
    if found is None:
        raise BadHead("502 Bad Gateway", _NO_HTTP)
    try:
        kept = passed_on(_fields(lines[1:]))
    except BadHead:
        raise BadHead("502 Bad Gateway", _NO_HTTP) from None
    status = int(found[1])
    interim = status < 200
    head = lines[0] + b"\r\n" + _written(kept)
    return status, head + (b"\r\n" if interim else _CLOSE)


def passed_on(fields: Sequence[Field]) -> list[Field]:
    """Return the fields that are not for this hop alone. Raises BadHead."""
    named = {
        name.strip().lower()
        for value in _all(fields, b"connection")
        for name in value.split(b",")
    }  # fmt: skip
    if named & _FRAMING:
        raise BadHead("400 Bad Request")
    return [field for field in fields if field[0].lower() not in _ONE_HOP | named]


def _fields(lines: Sequence[bytes]) -> list[Field]:
    found = [_FIELD.fullmatch(line) for line in lines]
    if None in found:
        raise BadHead("400 Bad Request")
    return [(one[1], one[2].strip(b" \t")) for one in found if one is not None]


def _all(fields: Sequence[Field], name: bytes) -> list[bytes]:
    return [value for key, value in fields if key.lower() == name]


def _written(fields: Sequence[Field]) -> bytes:
    return b"".join(b"%b: %b\r\n" % field for field in fields)


def _length(fields: Sequence[Field], *, old: bool) -> int | None:
    """Return a request's length, None where it comes in chunks (RFC 9112, section 6)."""
    lengths, codings = _all(fields, b"content-length"), _all(fields, b"transfer-encoding")
    if codings:
        if lengths or len(codings) > 1 or old:
            raise BadHead("400 Bad Request")
        if codings[0].lower() != b"chunked":
            raise BadHead("501 Not Implemented")
        return None
    if not lengths:
        return 0
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,%d}" % LENGTH_DIGITS, lengths[0]):
        raise BadHead("400 Bad Request")
    return int(lengths[0])


def _place(text: str, port: int | None) -> Place:
    try:
        if port is not None and (":" not in text or text.endswith("]")):
            text = f"{text}:{port}"
        return place(text)
    except BadValue as error:
        raise BadHead("400 Bad Request", str(error)) from None
