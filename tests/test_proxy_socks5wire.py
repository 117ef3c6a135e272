"""A client's part of the negotiation, cut in every place that it can be cut in."""

from __future__ import annotations

import pytest

from tunnel.proxy.credentials import Credentials
from tunnel.proxy.socks5wire import CONNECT, Negotiation, Request, reply

ANN = Credentials(((b"ann", b"secret"),))
METHODS, ADMISSION = b"\x05\x02\x00\x02", b"\x01\x03ann\x06secret"
NAMED = b"\x05\x01\x00\x03\x09name.test\x00\x50"


def spoken(said: bytes, cut: int, credentials: Credentials | None) -> tuple[bytes, Negotiation]:
    """Return what is answered to something that comes in two pieces."""
    negotiation = Negotiation(credentials)
    return negotiation.receive(said[:cut]) + negotiation.receive(said[cut:]), negotiation


@pytest.mark.parametrize("cut", range(len(METHODS + NAMED) + 1))
def test_wherever_it_is_cut(cut: int) -> None:
    answered, negotiation = spoken(METHODS + NAMED + b"rest", cut, None)
    assert answered == b"\x05\x00"
    assert negotiation.request == Request(CONNECT, "name.test", 80)
    assert (negotiation.over, negotiation.rest) == (True, b"rest")


@pytest.mark.parametrize("cut", range(len(METHODS + ADMISSION + NAMED) + 1))
def test_wherever_it_is_cut_with_credentials(cut: int) -> None:
    answered, negotiation = spoken(METHODS + ADMISSION + NAMED, cut, ANN)
    assert answered == b"\x05\x02\x01\x00"
    assert negotiation.request == Request(CONNECT, "name.test", 80)


@pytest.mark.parametrize(
    ("said", "answered", "credentials"),
    [
        (b"\x05\x00", b"\x05\xff", None),
        (b"\x05\x01\x02", b"\x05\xff", None),
        (b"\x05\x01\x00", b"\x05\xff", ANN),
        (METHODS + b"\x01\x00\x00", b"\x05\x02\x01\x01", ANN),
        (METHODS + b"\x01\x03ann\x00", b"\x05\x02\x01\x01", ANN),
        (METHODS + NAMED[:1] + b"\x02" + NAMED[2:], b"\x05\x00" + reply(7), None),
        (METHODS + b"\x05\x01\x00\x09\x00", b"\x05\x00" + reply(8), None),
        (METHODS + b"\x05\x01\x00\x03\x00\x00\x50", b"\x05\x00" + reply(8), None),
    ],
)
def test_what_ends_it(said: bytes, answered: bytes, credentials: Credentials | None) -> None:
    negotiation = Negotiation(credentials)
    assert negotiation.receive(said) == answered
    assert negotiation.over
    assert negotiation.request is None
