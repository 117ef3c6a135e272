"""The outer UDP sockets: one port for both families and all workers, marked, bound to a device.

Unconnected sockets bound by SO_BINDTODEVICE (an address binding alone leaks through another
interface), since a connected one dies when its address changes. Beside them there may be one that
is connected, which spares the kernel the routes; it is bound and marked as they are, always with
them, and whatever it cannot carry they do. Everything that
decides where a packet leaves is set before bind(): there is no moment in which a socket that should
be bound could send elsewhere. Where that fails nothing stays open.

Several workers share a port by SO_REUSEPORT. That option would also let us join a port that another
program of the same user has, so the first socket is bound without it, which proves that nobody has
the port; only then is it set, for the rest to join. (Taking it away again afterwards would keep
later programs out too, but the kernel then stops spreading packets over the sockets. A single
worker's socket has nothing to spread: it has the option only while the connected one is bound.)
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tunnel.errors import MissingFacilityError, PrivilegeError, TunnelError

if TYPE_CHECKING:
    from tunnel.settings import Address

RECEIVE_BUFFER = 7 << 20
SEND_BUFFER = 7 << 20
"""Bytes. What a sender at 10 Gbit/s delivers while a worker is not scheduled for some 5 ms."""
PORT_ATTEMPTS = 32
"""How often a free port is drawn until one is free in both families."""

# linux/in.h, in6.h and asm-generic/socket.h, where Python's socket module has no name for them
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_IP_PKTINFO, _IP_MTU_DISCOVER, _IP_RECVTOS = 8, 10, 13
_IPV6_MTU_DISCOVER = 23
_PMTUDISC_DONT = 0
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_IPV6_MISSING = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


class OuterSockets:
    """The sockets of all workers. Closed at first; `open` after `close` works again.

    `port`, `mark` and `interface` are what is in force, or was when it was last open; `path` is the
    engine's number for these sockets, where a second set may be open beside them. Errors:
    OSError EADDRINUSE when another program has the port; MissingFacilityError, which names the
    interface, when that is gone; PrivilegeError when the kernel refuses mark or device.

    An engine may still use descriptors that are not wanted any more. So whatever replaces or gives
    up sockets while a tunnel runs withdraws them: they are no longer in `pairs`, and are closed by
    `release`, which is called once the engine has let go of them.
    """

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self.path = 0
        self.port = 0
        self.mark = 0
        self.interface: str | None = None
        self._sockets: Pairs = []
        self._connected: socket.socket | None = None
        self._withdrawn: list[socket.socket] = []

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Descriptors (IPv4, IPv6) of each worker, -1 where a family is missing; [] when closed."""
        return [
            (-1 if four is None else four.fileno(), -1 if six is None else six.fileno())
            for four, six in self._sockets
        ]

    def open(self, *, port: int = 0, mark: int = 0, interface: str | None = None) -> None:
        """Open all sockets; port 0 draws one that is free in both families."""
        self.withdraw()
        with _explained(interface):
            self._sockets = _open_all(self.workers, port, mark, interface)
        self.port = self._sockets_port()
        self.mark = mark
        self.interface = interface

    def close(self) -> None:
        """Close all sockets; safe to call again. Detach them from the engine first."""
        self.withdraw()
        self.release()

    def withdraw(self) -> None:
        """Give up the sockets, if there are any; `release` closes them."""
        self._withdrawn += self._all()
        self._sockets, self._connected = [], None

    def release(self) -> None:
        """Close what was withdrawn; safe to call again."""
        for one in self._withdrawn:
            one.close()
        self._withdrawn = []

    def connect(self, source: Address, address: Address, port: int, scope: int = 0) -> int:
        """Open one more socket, from `source` to one far end alone; return its descriptor.

        What that far end sends to `source` arrives there from then on; what arrived before it was
        connected may be of others. It follows `rebind` and `set_mark`, and is withdrawn with the
        others. Raises OSError or TunnelError; ValueError with several workers.
        """
        if self.workers != 1:
            raise ValueError("a connected socket: one worker's only")
        self.disconnect()
        opened: list[socket.socket] = []
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        try:
            with _explained(self.interface):
                one = _make(family, self.mark, self.interface, opened)
                beside = next((one for one in self._all() if one.family == family), None)
                if one is None or beside is None:
                    raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
                _ask_for_our_address(one, False)  # it has but one
                _join(beside, one, _name(source, self.port, scope))
                one.connect(_name(address, port, scope))
        except BaseException:
            for one in opened:
                one.close()
            raise
        self._connected = one
        return one.fileno()

    def disconnect(self) -> None:
        """Close that socket, if there is one. Take it from the engine first."""
        if self._connected is not None:
            self._connected.close()
            self._connected = None

    def rebind(self, interface: str | None) -> None:
        """Bind the open sockets to an interface, again when it is the same one.

        A link that was made again under its name is another device: sends answer ENODEV until the
        option is set once more. Withdraws everything when it fails.
        """
        self.interface = interface
        try:
            with _explained(interface):
                for one in self._all():
                    _bind_to_device(one, interface)
        except BaseException:
            self.withdraw()
            raise

    def set_port(self, port: int) -> None:
        """Move to another port (new descriptors). On failure the old sockets stay as they were."""
        if self._sockets and port == self.port:
            return
        if not self._sockets:
            self.port = port
            return
        with _explained(self.interface):
            fresh = _open_all(self.workers, port, self.mark, self.interface)
        self.withdraw()
        self._sockets = fresh
        self.port = self._sockets_port()

    def set_mark(self, mark: int) -> None:
        """Change the mark of the open sockets; 0 removes it. Withdraws everything when it fails."""
        self.mark = mark
        try:
            with _explained(self.interface):
                for one in self._all():
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        except BaseException:
            self.withdraw()
            raise

    def _all(self) -> Iterator[socket.socket]:
        for pair in self._sockets:
            yield from (one for one in pair if one is not None)
        if self._connected is not None:
            yield self._connected

    def _sockets_port(self) -> int:
        return int(next(self._all()).getsockname()[1])


Pairs = list[tuple[socket.socket | None, socket.socket | None]]


def _open_all(workers: int, port: int, mark: int, interface: str | None) -> Pairs:
    for attempt in range(PORT_ATTEMPTS):
        try:
            return _open_once(workers, port, mark, interface)
        except OSError as error:
            # A port drawn for IPv4 may be taken in IPv6: draw again. A port asked for is an error.
            if error.errno != errno.EADDRINUSE or port or attempt == PORT_ATTEMPTS - 1:
                raise
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _open_once(workers: int, port: int, mark: int, interface: str | None) -> Pairs:
    opened: list[socket.socket] = []
    by_family: dict[int, list[socket.socket]] = {}
    try:
        for family in _FAMILIES:
            first = _make(family, mark, interface, opened)
            if first is None or not _bind(first, port):
                continue
            port = first.getsockname()[1]
            shared = [first]
            if workers > 1:
                first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            for _ in range(workers - 1):
                other = _make(family, mark, interface, opened)
                if other is None:
                    raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                other.bind(("", port))
                shared.append(other)
            by_family[family] = shared
    except BaseException:
        for one in opened:
            one.close()
        raise
    if not by_family:
        raise MissingFacilityError(
            "neither IPv4 nor IPv6 sockets can be made; check the kernel's network support"
        )
    for one in opened:
        if not any(one in shared for shared in by_family.values()):
            one.close()
    four, six = (by_family.get(family, [None] * workers) for family in _FAMILIES)
    return list(zip(four, six, strict=True))


def _bind(one: socket.socket, port: int) -> bool:
    """Bind to every address; False where IPv6 is switched off on this machine."""
    try:
        one.bind(("", port))
    except OSError as error:
        if one.family == socket.AF_INET6 and error.errno in _IPV6_MISSING:
            return False
        raise
    return True


def _make(
    family: int, mark: int, interface: str | None, opened: list[socket.socket]
) -> socket.socket | None:
    """Make one socket, with all set that must be there before bind(); None: no such family."""
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        one = socket.socket(family, kind)
    except OSError as error:
        if family == socket.AF_INET6 and error.errno in _IPV6_MISSING:
            return None
        raise
    opened.append(one)
    if interface is not None:
        _bind_to_device(one, interface)
    if mark:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    _ask_for_our_address(one, True)
    # No DF on the outer packets, as in the kernel (contract.md).
    if family == socket.AF_INET:
        one.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)
        one.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
    else:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        one.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT)
    _enlarge(one, _SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER)
    _enlarge(one, _SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER)
    return one


def _ask_for_our_address(one: socket.socket, wanted: bool) -> None:
    if one.family == socket.AF_INET:
        one.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, wanted)
    else:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, wanted)


def _name(address: Address, port: int, scope: int) -> tuple[str, int] | tuple[str, int, int, int]:
    if address.version == 4:
        return str(address), port
    return str(address), port, 0, scope if address.is_link_local else 0


def _join(beside: socket.socket, one: socket.socket, name: tuple[str | int, ...]) -> None:
    """Bind a socket to the port of another one, which no other program can join before or after."""
    try:
        for each in (beside, one):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(name)
    finally:
        for each in (beside, one):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def _bind_to_device(one: socket.socket, interface: str | None) -> None:
    name = b"" if interface is None else interface.encode()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name)


def _enlarge(one: socket.socket, forced: int, plain: int, size: int) -> None:
    """Set a buffer past the system's limit where that is allowed, else up to it."""
    try:
        one.setsockopt(socket.SOL_SOCKET, forced, size)
    except PermissionError:
        one.setsockopt(socket.SOL_SOCKET, plain, size)


@contextlib.contextmanager
def _explained(interface: str | None) -> Iterator[None]:
    """Turn the kernel's refusals into errors that name the interface; EADDRINUSE passes."""
    try:
        yield
    except PermissionError as error:
        what = "set the mark" if interface is None else f"bind to {interface}"
        raise PrivilegeError(
            f"the outer sockets: may not {what}; run as root or with CAP_NET_ADMIN and CAP_NET_RAW"
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise
        if error.errno == errno.ENODEV:
            raise MissingFacilityError(
                f"the outer sockets: interface {interface} is not there; "
                "nothing is sent until it is back"
            ) from error
        place = "" if interface is None else f" on {interface}"
        raise TunnelError(f"the outer sockets{place}: {error.strerror}") from error
