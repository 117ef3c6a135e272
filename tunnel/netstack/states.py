"""The states of a connection and how they follow each other (RFC 9293, section 3.3.2, figure 5).

The table is the truth: a connection changes its state only by `follow`, and a step that is not in
the table is a fault of this stack, never something that a peer can bring about.

Two choices the RFC leaves open: CLOSE in SYN-RECEIVED waits until ESTABLISHED, and a reset or a
give-up leads to CLOSED from everywhere, so these two are not spelt out row by row.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class State(Enum):
    """RFC 9293, section 3.3.2."""

    __hash__ = object.__hash__  # members are single objects; Enum's own hashes their names

    CLOSED = "CLOSED"
    LISTEN = "LISTEN"
    SYN_SENT = "SYN-SENT"
    SYN_RECEIVED = "SYN-RECEIVED"
    ESTABLISHED = "ESTABLISHED"
    FIN_WAIT_1 = "FIN-WAIT-1"
    FIN_WAIT_2 = "FIN-WAIT-2"
    CLOSE_WAIT = "CLOSE-WAIT"
    CLOSING = "CLOSING"
    LAST_ACK = "LAST-ACK"
    TIME_WAIT = "TIME-WAIT"


class Step(Enum):
    """What moves a connection from one state to the next."""

    __hash__ = object.__hash__

    PASSIVE_OPEN = "passive open"
    ACTIVE_OPEN = "active open"
    SYN = "a SYN came"
    SYN_ACKED = "our SYN is acknowledged and theirs has come"
    CLOSE = "the user closes"
    FIN = "a FIN came"
    FIN_ACKED = "our FIN is acknowledged"
    RETURN_TO_LISTEN = "a reset before a passive open was complete"
    DELETE = "reset, abort, give-up or the end of TIME-WAIT"


_S, _E = State, Step
TRANSITIONS: Final[dict[tuple[State, Step], State]] = {
    (_S.CLOSED, _E.PASSIVE_OPEN): _S.LISTEN,
    (_S.CLOSED, _E.ACTIVE_OPEN): _S.SYN_SENT,
    (_S.LISTEN, _E.ACTIVE_OPEN): _S.SYN_SENT,
    (_S.LISTEN, _E.SYN): _S.SYN_RECEIVED,
    (_S.SYN_SENT, _E.SYN): _S.SYN_RECEIVED,  # simultaneous open
    (_S.SYN_SENT, _E.SYN_ACKED): _S.ESTABLISHED,
    (_S.SYN_RECEIVED, _E.SYN_ACKED): _S.ESTABLISHED,
    (_S.SYN_RECEIVED, _E.RETURN_TO_LISTEN): _S.LISTEN,
    (_S.ESTABLISHED, _E.CLOSE): _S.FIN_WAIT_1,
    (_S.ESTABLISHED, _E.FIN): _S.CLOSE_WAIT,
    (_S.FIN_WAIT_1, _E.FIN_ACKED): _S.FIN_WAIT_2,
    (_S.FIN_WAIT_1, _E.FIN): _S.CLOSING,
    (_S.FIN_WAIT_2, _E.FIN): _S.TIME_WAIT,
    (_S.CLOSING, _E.FIN_ACKED): _S.TIME_WAIT,
    (_S.CLOSE_WAIT, _E.CLOSE): _S.LAST_ACK,
    (_S.LAST_ACK, _E.FIN_ACKED): _S.CLOSED,
}

#: Both sides know each other's initial sequence number (RFC 9293, section 3.5.1).
SYNCHRONIZED: Final = frozenset(State) - {
    State.CLOSED,
    State.LISTEN,
    State.SYN_SENT,
    State.SYN_RECEIVED,
}
#: The user may still write.
MAY_WRITE: Final = frozenset(
    {State.SYN_SENT, State.SYN_RECEIVED, State.ESTABLISHED, State.CLOSE_WAIT}
)
#: The peer may still send data.
MAY_RECEIVE: Final = frozenset({State.ESTABLISHED, State.FIN_WAIT_1, State.FIN_WAIT_2})
#: Our FIN has been asked for.
CLOSING_DOWN: Final = frozenset(
    {State.FIN_WAIT_1, State.FIN_WAIT_2, State.CLOSING, State.LAST_ACK, State.TIME_WAIT}
)


def follow(state: State, step: Step) -> State:
    """Return the state after a step. KeyError where the RFC knows no such step."""
    return State.CLOSED if step is Step.DELETE else TRANSITIONS[state, step]


class Mode(Enum):
    """Whether a sender repairs losses."""

    OPEN = "open"
    RECOVERY = "recovery"
    LOSS = "after a retransmission timeout"
