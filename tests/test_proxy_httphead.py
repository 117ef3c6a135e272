"""The heads of requests and answers: tunnel/proxy/httphead.py."""

from __future__ import annotations

import pytest

from tunnel.proxy.httphead import BadHead, Request, read_answer, read_request


def head(text: str) -> Request:
    return read_request(text.encode("latin-1").split(b"\r\n"))


@pytest.mark.parametrize(
    ("target", "host", "port"),
    [
        ("http://a", "a", 80),
        ("http://a:81/", "a", 81),
        ("HTTP://[fd00::1]/x", "fd00::1", 80),
    ],
)
def test_where_a_plain_request_goes(target: str, host: str, port: int) -> None:
    request = head(f"GET {target} HTTP/1.1")
    assert (request.to.host, request.to.port) == (host, port)


@pytest.mark.parametrize(
    ("request_line", "sent"),
    [
        ("GET http://a", "GET /"),
        ("GET http://a?x=/y", "GET /?x=/y"),
        ("GET http://a/b#c", "GET /b"),
        ("GET http://a/b?", "GET /b?"),
        ("OPTIONS http://a", "OPTIONS *"),
        ("OPTIONS http://a/", "OPTIONS /"),
    ],
)
def test_the_origin_form(request_line: str, sent: str) -> None:
    request = head(f"{request_line} HTTP/1.1")
    assert request.head.startswith(f"{sent} HTTP/1.1\r\nHost: a\r\n".encode())


ONE_HOP = """Connection: X-Mine , close
x-mine: 1
Keep-Alive: 5
TE: trailers
Upgrade: h2c
Proxy-Authorization: Basic eDp5
Proxy-Connection: close"""


def test_fields_for_one_hop_are_not_passed_on() -> None:
    fields = ONE_HOP.replace("\n", "\r\n")
    request = head(f"GET http://a/ HTTP/1.1\r\n{fields}\r\nX-Other: \t2 \xe9 ")
    assert request.authorization == b"Basic eDp5"
    assert request.head == (
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Other: 2 \xe9\r\nConnection: close\r\n\r\n"
    )
    status, answer = read_answer(f"HTTP/1.1 200 OK\r\n{fields}\r\nETag: 3".encode().split(b"\r\n"))
    assert (status, answer) == (200, b"HTTP/1.1 200 OK\r\nETag: 3\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ("Content-Length: 1\r\nContent-Length: 1", "400"),
        ("Content-Length: 1, 1", "400"),
        ("Content-Length: +1", "400"),
        ("Content-Length: 0x1", "400"),
        ("Content-Length:", "400"),
        ("Content-Length: 1\r\nTransfer-Encoding: chunked", "400"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "400"),
        ("Transfer-Encoding: gzip, chunked", "501"),
        ("Transfer-Encoding: xchunked", "501"),
        ("Transfer-Encoding\t: chunked", "400"),
        ("Transfer-Encoding : chunked", "400"),
        ("X: a\r\n Content-Length: 1", "400"),
        ("X: a\nContent-Length: 1", "400"),
        ("X: a\rContent-Length: 1", "400"),
        ("X: a\0", "400"),
        (": a", "400"),
        ("Host: a\r\nhost: b", "400"),
        ("Connection: content-length\r\nContent-Length: 1", "400"),
        ("Connection: close, Transfer-Encoding", "400"),
    ],
)
def test_what_two_readers_could_take_in_two_ways(fields: str, status: str) -> None:
    with pytest.raises(BadHead, match=status):
        head(f"POST http://a/ HTTP/1.1\r\n{fields}")


@pytest.mark.parametrize(
    "line",
    ["\xff\xfe x y", "GET  http://a/ HTTP/1.1", "GET http://a/ HTTP/1.1 ", "G(T http://a/ HTTP/1.1",
     "GET http://a b/ HTTP/1.1", "GET http://u:p@a/ HTTP/1.1", "GET http:// HTTP/1.1",
     "GET http://a:/ HTTP/1.1", "GET http://a:0/ HTTP/1.1", "CONNECT a HTTP/1.1",
     "CONNECT 127.1:80 HTTP/1.1", "CONNECT a..b:80 HTTP/1.1", "CONNECT [::1:80 HTTP/1.1"],
)  # fmt: skip
def test_garbage(line: str) -> None:
    with pytest.raises(BadHead, match="400"):
        head(line)


def test_chunks_are_not_for_http_1_0() -> None:
    with pytest.raises(BadHead, match="400"):
        head("POST http://a/ HTTP/1.0\r\nTransfer-Encoding: chunked")
