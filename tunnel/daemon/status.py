"""The states of a session, as a table.

Two parties move it. The session says that it starts, stops, has stopped or has failed; the
provider says connecting, connected or reasserting. What the provider says is first seen through
the path (`seen`): with no permitted interface nothing is connected, whatever the provider
believes. What then becomes of the session's status stands in `NEXT`; what is not in it is ignored,
such as a provider's last words after the stop began.

                        +------------------------------+
                        v                              |
    DISCONNECTED -> CONNECTING -> CONNECTED <-> REASSERTING
         ^              |             |              |
         |              +-------------+--------------+
         |                            v
         +----------------------- DISCONNECTING -> ERROR -> CONNECTING (a new start)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tunnel.provider import StopReason, TunnelStatus

_S = TunnelStatus

#: status now -> status asked for -> status that follows
NEXT: Final[dict[TunnelStatus, dict[TunnelStatus, TunnelStatus]]] = {
    _S.DISCONNECTED: {_S.CONNECTING: _S.CONNECTING},
    _S.CONNECTING: {
        _S.CONNECTING: _S.CONNECTING,
        _S.CONNECTED: _S.CONNECTED,
        # There is nothing yet to assert again.
        _S.REASSERTING: _S.CONNECTING,
        _S.DISCONNECTING: _S.DISCONNECTING,
    },
    _S.CONNECTED: {
        # Once connected, connecting anew is what users know as reasserting.
        _S.CONNECTING: _S.REASSERTING,
        _S.CONNECTED: _S.CONNECTED,
        _S.REASSERTING: _S.REASSERTING,
        _S.DISCONNECTING: _S.DISCONNECTING,
    },
    _S.REASSERTING: {
        _S.CONNECTING: _S.REASSERTING,
        _S.CONNECTED: _S.CONNECTED,
        _S.REASSERTING: _S.REASSERTING,
        _S.DISCONNECTING: _S.DISCONNECTING,
    },
    _S.DISCONNECTING: {_S.DISCONNECTED: _S.DISCONNECTED, _S.ERROR: _S.ERROR},
    _S.ERROR: {_S.CONNECTING: _S.CONNECTING},
}

#: The statuses that a provider may report.
REPORTABLE: Final = frozenset({_S.CONNECTING, _S.CONNECTED, _S.REASSERTING})
#: The statuses in which nothing runs.
ENDED: Final = frozenset({_S.DISCONNECTED, _S.ERROR})


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a session ends; `error` is None for an orderly end."""

    reason: StopReason
    error: BaseException | None = None


def seen(reported: TunnelStatus, reason: str, waiting: str) -> tuple[TunnelStatus, str]:
    """Return what a provider's report amounts to.

    `waiting` says why the outer sockets are closed, and is empty when they are open. While they
    are closed a connected provider is reasserting, and that reason is the one that matters.
    """
    if not waiting:
        return reported, reason
    status = TunnelStatus.REASSERTING if reported is TunnelStatus.CONNECTED else reported
    return status, f"waiting: {waiting}"


def follow(now: TunnelStatus, asked: TunnelStatus) -> TunnelStatus:
    """Return the status that follows; `now` itself where the table has no such step."""
    return NEXT[now].get(asked, now)
