"""An HTTP proxy: CONNECT for anything, absolute-form requests for plain HTTP (RFC 9110, 9112).

    client: CONNECT host:port        proxy: 200, then bytes both ways
    client: GET http://host/         proxy: GET /, on a connection of its own, and its answer

A connection that carried a plain request is closed behind the answer. What a client has sent after
the request is never read, so that nothing of it can reach the server that the request was for.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
import re
from typing import Final

from tunnel.proxy.capacity import Capacity
from tunnel.proxy.clients import Clients, connect
from tunnel.proxy.credentials import Credentials
from tunnel.proxy.dialer import Dialer, Streams
from tunnel.proxy.httphead import BadHead, Request, may_begin, read_answer, read_request
from tunnel.proxy.relay import CHUNK, reset
from tunnel.proxy.splice import splice

#: Seconds that a client has to send its request's head.
HEAD_SECONDS: Final = 30.0
HEAD_BYTES: Final = 65_536
#: Seconds, and bytes, that a refused client may still send, so that it gets to read why.
LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 16 << 20
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(;[\t\x20-\x7e\x80-\xff]*)?\r\n")


class HttpProxy:
    """An HTTP proxy into a network; `credentials` None admits everybody."""

    def __init__(
        self,
        network: Dialer,
        log: logging.Logger,
        credentials: Credentials | None = None,
        capacity: Capacity | None = None,
    ) -> None:
        self._network = network
        self._log = log
        self._credentials = credentials
        self.clients = Clients(self._serve, log, capacity, self._turn_away)

    async def _turn_away(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _refuse(reader, writer, "503 Service Unavailable", "too many clients at once")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                first = await reader.readexactly(1)
                if not may_begin(first):  # whoever sent it would wait for more than an answer
                    raise BadHead("400 Bad Request", "this is a proxy for HTTP, without TLS")
                request = read_request(await _head(reader, "400 Bad Request", first))
        except TimeoutError:
            await _refuse(reader, writer, "408 Request Timeout")
            return
        except BadHead as error:
            await _refuse(reader, writer, str(error), error.why)
            return
        if not self._admits(request.authorization):
            ask = 'Proxy-Authenticate: Basic realm="tunneld"\r\n'
            await _refuse(reader, writer, "407 Proxy Authentication Required", fields=ask)
            return
        try:
            far = await connect(self._network, request.to.host, request.to.port)
        except OSError as error:
            self._log.debug("HTTP proxy: no connection: %s", error)
            late = isinstance(error, TimeoutError)
            status = "504 Gateway Timeout" if late else "502 Bad Gateway"
            why = f"no connection to {request.to}: {error.strerror or error}"
            await _refuse(reader, writer, status, why)
            return
        if request.method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await splice((reader, writer), far)
            return
        try:
            await _exchange(request, (reader, writer), far)
        finally:
            far[1].transport.abort()

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


# ---- one plain request ----


async def _exchange(request: Request, client: Streams, far: Streams) -> None:
    """Carry a request and its body there, and the answer back, whichever ends first."""
    far[1].write(request.head)
    sending = asyncio.create_task(_send_body(request, client[0], far[1]))
    try:
        try:
            head = await _answer_head(client[1], far[0], sending)
        except (BadHead, OSError, EOFError) as error:
            if isinstance(error, BadHead):
                await _refuse(*client, str(error), error.why)
            else:
                await _refuse(*client, "502 Bad Gateway", f"{request.to} ended without an answer")
            return
        client[1].write(head)
        try:
            while data := await far[0].read(CHUNK):
                client[1].write(data)
                await client[1].drain()
        except OSError:
            reset(client[1].transport)  # its end would look like that of the answer
            raise
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _answer_head(
    writer: asyncio.StreamWriter, far: asyncio.StreamReader, sending: asyncio.Task[None]
) -> bytes:
    """Pass interim answers on, and return the head of the final one."""
    while True:
        reading = asyncio.create_task(_head(far, "502 Bad Gateway"))
        try:
            await asyncio.wait((reading, sending), return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and isinstance(sending.exception(), BadHead):
                await sending  # the request itself is at fault
            lines = await reading
        finally:
            reading.cancel()
        status, head = read_answer(lines)
        if status >= 200:
            return head
        writer.write(head)


async def _send_body(
    request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Carry a request's body and not a byte more. Raises BadHead for chunks that are none."""
    if request.length is not None:
        await _carry(reader, writer, request.length)
        return
    try:
        while True:
            size = _CHUNK_SIZE.fullmatch(await reader.readuntil(b"\n"))
            if size is None:
                raise BadHead("400 Bad Request")
            length = int(size[1], 16)
            writer.write(b"%x\r\n" % length)
            if not length:
                break
            await _carry(reader, writer, length)
            if await reader.readexactly(2) != b"\r\n":
                raise BadHead("400 Bad Request")
            writer.write(b"\r\n")
        await _lines(reader, "400 Bad Request")  # trailers, which may be dropped
    except asyncio.LimitOverrunError:
        raise BadHead("400 Bad Request") from None
    writer.write(b"\r\n")


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int) -> None:
    while length:
        data = await reader.read(min(length, CHUNK))
        if not data:
            writer.transport.abort()  # half a request must not look like a whole one
            raise asyncio.IncompleteReadError(b"", length)
        length -= len(data)
        writer.write(data)
        await writer.drain()


# ---- heads ----


async def _head(reader: asyncio.StreamReader, bad: str, first: bytes = b"") -> list[bytes]:
    """Return a head's lines. Empty lines before it are skipped (RFC 9112, section 2.2)."""
    while True:
        lines = await _lines(reader, bad, first)
        if lines:
            return lines
        first = b""


async def _lines(reader: asyncio.StreamReader, bad: str, first: bytes = b"") -> list[bytes]:
    """Return lines up to an empty one; `first` was read already. Raises BadHead, EOFError."""
    lines: list[bytes] = []
    left = HEAD_BYTES
    while True:
        try:
            line = first + await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            left, line = 0, b""
        first = b""
        left -= len(line)
        if left <= 0:
            raise BadHead("431 Request Header Fields Too Large" if bad.startswith("4") else bad)
        if not line.endswith(b"\r\n"):
            raise BadHead(bad)
        if line == b"\r\n":
            return lines
        lines.append(line[:-2])


async def _refuse(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    status: str,
    why: str = "",
    fields: str = "",
) -> None:
    """Answer, and wait a little for what the client still sends: bytes that nobody reads become a
    reset, which would take the answer with it.
    """
    body = f"{why}\n".encode() if why else b""
    kind = "Content-Type: text/plain; charset=utf-8\r\n" if body else ""
    head = f"HTTP/1.1 {status}\r\n{fields}{kind}Content-Length: {len(body)}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
    if writer.can_write_eof():
        writer.write_eof()
    left = LINGER_BYTES
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(LINGER_SECONDS):
            while left > 0 and (data := await reader.read(CHUNK)):
                left -= len(data)
