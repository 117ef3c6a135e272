"""An HTTP proxy: CONNECT for anything, absolute-form requests for plain HTTP (RFC 9110, 9112).

    client: CONNECT host:port        proxy: 200, then bytes both ways
    client: GET http://host/         proxy: GET /, on a connection of its own, and its answer

A connection that carried a plain request is closed behind the answer. What a client sends after the
request is dropped, so that nothing of it can reach the server that the request was for.

A client that is refused may go on sending for a moment: bytes that nobody reads become a reset,
which would take the answer with it.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
from typing import Final

from tunnel.places import Place
from tunnel.proxy.capacity import Capacity
from tunnel.proxy.clients import Clients
from tunnel.proxy.credentials import Credentials
from tunnel.proxy.dialer import Dialer
from tunnel.proxy.guest import Far, Guest
from tunnel.proxy.httpbody import Body, Head
from tunnel.proxy.httphead import BadHead, Request, may_begin, read_answer, read_request
from tunnel.proxy.relay import End, reset

#: Seconds that a client has to send its request's head.
HEAD_SECONDS = 30.0
#: Seconds, and bytes, that a refused client may still send, so that it gets to read why.
LINGER_SECONDS = 2.0
LINGER_BYTES: Final = 16 << 20
_GRANTED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


class HttpProxy:
    """An HTTP proxy into a network; `credentials` None admits everybody."""

    def __init__(
        self,
        network: Dialer,
        log: logging.Logger,
        credentials: Credentials | None = None,
        capacity: Capacity | None = None,
    ) -> None:
        self._credentials = credentials
        self.clients = Clients(lambda: _Client(self), network, log, capacity, speak_first=True)

    def admits(self, authorization: bytes) -> bool:
        """Tell whether a client may use the proxy by its Proxy-Authorization."""
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


class _Client(Guest):
    """One client. Its head is collected, then its request has a place and, if plain, a body."""

    __slots__ = ("_body", "_first", "_head", "_left", "_place", "_proxy")

    def __init__(self, proxy: HttpProxy) -> None:
        super().__init__(proxy.clients)
        self._proxy = proxy
        self._head: Head | None = Head()
        self._place: Place | None = None
        self._first = b""  # what a plain request begins with on its way on
        self._body: Body | None = None
        self._left = LINGER_BYTES

    # ---- its request ----

    def came(self, *, full: bool) -> None:
        if full:
            self._refuse("503 Service Unavailable", "too many clients at once")
        else:
            self.within(HEAD_SECONDS)

    def late(self) -> None:
        if self._head is None:  # it was refused
            super().late()
        else:
            self._refuse("408 Request Timeout")

    def heard(self, data: bytes) -> None:
        head = self._head
        if head is None:
            self._left -= len(data)
            if self._left <= 0:
                self.transport.abort()
            return
        try:
            if not head.rest and not may_begin(data[:1]):
                # Whoever sent it would wait for more than an answer.
                raise BadHead("400 Bad Request", "this is a proxy for HTTP, without TLS")
            lines = head.receive(data)
            if lines is not None:
                self._serve(read_request(lines), head.rest)
        except BadHead as error:
            self._refuse(str(error), error.why)

    def _serve(self, request: Request, rest: bytes) -> None:
        if not self._proxy.admits(request.authorization):
            ask = 'Proxy-Authenticate: Basic realm="tunneld"\r\n'
            self._refuse("407 Proxy Authentication Required", fields=ask)
            return
        self._head, self._place, self._first = None, request.to, request.head
        if request.method != "CONNECT":
            self._body = Body(request.length)
        self.dial(request.to.host, request.to.port, rest)

    def far_end(self) -> End:
        return Far(self) if self._body is None else _Origin(self)

    def granted(self, far: End) -> None:
        if self._body is None:
            self.transport.write(_GRANTED)
        else:
            self.spoke = True
            far.transport.write(self._first)

    def failed(self, error: BaseException) -> None:
        status = "504 Gateway Timeout" if isinstance(error, TimeoutError) else "502 Bad Gateway"
        self._refuse(status, self._why(error))

    def _why(self, error: BaseException) -> str:
        """Say what went wrong, and where, which the network's own words do as a rule."""
        if isinstance(error, OSError) and error.strerror and error.errno:
            if error.strerror != os.strerror(error.errno):
                return error.strerror
            return f"no connection to {self._place}: {error.strerror}"
        return f"no connection to {self._place}: {error}"

    # ---- a plain request's body ----

    def data_received(self, data: bytes | memoryview) -> None:
        if self._body is not None and self.other is not None:
            try:
                data = self._body.receive(data)
            except BadHead as error:
                self.give_up(error)
                return
            if not data:
                return
        super().data_received(data)

    def eof_received(self) -> bool:
        if self._body is None or self.other is None:
            return super().eof_received()
        self.finished = True
        if not self._body.over:
            self.give_up(BadHead("400 Bad Request", "the request ended before its body did"))
        return True

    def give_up(self, error: BadHead | None = None) -> None:
        """End a plain exchange that is not whole: in words, where no answer has begun."""
        origin = self.other
        assert isinstance(origin, _Origin)
        self.other = origin.other = None
        reset(origin.transport)
        if origin.answered:
            reset(self.transport)  # its end would look like that of the answer
        elif error is None:
            self._refuse("502 Bad Gateway", f"{self._place} ended without an answer")
        else:
            self._refuse(str(error), error.why)

    # ---- refusing ----

    def _refuse(self, status: str, why: str = "", fields: str = "") -> None:
        self._head = None
        if self.transport.is_closing():
            return
        body = f"{why}\n".encode() if why else b""
        kind = "Content-Type: text/plain; charset=utf-8\r\n" if body else ""
        head = f"HTTP/1.1 {status}\r\n{fields}{kind}Content-Length: {len(body)}\r\n"
        self.transport.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        if self.finished:
            self.transport.close()
            return
        self.transport.write_eof()
        self.transport.resume_reading()
        self.within(LINGER_SECONDS)


class _Origin(Far):
    """The server of a plain request; `answered` once the head of its final answer is there."""

    __slots__ = ("_head", "answered")

    def __init__(self, client: _Client) -> None:
        super().__init__(client)
        self._head = Head("502 Bad Gateway")
        self.answered = False

    def data_received(self, data: bytes | memoryview) -> None:
        client = self.other
        if self.answered or not isinstance(client, _Client):
            super().data_received(data)
            return
        try:
            said = self._answer(bytes(data))
        except BadHead as error:
            client.give_up(error)
        else:
            client.transport.write(said)

    def _answer(self, data: bytes) -> bytes:
        """Return what of interim answers, the head and the body behind it is for the client."""
        said = b""
        while not self.answered:
            lines = self._head.receive(data)
            if lines is None:
                return said
            status, head = read_answer(lines)
            said, data = said + head, b""
            self.answered = status >= 200
        return said + self._head.take()

    def eof_received(self) -> bool:
        self.finished = True
        client = self.other
        if not isinstance(client, _Client):
            return False
        if self.answered:
            client.transport.close()
        else:
            client.give_up()
        return True  # until the client has all of it

    def connection_lost(self, error: BaseException | None) -> None:
        if not self.answered and isinstance(self.other, _Client):
            self.other.give_up()
        super().connection_lost(error)
