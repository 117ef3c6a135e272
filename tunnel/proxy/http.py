"""An HTTP proxy: CONNECT for anything, absolute-form requests for plain HTTP (RFC 9110, 9112).

A plain request is sent on in origin form, to be answered on a connection of its own; what the
server answers comes back as it is. Its hop-by-hop fields for the proxy are taken out.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
from dataclasses import dataclass
from typing import Final

from tunnel.places import Place, place
from tunnel.proxy.clients import Clients, connect
from tunnel.proxy.credentials import Credentials
from tunnel.proxy.dialer import Dialer
from tunnel.proxy.splice import splice
from tunnel.values import BadValue

#: Seconds that a client has to send its request's head.
HEAD_SECONDS: Final = 30.0
_FOR_THE_PROXY: Final = (b"proxy-authorization", b"proxy-connection", b"connection", b"keep-alive")


class BadHead(Exception):
    """A request that cannot be served; the text is the status line's end."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request's head: its method, where it is for, and what goes there (empty for CONNECT)."""

    method: str
    to: Place
    authorization: bytes
    head: bytes


def read_head(head: bytes) -> Request:
    """Read a request's head, with its empty line. Raises BadHead."""
    first, *rest = head.split(b"\r\n")
    fields = [line for line in rest if line]
    try:
        method, target, version = first.decode("ascii").split(" ")
    except (UnicodeDecodeError, ValueError):
        raise BadHead("400 Bad Request") from None
    if not version.startswith("HTTP/1."):
        raise BadHead("505 HTTP Version Not Supported")
    authorization = b""
    kept = []
    for line in fields:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise BadHead("400 Bad Request")
        if name.lower() == b"proxy-authorization":
            authorization = value.strip()
        if name.lower() not in _FOR_THE_PROXY:
            kept.append(line)
    if method == "CONNECT":
        return Request(method, _place(target, None), authorization, b"")
    scheme, separator, after = target.partition("://")
    if scheme.lower() != "http" or not separator:
        raise BadHead("400 Bad Request")
    authority = re.split("[/?#]", after, maxsplit=1)[0]
    path = after[len(authority) :].partition("#")[0]
    slash = "" if path.startswith("/") else "/"
    line = f"{method} {slash}{path} {version}".encode()
    sent = b"\r\n".join([line, *kept, b"Connection: close", b"", b""])
    return Request(method, _place(authority, 80), authorization, sent)


def _place(text: str, port: int | None) -> Place:
    try:
        if port is not None and (":" not in text or text.endswith("]")):
            text = f"{text}:{port}"
        return place(text)
    except BadValue:
        raise BadHead("400 Bad Request") from None


class HttpProxy:
    """An HTTP proxy into a network; `credentials` None admits everybody."""

    def __init__(
        self, network: Dialer, log: logging.Logger, credentials: Credentials | None = None
    ) -> None:
        self._network = network
        self._log = log
        self._credentials = credentials
        self.clients = Clients(self._serve, log)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                request = read_head(await _until_empty_line(reader))
        except BadHead as error:
            writer.write(_answer(str(error)))
            return
        if not self._admits(request.authorization):
            ask = 'Proxy-Authenticate: Basic realm="tunneld"\r\n'
            writer.write(_answer("407 Proxy Authentication Required", ask))
            return
        try:
            far = await connect(self._network, request.to.host, request.to.port)
        except OSError as error:
            self._log.debug("HTTP proxy: no connection: %s", error)
            timely = not isinstance(error, TimeoutError)
            writer.write(_answer("502 Bad Gateway" if timely else "504 Gateway Timeout"))
            return
        if request.method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            far[1].write(request.head)
        await splice((reader, writer), far)

    def _admits(self, authorization: bytes) -> bool:
        if self._credentials is None:
            return True
        scheme, _, value = authorization.partition(b" ")
        if scheme.lower() != b"basic":
            return False
        try:
            name, _, password = base64.b64decode(value.strip(), validate=True).partition(b":")
        except binascii.Error:
            return False
        return self._credentials.admit(name, password)


async def _until_empty_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise BadHead("431 Request Header Fields Too Large") from None


def _answer(status: str, fields: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{fields}Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
