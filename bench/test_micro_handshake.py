"""A whole handshake, both sides: two messages, eight Diffie-Hellman operations, the MACs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from providers.wireguard.handshake import (
    Identity,
    PeerHandshake,
    SessionKeys,
    consume_initiation,
    consume_response,
    create_initiation,
    create_response,
)
from tunnel import Secret

STEP = 50_000_000  # ns between handshakes, in the clock that they are given


@pytest.mark.benchmark(group="handshake")
def test_handshake(measured: Callable[..., Any]) -> None:
    ours, theirs = (Identity(Secret(bytes([number]) * 32)) for number in (1, 2))
    initiator, responder = PeerHandshake(theirs.public), PeerHandshake(ours.public)
    initiator.precompute(ours)
    responder.precompute(theirs)
    now, wall = 0, time.time_ns()

    def handshake() -> tuple[SessionKeys, SessionKeys]:
        nonlocal now
        now += STEP
        initiation = create_initiation(ours, initiator, 1, wall + now, now)
        consumed = consume_initiation(theirs, initiation, {ours.public: responder}.get, now)
        response, far = create_response(consumed, 2)
        return consume_response(ours, initiator, response), far

    near, far = measured(1, handshake)
    assert bytes(near.send) == bytes(far.receive)
