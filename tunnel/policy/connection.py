"""A connection to the kernel's rtnetlink: complete readings, and changes in batches.

Notifications are incomplete (an interface that goes down loses its IPv4 routes without one
RTM_DELROUTE), so nothing here follows them: every reading is a complete dump. What is read: all
links, addresses and rules; of the routes those of the main table, our own in any table, and the
tables that other programs' rules lead to. The `local` table, which on a machine with a thousand
addresses is by far the largest, decides nothing here.

A reading mostly says what the one before it said. So the decoded value of each message is kept
with its bytes until the next reading, and costs a look-up then.

The socket blocks; it belongs to a thread, and to the network namespace it was made in.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tunnel.policy import rtdecode, rtencode
from tunnel.policy.numbers import PROTOCOL, TABLE_MAIN
from tunnel.policy.rtencode import Request
from tunnel.policy.rtnl import FR_ACT_TO_TABLE, Dump, Link, Route, Rule

TABLES_OF_OTHERS = 32
"""Past so many tables of other programs only the first, in order of preference, are read."""

_ATTEMPTS = 5
_RECEIVE_BUFFER = 1 << 21
_READ_SIZE = 1 << 18
_NOTIFICATIONS = 1 << 20
_BATCH = 64
"""Requests a send: the acknowledgements of all have to fit into the receive buffer."""
_TIMEOUT = 10.0  # seconds; the kernel answers before send returns, but a lost answer must not hang

_SOL_NETLINK = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 10, 11, 12
_SO_RCVBUFFORCE = 33
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
_NLM_F_ACK_TLVS = 0x200
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLMSGERR_ATTR_MSG = 1
_HEADER = rtdecode.HEADER
_CODE = struct.Struct("=i")
_LOCAL_TABLES = (0, 253, TABLE_MAIN, 255)

Decoder = Callable[[memoryview], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that the kernel refused. `said` are its own words, where it has some."""

    request: Request
    error: int
    said: str = ""

    def __str__(self) -> str:
        return self.said or os.strerror(self.error)


class Connection:
    """An rtnetlink socket with blocking calls. Raises OSError where there can be none."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._socket.settimeout(_TIMEOUT)
        for option in (_NETLINK_EXT_ACK, _NETLINK_CAP_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        with contextlib.suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        self._socket.bind((0, 0))
        self._sequence = 0
        self._known: dict[bytes, tuple[Any, ...]] = {}
        self._seen: dict[bytes, tuple[Any, ...]] = {}

    def close(self) -> None:
        """Close the socket; safe to call again."""
        self._socket.close()

    def read(self) -> Dump:
        """Read everything. Raises OSError."""
        self._seen = {}
        try:
            return self._read()
        finally:
            self._known = self._seen

    def change(self, requests: Sequence[Request], fine: Sequence[int] = ()) -> list[Refusal]:
        """Carry the requests out in order; return those refused with an error not in `fine`.

        A refused request does not stop the ones after it. Raises OSError when the socket fails.
        """
        refused: list[Refusal] = []
        for start in range(0, len(requests), _BATCH):
            batch = requests[start : start + _BATCH]
            first = self._sequence + 1
            self._send(batch, _NLM_F_REQUEST | _NLM_F_ACK)
            answers = 0
            while answers < len(batch):
                for type_, flags, sequence, payload in self._receive():
                    if type_ != _NLMSG_ERROR or not first <= sequence < first + len(batch):
                        continue
                    answers += 1
                    code = -_CODE.unpack_from(payload)[0]
                    if code and code not in fine:
                        said = _words(payload) if flags & _NLM_F_ACK_TLVS else ""
                        refused.append(Refusal(batch[sequence - first], code, said))
        return refused

    # ---- inside ----

    def _read(self) -> Dump:
        addresses: list[Any] = []
        routes: list[Route] = []
        rules: list[Rule] = []
        for version in (4, 6):
            addresses += self._dump(rtencode.get_addresses(version), rtdecode.addresses_from)
            found: list[Rule] = self._dump(rtencode.get_rules(version), rtdecode.rules_from)
            rules += found
            for table in (TABLE_MAIN, *tables_of_others(found)):
                routes += (
                    route
                    for route in self._dump(
                        rtencode.get_routes(version, table=table), rtdecode.routes_from
                    )
                    if route.protocol != PROTOCOL
                )
            routes += self._dump(
                rtencode.get_routes(version, protocol=PROTOCOL), rtdecode.routes_from
            )
        links = self._dump(rtencode.get_links(), rtdecode.links_from)
        neighbours: list[Any] = []
        for index in sorted({r.index for r in routes if r.is_default and r.protocol != PROTOCOL}):
            neighbours += self._dump(rtencode.get_neighbours(index), rtdecode.neighbours_from)
        gateways = {(route.index, route.gateway) for route in routes if route.gateway is not None}
        return Dump(
            tuple(links),
            tuple(addresses),
            tuple(routes),
            tuple(rules),
            tuple(n for n in neighbours if (n.index, n.address) in gateways),
        )

    def _dump(self, request: Request, decode: Decoder) -> list[Any]:
        """Return all things of one kind, asking again if the kernel changed them meanwhile.

        Where it always does (somebody makes a thousand interfaces), two interrupted answers are
        taken together: each may lack a few things, and a notification of the change that
        interrupted them leads to another reading anyway.
        """
        former: list[Any] = []
        for _ in range(_ATTEMPTS):
            found, interrupted = self._dump_once(request, decode)
            if not interrupted:
                return found
            latest, former = {_identity(one): one for one in former + found}, found
        return list(latest.values())

    def _dump_once(self, request: Request, decode: Decoder) -> tuple[list[Any], bool]:
        """Return what the kernel answers, and whether it changed that meanwhile."""
        self._send([request], _NLM_F_REQUEST | _NLM_F_DUMP)
        found: list[Any] = []
        wanted, family = self._sequence, request.payload[0]
        known, seen = self._known, self._seen
        done = interrupted = False
        while not done:
            for type_, flags, sequence, payload in self._receive():
                if sequence != wanted:
                    continue  # an answer to what an earlier failure left behind
                interrupted |= bool(flags & _NLM_F_DUMP_INTR)
                if type_ == _NLMSG_ERROR:
                    _check_dump(-_CODE.unpack_from(payload)[0], request)
                    return found, interrupted
                if type_ == _NLMSG_DONE:
                    _check_dump(-_CODE.unpack_from(payload)[0] if len(payload) >= 4 else 0, request)
                    done = True
                # A family that this kernel lacks is answered with all the others.
                elif family in (socket.AF_UNSPEC, payload[0]):
                    raw = bytes(payload)
                    values = known.get(raw)
                    if values is None:
                        values = tuple(decode(payload))
                    seen[raw] = values
                    found.extend(values)
        return found, interrupted

    def _send(self, requests: Sequence[Request], flags: int) -> None:
        data = bytearray()
        for request in requests:
            self._sequence += 1
            size = _HEADER.size + len(request.payload)
            data += _HEADER.pack(size, request.type, flags | request.flags, self._sequence, 0)
            data += request.payload + bytes(-size % 4)
        self._socket.send(data)

    def _receive(self) -> Iterator[tuple[int, int, int, memoryview]]:
        return rtdecode.messages(self._socket.recv(_READ_SIZE))


def tables_of_others(rules: Iterable[Rule]) -> list[int]:
    """Return the tables that other programs' rules lead to, in order of preference."""
    found = dict.fromkeys(
        rule.table
        for rule in sorted(rules, key=lambda rule: rule.preference)
        if rule.action == FR_ACT_TO_TABLE
        and rule.protocol != PROTOCOL
        and rule.table not in _LOCAL_TABLES
    )
    return list(found)[:TABLES_OF_OTHERS]


def _identity(one: Any) -> object:
    """Return what two answers about one thing have in common; only links change much."""
    return one.index if isinstance(one, Link) else one


def _check_dump(code: int, request: Request) -> None:
    # A table without a route does not exist (ENOENT); nor does IPv6 where it was switched off.
    if code not in (0, errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
        raise OSError(code, f"rtnetlink dump {request.type}: {os.strerror(code)}")


def _words(payload: memoryview) -> str:
    """Return the kernel's own explanation of an error: it follows the capped request's header."""
    for kind, value in rtdecode.attributes_of(payload[_CODE.size + _HEADER.size :]):
        if kind == _NLMSGERR_ATTR_MSG:
            return bytes(value).rstrip(b"\0").decode(errors="replace")
    return ""


def subscribe(*groups: int) -> socket.socket:
    """Return a non-blocking socket with the notifications of these groups (RTNLGRP_*)."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    watch = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
    try:
        watch.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _NOTIFICATIONS)
        watch.bind((0, sum(1 << (group - 1) for group in groups)))
    except OSError:
        watch.close()
        raise
    return watch
