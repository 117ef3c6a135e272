"""What a connection waits for, and what it does when that does not come.

An answer to what is in flight (RFC 6298, by the sender), the end of its patience with a silent peer
(RFC 9293, section 3.8.3; RFC 5482) or with an idle one (section 3.8.4), something for a delayed
acknowledgment to go with, the end of TIME-WAIT. One deadline speaks for all of them.
"""

from __future__ import annotations

from typing import Final

from tunnel.netstack.endpoint import Endpoint, Reason
from tunnel.netstack.segment import ACK, NO_OPTIONS, RST
from tunnel.netstack.states import CLOSING_DOWN, State

# An enum's member costs a look-up in its class each time; these are looked at for each segment.
_CLOSED: Final = State.CLOSED
_LISTEN: Final = State.LISTEN
_TIME_WAIT: Final = State.TIME_WAIT


class Waiting(Endpoint):
    """An endpoint with its timers."""

    __slots__ = ()

    def next_deadline(self) -> int | None:
        """When `handle_timeout` is due (ns); None where nothing is waited for."""
        state = self.state
        if state is _CLOSED or state is _LISTEN:
            return None
        if state is _TIME_WAIT:
            return self._time_wait_at
        sender, receiver = self.sender, self.receiver
        due = sender.deadline
        if receiver is not None and receiver.ack_at and (due is None or receiver.ack_at < due):
            due = receiver.ack_at
        if sender.recovery.una != sender.recovery.nxt:
            last = self._give_up_at
        elif self.settings.keepalive and (at := self._keepalive_at) is not None:
            last = at
        else:
            return due
        return last if due is None or last < due else due

    @property
    def _give_up_at(self) -> int:
        if not self.sender.open:
            return self._opened_at + self.settings.connect_timeout
        return self.sender.recovery.progress_at + self.user_timeout

    @property
    def _keepalive_at(self) -> int | None:
        settings = self.settings
        if not settings.keepalive or self.state in CLOSING_DOWN or not self.sender.open:
            return None
        return self._heard_at + settings.keepalive + self._probes * settings.keepalive_interval

    def handle_timeout(self, now: int) -> None:
        """Do what is due by now; `segments_to_send` then has what follows from it."""
        if self.state in (State.CLOSED, State.LISTEN):
            return
        if self.state is State.TIME_WAIT:
            if now >= self._time_wait_at:
                self._close(Reason.FINISHED)
            return
        if len(self.sender.recovery.flight):
            if now >= self._give_up_at:
                if self.sender.open:
                    reset = self._segment(self._bare_position, RST | ACK, now, NO_OPTIONS)
                    self._outbox.append(reset)
                self._close(Reason.TIMED_OUT)
                return
        elif self._keepalive_at is not None and now >= self._keepalive_at:
            self._keep_alive(now)
        self.sender.handle_timeout(now)

    def nudge(self, now: int) -> None:
        """The path may be another one: send what waits for an answer, or ask for one, now."""
        recovery = self.sender.recovery
        recovery.trip.end_back_off()
        if not self.sender.open:
            recovery.send_all_again()
        elif len(recovery.flight):
            recovery.probe = True
        elif self.state not in (State.CLOSED, State.TIME_WAIT):
            self._outbox.append(self._segment(self.sender.nxt - 1, ACK, now))

    def _keep_alive(self, now: int) -> None:
        """A segment just below the window, which must be answered (RFC 9293, section 3.8.4)."""
        if self._probes >= self.settings.keepalive_count:
            self._outbox.append(self._segment(self._bare_position, RST | ACK, now, NO_OPTIONS))
            self._close(Reason.TIMED_OUT)
            return
        self._probes += 1
        self._outbox.append(self._segment(self.sender.nxt - 1, ACK, now))
