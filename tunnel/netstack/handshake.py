"""How a connection opens: the arrival of segments in LISTEN and SYN-SENT, and what a SYN tells.

RFC 9293, sections 3.10.7.1 to 3.10.7.3.
"""

from __future__ import annotations

from typing import Final

from tunnel.netstack.acks import Ack, blocks_of
from tunnel.netstack.endpoint import EventKind, Reason
from tunnel.netstack.receiver import Receiver, kept
from tunnel.netstack.rtt import SECOND
from tunnel.netstack.segment import ACK, CWR, ECE, FIN, RST, SYN, Options, Segment
from tunnel.netstack.sequence import unwrap, wrap
from tunnel.netstack.states import Step
from tunnel.netstack.waiting import Waiting

TIMESTAMP_BYTES: Final = 12
SMALLEST_SEGMENT: Final = 88  # a peer that announces less would make us send headers only
_USER_TIMEOUT_RANGE: Final = (100 * SECOND, 3600 * SECOND)  # L_LIMIT, U_LIMIT of RFC 5482


def reset_for(segment: Segment) -> Segment | None:
    """Return the reset that answers a segment without a connection (RFC 9293, 3.10.7.1)."""
    if segment.flags & RST:
        return None
    ports = segment.destination_port, segment.source_port
    if segment.flags & ACK:
        return Segment(*ports, segment.acknowledgment, 0, RST, 0)
    return Segment(*ports, 0, wrap(segment.sequence + segment.length), RST | ACK, 0)


class Handshake(Waiting):
    """An endpoint that can open."""

    __slots__ = ()

    def _reset_sender(self, segment: Segment) -> None:
        answer = reset_for(segment)
        if answer is not None:
            self._outbox.append(answer)

    def _arrive_in_listen(self, segment: Segment, now: int) -> None:
        """3.10.7.2: RST, ACK, SYN, in this order."""
        if segment.flags & RST:
            return
        if segment.flags & ACK:
            self._reset_sender(segment)
        elif segment.flags & SYN:
            self.remote_port = segment.source_port
            self._opened_at = now
            self._ecn = self._ecn and segment.flags & (ECE | CWR) == ECE | CWR
            self._learn_peer(segment, now)
            self._step(Step.SYN)
            self._keep_early(segment)

    def _arrive_in_syn_sent(self, segment: Segment, now: int) -> None:
        """3.10.7.3: ACK, RST, SYN, in this order."""
        flags = segment.flags
        ack = unwrap(segment.acknowledgment, self.sender.una)
        if flags & ACK and not self.sender.start < ack <= self.sender.nxt:
            self._reset_sender(segment)
            return
        if flags & RST:
            if flags & ACK:
                self._close(Reason.REFUSED)
            return
        if not flags & SYN:
            return
        if flags & ACK:
            self._ecn = self._ecn and flags & (ECE | CWR) == ECE
            self._learn_peer(segment, now)
            self._step(Step.SYN_ACKED)
            self._establish(segment, ack, now)
            self._receiver.greet(now)
            self._keep_early(segment)
        else:  # simultaneous open: our SYN leaves again, as SYN,ACK
            self._ecn = self._ecn and flags & (ECE | CWR) == ECE | CWR
            self._learn_peer(segment, now)
            self._step(Step.SYN)
            self.sender.recovery.send_all_again()
            self._keep_early(segment)

    def _keep_early(self, segment: Segment) -> None:
        """Queue what comes with a SYN; nothing of it is acknowledged before ESTABLISHED.

        A forger gains nothing: a cookie keeps none of it, and the peer sends it again then.
        """
        if segment.payload or segment.flags & FIN:
            self._early = segment._replace(payload=kept(segment.payload))

    @property
    def _receiver(self) -> Receiver:
        """The receiver, in states that have one."""
        assert self.receiver is not None
        return self.receiver

    def _learn_peer(self, segment: Segment, now: int) -> None:
        """Take the peer's sequence number and what its SYN offers."""
        settings, options = self.settings, segment.options
        self._timestamps = self._timestamps and options.timestamp is not None
        self._selective = self._selective and options.sack_permitted
        self._scaling = self._scaling and options.window_shift is not None
        if self._scaling:
            self._send_shift = options.window_shift or 0
        else:
            self._receive_shift = 0
        if options.timestamp is not None:
            self._recent, self._recent_at = options.timestamp[0], now
        peer = settings.peer_segment if options.mss is None else options.mss
        size = max(min(peer, settings.segment), SMALLEST_SEGMENT)
        receiver = self.receiver = Receiver(
            segment.sequence, settings.receive_buffer, settings.receive_most,
            self._pool.budget(), size, settings.patience,
        )  # fmt: skip
        self.sender.adopt(size - (TIMESTAMP_BYTES if self._timestamps else 0))
        self.sender.recovery.selective = self._selective
        self._take_user_timeout(options)
        self.sender.synchronize(receiver.nxt, self.iss, segment.window)
        self._heard_at = now

    def _take_user_timeout(self, options: Options) -> None:
        """RFC 5482, section 3.1: the larger of both, within limits."""
        if options.user_timeout:
            low, high = _USER_TIMEOUT_RANGE
            theirs = options.user_timeout * SECOND
            self.user_timeout = min(high, max(self.user_timeout, theirs, low))

    def _establish(self, segment: Segment, ack: int, now: int) -> None:
        self.sender.open = True
        # An answer at once is to a SYN,ACK that never left: a cookie (it tells no round trip).
        if self._ecn or now == self._opened_at or not self.sender.advance(ack, now):
            self.sender.acknowledge(self._ack_of(segment, ack, now), now, bare=False)
        self._tell(EventKind.ESTABLISHED)
        if self._closing:
            self._step(Step.CLOSE)
            self.sender.close()

    def _ack_of(self, segment: Segment, position: int, now: int) -> Ack:
        """Read what an acknowledgment says."""
        options = segment.options
        congested = self._ecn and segment.flags & (ECE | SYN) == ECE
        echoed_at = 0
        if options.timestamp is not None and self._timestamps:
            echoed_at = self._time_of(options.timestamp[1], now)
        if not options.sack or not self._selective:
            return Ack(position, congested=congested, echoed_at=echoed_at)
        sender = self.sender
        sack, duplicate = blocks_of(options, position, sender.nxt, sender.largest_window)
        return Ack(position, sack, duplicate, congested, echoed_at)
