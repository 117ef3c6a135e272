"""What of HTTP's bytes is head, body, and what is behind, however they are cut into pieces."""

from __future__ import annotations

import random

import pytest

from tunnel.proxy.httpbody import HEAD_BYTES, Body, Head
from tunnel.proxy.httphead import BadHead

CHUNKED = b"4;x=y\r\nbody\r\n00c\r\n\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\nTrailer: z\r\nT: y\r\n\r\n"
PLAIN = b"4\r\nbody\r\nc\r\n\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n"
BEHIND = b"GET http://other.test/ HTTP/1.1\r\n\r\n"


def pieces(data: bytes, seed: int) -> list[bytes]:
    """Cut data at random."""
    chance = random.Random(seed)
    cuts = sorted(chance.sample(range(len(data) + 1), min(seed, len(data))))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


@pytest.mark.parametrize("seed", range(0, 60, 4))
def test_a_body_in_pieces(seed: int) -> None:
    for length, sent, goes in ((None, CHUNKED, PLAIN), (9, b"some body", b"some body")):
        body = Body(length)
        said = b""
        for piece in pieces(sent + BEHIND, seed):
            said += body.receive(piece)
            assert body.over == (said == goes)
        assert said == goes


def test_no_body_at_all() -> None:
    body = Body(0)
    assert body.over
    assert body.receive(BEHIND) == b""


@pytest.mark.parametrize("seed", range(0, 40, 4))
def test_a_head_in_pieces(seed: int) -> None:
    head, lines = Head(), None
    for piece in pieces(b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n\r\nbehind\n", seed):
        if lines is None:
            lines = head.receive(piece)
        else:
            head.rest += piece
    assert lines == [b"GET / HTTP/1.1", b"Host: a"]
    assert head.take() == b"\r\nbehind\n"


@pytest.mark.parametrize("bad", [b"GET / HTTP/1.1\n", b"\n", b"\r\n\n", b"a\r\nb\nc\r\n\r\n"])
def test_a_bare_line_feed_is_refused_at_once(bad: bytes) -> None:
    with pytest.raises(BadHead, match="400"):
        Head().receive(bad)


@pytest.mark.parametrize(
    ("bad", "status"), [("400 Bad Request", "431"), ("502 Bad Gateway", "502")]
)
def test_a_head_without_end(bad: str, status: str) -> None:
    head = Head(bad)
    assert head.receive(b"X: " + b"y" * (HEAD_BYTES - 4)) is None
    with pytest.raises(BadHead, match=status):
        head.receive(b"y")


@pytest.mark.parametrize(
    "bad",
    [b"x\r\n", b"\r\n", b"4\r\nbody..\r\n", b"4\n", b"-1\r\n", b"9" * 16 + b"\r\n", b"1" * 5000,
     b"4;\0\r\n", b"0\r\n" + b"T: z\r\n" * 11_000, b"0\r\n\n"],
)  # fmt: skip
def test_chunks_that_are_none(bad: bytes) -> None:
    with pytest.raises(BadHead, match="400"):
        Body(None).receive(bad)
