"""StackLoop: the stack on an event loop. NetStack gives it the calls that programs use.

One reader on the link, one timer, one turn: take what came, tell the owners, send what follows from
it. A link that is full stops the sending, not the stack; connections then wait in their own
buffers. The clock is the loop's kind (it stands still while the machine sleeps), so that a suspend
does not count as silence of the peer.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_interface
from types import TracebackType
from typing import Any, Final, Self

from tunnel.errors import TunnelError
from tunnel.flow import FlowClosed
from tunnel.netstack.aio.names import failure, is_far
from tunnel.netstack.aio.reserved import ReservedPorts
from tunnel.netstack.aio.server import StackServer
from tunnel.netstack.aio.transport import Opened, TcpTransport
from tunnel.netstack.aio.unitlink import UnitLink
from tunnel.netstack.endpoint import EventKind
from tunnel.netstack.ip import TCP, UDP, Outgoing
from tunnel.netstack.settings import Settings
from tunnel.netstack.stack import Stack
from tunnel.netstack.tcpsocket import Listener, Place, TcpSocket
from tunnel.primitives import EngineError

_SECOND: Final = 1_000_000_000
_TICK: Final = 1_000_000  # ns; what event loops can tell apart
_WATCH_SECONDS: Final = 2.0
_FEW: Final = 4
_ESTABLISHED: Final = EventKind.ESTABLISHED


class StackLoop:
    """Moves packets and time between a link and a stack."""

    def __init__(
        self,
        fd: int,
        link_flags: int,
        *,
        addresses: Iterable[str | IPv4Address | IPv6Address],
        mtu: int = 1420,
        dns: Sequence[str | IPv4Address | IPv6Address] = (),
        settings: Settings | None = None,
        memory: int = 64 << 20,
        ports: ReservedPorts | None = None,
        link: UnitLink | None = None,
    ) -> None:
        """`fd` stays the caller's, and open until after `aclose`. `memory` bounds what all receive
        windows may hold, in bytes. `ports` is for a stack that shares its addresses with the
        kernel. `link` is for one whose descriptor is not all of it.
        """
        self.loop = asyncio.get_running_loop()
        packed = [ip_interface(str(address)).ip.packed for address in addresses]
        chosen = settings or Settings(nodelay=True)
        self.stack = Stack(packed, mtu, secret=os.urandom(64), settings=chosen, memory=memory)
        self.dns = [ip_interface(str(server)).ip for server in dns]
        self.closed = False
        self.link = link or UnitLink(fd, link_flags)
        self._left: list[Outgoing] = []  # what the full link did not take
        self._scheduled = False
        self.ports = ports
        self.identifier = int.from_bytes(os.urandom(2), "big")  # of echo requests
        if ports is not None:
            self.identifier = ports.identifier()
        self._sequence = 0
        self._pings: dict[int, asyncio.Future[int]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0
        self._slept = _slept()
        self._watch = self.loop.call_later(_WATCH_SECONDS, self._look_at_clock)
        self.transports: set[Any] = set()
        self._servers: set[StackServer] = set()
        self.loop.add_reader(self.link.readable_fd, self._on_readable)

    @staticmethod
    def now() -> int:
        """The stack's time (ns)."""
        return time.monotonic_ns()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Reset every connection and let go of the link. Who waits hears of it at once."""
        if not self.closed:
            self.end(failure(errno.ECONNABORTED))
        await asyncio.sleep(0)

    def end(self, error: BaseException) -> None:
        """Reset every connection, tell who waits, let go of the link."""
        for server in list(self._servers):
            server.close()
        for answer in self._pings.values():
            if not answer.done():
                answer.set_exception(error)
        for transport in list(self.transports):
            transport.fail(error)
        self._turn()
        self.closed = True
        self._watch.cancel()
        if self.ports is not None:
            self.ports.close()
        self.loop.remove_reader(self.link.readable_fd)
        self.link.close()
        if self._left:
            self.loop.remove_writer(self.link.fd)
            self._left = []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def check_open(self) -> None:
        """Raise TunnelError once the stack is closed."""
        if self.closed:
            raise TunnelError("the tunnel's network stack is closed; open the tunnel again")

    # ---- for transports ----

    def dial(
        self,
        remote: Place,
        opened: Opened,
        local: Place | None = None,
        settings: Settings | None = None,
    ) -> TcpTransport:
        """Begin to connect; `opened` hears of the outcome. Raises OSError, TunnelError."""
        self.check_open()
        if not is_far(remote.address) or remote.address in self.stack.addresses:
            raise failure(errno.ENETUNREACH, remote, "connection to")  # nobody would answer
        if self.ports is not None:
            local = self._reserve(remote, local, self.ports)
        socket = self.stack.connect(remote, self.now(), local=local, settings=settings)
        transport = TcpTransport(self, socket, opened)
        self.transports.add(transport)
        self.wake()
        return transport

    async def connect(self, remote: Place, local: Place | None = None) -> TcpTransport:
        """Return a connection that stands and has no protocol yet (`TcpTransport.begin`)."""
        waiter: asyncio.Future[None] = self.loop.create_future()

        def opened(_: TcpTransport, error: BaseException | None) -> None:
            if waiter.done():
                return
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

        transport = self.dial(remote, opened, local)
        try:
            await waiter
        except BaseException:
            transport.abort()
            raise
        return transport

    def _reserve(self, remote: Place, local: Place | None, ports: ReservedPorts) -> Place:
        """Return a local end whose port the kernel leaves to us."""
        stack = self.stack
        route = stack.route(local.address or None if local else None, remote.address)
        port = local.port if local else 0
        if port:
            ports.take(TCP, port)
        else:
            now = self.now()
            port = ports.outgoing(lambda p: stack.tcp.is_free(route, p, remote.port, now))
        return Place(route.source, port)

    def forget(self, transport: Any) -> None:
        """A transport is done."""
        self.transports.discard(transport)

    def any_address(self, size: int | None = None) -> bytes:
        """Return the address that stands for all of ours, of 4 or 16 bytes."""
        sizes = {len(address) for address in self.stack.addresses}
        return bytes(size or (4 if 4 in sizes else 16))

    def forget_server(self, server: StackServer, listener: Listener) -> None:
        """A server has closed; its port stays reserved while connections of it live."""
        self._servers.discard(server)
        listener.close(self.now())
        if self.ports is not None and listener.port not in self.stack.tcp.local_ports():
            self.ports.give_back(TCP, listener.port)

    def forget_datagrams(self, transport: Any, port: int) -> None:
        """A UDP transport is done; most come and go with a question to a resolver."""
        self.forget(transport)
        if self.ports is not None and port not in self.stack.udp.local_ports():
            self.ports.give_back(UDP, port)

    # ---- changes ----

    def configure(
        self, addresses: Iterable[Any], mtu: int, dns: Sequence[str | IPv4Address | IPv6Address]
    ) -> None:
        """Go over to other addresses. Connections of an address that is gone are told at once."""
        self.dns = [ip_interface(str(server)).ip for server in dns]
        self.stack.configure(
            [ip_interface(str(address)).ip.packed for address in addresses], mtu, self.now()
        )
        if self.ports is not None:
            self.ports.follow(self.stack.addresses)
        self.wake()

    def nudge(self) -> None:
        """The path is another one, or the machine slept: connections show themselves now.

        What waits for an answer is sent again; what only listens asks whether the peer still knows
        of it, so that one that does not resets it.
        """
        self.stack.tcp.nudge(self.now())
        self.wake()

    def _look_at_clock(self) -> None:
        """Notice a suspend: one clock counted it, the other did not."""
        self._watch = self.loop.call_later(_WATCH_SECONDS, self._look_at_clock)
        before, self._slept = self._slept, _slept()
        if self._slept - before > _SECOND:
            self.nudge()
        self.tidy()

    def tidy(self) -> None:
        """Leave the ports that nothing here uses any more to the kernel."""
        if self.ports is not None:
            tcp, udp = self.stack.tcp, self.stack.udp
            self.ports.sweep({TCP: tcp.local_ports(), UDP: udp.local_ports()})

    # ---- the loop ----

    def wake(self) -> None:
        """Something was written, read or closed: there may be something to send, soon."""
        if not self._scheduled and not self.closed:
            self._scheduled = True
            self.loop.call_soon(self._soon)

    def _soon(self) -> None:
        self._scheduled = False
        if not self.closed:
            self._turn()

    def _on_readable(self) -> None:
        try:
            units = self.link.read()
        except (FlowClosed, EngineError) as error:
            self.end(ConnectionAbortedError(errno.ECONNABORTED, str(error)))
            return
        receive, now = self.stack.receive, self.now()
        for view, segment in units:
            receive(view, now, segment)
        if len(units) > _FEW or (units and units[-1][1]):
            self._turn()
        else:  # a dialogue: what those who are told answer leaves with the acknowledgment
            self._tell()
            self.wake()

    def _on_writable(self) -> None:
        left, self._left = self._left, []
        self.loop.remove_writer(self.link.fd)
        self._write(left)
        if not self._left:
            self._turn()

    def _on_timer(self) -> None:
        self._timer = None
        self.stack.handle_timeout(self.now())
        self._turn()

    def _turn(self) -> None:
        """Tell owners what happened, send what follows, set the timer."""
        stack = self.stack
        scheduled, self._scheduled = self._scheduled, True  # what they do now leaves below
        self._tell()
        self._scheduled = scheduled
        now = self.now()
        while not self._left and stack.eager:
            packets = stack.packets_to_send(now)
            if packets:
                self._write(packets)
        if stack.tcp.ended:
            self._tell()
        self._arm(now)

    def _tell(self) -> None:
        stack = self.stack
        for socket, event in stack.take_events():
            owner = socket.owner
            try:
                if owner is not None:
                    owner.tcp_event(event)
                elif socket.listener is not None and event.kind is _ESTABLISHED:
                    self._accept(socket, socket.listener)
            except Exception as error:
                self._failed(socket.owner, error)
        for received in stack.take_datagrams():
            owner = received.socket.owner
            try:
                if owner is not None:
                    owner.arrived(received.data, received.source, received.error)
            except Exception as error:
                self._failed(owner, error)
        for reply in stack.take_replies():
            answer = (
                self._pings.get(reply.sequence) if reply.identifier == self.identifier else None
            )
            if answer is not None and not answer.done():
                answer.set_result(reply.error)

    def _accept(self, socket: TcpSocket, listener: Listener) -> None:
        if listener.closed:
            socket.abort(self.now())
        else:
            listener.owner.accept(socket)

    def _failed(self, transport: Any, error: Exception) -> None:
        """A protocol raised: its connection ends, and nobody else's."""
        context = {"message": "a protocol failed", "exception": error, "transport": transport}
        self.loop.call_exception_handler(context)
        if transport is not None:
            transport.fail(error)

    def _write(self, packets: list[Outgoing]) -> None:
        try:
            taken = self.link.write(packets)
        except (FlowClosed, EngineError) as error:
            self._left = []
            self.loop.call_soon(self._fail, str(error))
            return
        if taken < len(packets):
            self._left = packets[taken:]
            self.loop.add_writer(self.link.fd, self._on_writable)

    def _fail(self, words: str) -> None:
        if not self.closed:
            self.end(ConnectionAbortedError(errno.ECONNABORTED, words))

    def _arm(self, now: int) -> None:
        due = self.stack.next_deadline()
        if due is None:
            return
        if self._timer is not None:
            if self._timer_due <= due:
                return  # it comes early, and is set again then
            self._timer.cancel()
        self._timer_due = due
        # Rounded up: uvloop makes no wait at all of less than half a millisecond, and would spin
        # until a paced segment is due. The sender makes up for what it is late.
        wait = -(-max(due - now, 0) // _TICK)
        self._timer = self.loop.call_later(wait * _TICK / _SECOND, self._on_timer)


def _slept() -> int:
    """Return how long the machine has slept since it was started (ns)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
