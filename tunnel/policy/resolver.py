"""Endpoint names, resolved over the permitted interface only.

The machine's resolver asks over whatever interface it likes, so a bound tunnel asks by itself:
dnspython makes and reads the messages, the sockets are ours, bound to the interface and marked like
the outer ones, and the servers are those that this interface was given. Nothing ever falls back to
another interface: without an answer there is an error that names host, interface and servers.

An answer counts only when it comes from the server asked (the sockets are connected), with the
identifier and the question that were sent (RFC 5452). A truncated one is asked again over TCP.
Without a binding there is nothing to protect, and the machine's resolver answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype

from tunnel.errors import TunnelError
from tunnel.policy.interface import Interface
from tunnel.settings import Address

PORT = 53
ANSWER_TIMEOUT = 2.0
"""Seconds that one server gets for one question, doubled in the second round."""
ROUNDS = 2
CNAMES = 8
"""How many further questions an alias may cost when the server does not follow it itself."""
UDP_PAYLOAD = 1232
"""What we say we can take (EDNS): the largest that passes every path unfragmented."""
HOSTS = Path("/etc/hosts")
_TYPES = {4: dns.rdatatype.A, 6: dns.rdatatype.AAAA}


class _NoAnswer(Exception):
    """One server's failure, in words; the next one is asked."""


@dataclass(frozen=True, slots=True)
class _Route:
    """How queries leave: the interface and the mark."""

    interface: str
    mark: int


async def resolve(
    host: str,
    interface: Interface | None,
    dns_servers: Sequence[Address] = (),
    *,
    mark: int = 0,
    hosts: Path = HOSTS,
) -> list[Address]:
    """Return the addresses of a name, the preferred first.

    `interface` None means unbound. With one, only its servers (`dns_servers`, or else
    `interface.dns`) are asked, only over it, and only addresses of IP versions that it routes are
    returned. A literal address is returned as it is. Raises TunnelError.
    """
    with contextlib.suppress(ValueError):
        return [ip_address(host)]
    if interface is None:
        return await _machine_resolver(host)
    found = _from_hosts(host, hosts)
    if not found:
        servers = list(dns_servers or interface.dns)
        if not servers:
            raise TunnelError(
                f"cannot resolve {host}: no DNS server is known for {interface.name}; "
                f"set dns = [...] in [interfaces.{interface.name}]"
            )
        found = await _ask_all(host, interface, servers, mark)
    usable = [address for address in found if address.version in interface.routed]
    if not usable:
        versions = " and ".join(f"IPv{v}" for v in sorted({a.version for a in found}))
        raise TunnelError(
            f"cannot reach {host} over {interface.name}: it has only {versions} addresses, "
            f"which {interface.name} does not route"
        )
    return sorted(usable, key=lambda address: address.version != _preferred_version(interface))


def _preferred_version(interface: Interface) -> int:
    """Return 6 where the interface has a global IPv6 source (RFC 6724 in short), else 4."""
    return 6 if any(a.version == 6 and a.ip.is_global for a in interface.addresses) else 4


async def _machine_resolver(host: str) -> list[Address]:
    """Ask the machine's, in a thread that nobody waits for when it is too late.

    It may take half a minute and cannot be stopped; the event loop's own threads are waited for.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Address]] = loop.create_future()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
        except OSError as error:
            post(answer.set_exception, error)
        else:
            post(answer.set_result, list(dict.fromkeys(ip_address(end[0]) for *_, end in found)))

    def post(tell: Callable[[Any], None], what: Any) -> None:
        def deliver() -> None:
            if not answer.done():
                tell(what)

        with contextlib.suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(deliver)

    threading.Thread(target=ask, daemon=True, name=f"resolve {host}").start()
    try:
        return await answer
    except OSError as error:
        raise TunnelError(f"cannot resolve {host}: {error.strerror}") from error


def _from_hosts(host: str, hosts: Path) -> list[Address]:
    wanted = host.rstrip(".").lower()
    found: list[Address] = []
    with contextlib.suppress(OSError):
        for line in hosts.read_text(encoding="utf-8", errors="replace").splitlines():
            words = line.split("#")[0].split()
            if wanted in (word.lower() for word in words[1:]):
                with contextlib.suppress(ValueError):
                    found.append(ip_address(words[0]))
    return list(dict.fromkeys(found))


async def _ask_all(
    host: str, interface: Interface, servers: Sequence[Address], mark: int
) -> list[Address]:
    """Ask for A and AAAA at the same time; one of the two may fail."""
    where = f"over {interface.name}, asking {', '.join(str(server) for server in servers)}"
    try:
        name = dns.name.from_unicode(host)
    except dns.exception.DNSException as error:
        raise TunnelError(f"cannot resolve {host!r}: {error}") from None
    route = _Route(interface.name, mark)
    answers = await asyncio.gather(
        *(_ask_servers(name, version, servers, route) for version in sorted(interface.routed)),
        return_exceptions=True,
    )
    found: list[Address] = []
    failures: list[str] = []
    for answer in answers:
        if isinstance(answer, _NoAnswer):
            failures.append(str(answer))
        elif isinstance(answer, BaseException):
            raise answer
        else:
            found += answer
    if not found:
        why = "; ".join(dict.fromkeys(failures)) or "it has no address"
        raise TunnelError(f"cannot resolve {host} {where}: {why}")
    return found


async def _ask_servers(
    name: dns.name.Name, version: int, servers: Sequence[Address], route: _Route
) -> list[Address]:
    failures: dict[str, None] = {}
    for round_ in range(ROUNDS):
        for server in servers:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT * (1 + round_)):
                    return await _follow(name, version, server, route)
            except TimeoutError:
                failures[f"{server} did not answer"] = None
            except _NoAnswer as failure:
                failures[f"{server} {failure}"] = None
            except OSError as error:
                # An interface that is gone or down will not come back within our rounds.
                words = f"{route.interface}: {error.strerror}"
                if error.errno in (errno.ENODEV, errno.EPERM):
                    raise _NoAnswer(words) from error
                failures[f"{server}: {error.strerror}"] = None
    raise _NoAnswer(", ".join(failures))


async def _follow(
    name: dns.name.Name, version: int, server: Address, route: _Route
) -> list[Address]:
    """Ask one server, again for the target where it answers with an alias only."""
    for _ in range(CNAMES):
        answer = await _ask(name, version, server, route)
        if answer.rcode() == dns.rcode.NXDOMAIN:
            return []
        if answer.rcode() != dns.rcode.NOERROR:
            raise _NoAnswer(f"answered {dns.rcode.to_text(answer.rcode())}")
        try:
            chain = answer.resolve_chaining()
        except dns.exception.DNSException as error:
            raise _NoAnswer(f"answered nonsense ({error})") from error
        if chain.answer is not None:
            return [ip_address(record.address) for record in chain.answer]
        if chain.canonical_name == name:
            return []
        name = chain.canonical_name
    raise _NoAnswer("answered a chain of aliases without end")


async def _ask(
    name: dns.name.Name, version: int, server: Address, route: _Route
) -> dns.message.QueryMessage:
    query = dns.message.make_query(name, _TYPES[version], use_edns=0, payload=UDP_PAYLOAD)
    wire = query.to_wire()
    with _bound_socket(socket.SOCK_DGRAM, server, route) as one:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(one, _sockaddr(server))
        await loop.sock_sendall(one, wire)
        while True:
            answer = _checked(await loop.sock_recv(one, 65535), query)
            if answer is not None:
                break
    if answer.flags & dns.flags.TC:
        return await _ask_over_tcp(query, wire, server, route)
    return answer


async def _ask_over_tcp(
    query: dns.message.Message, wire: bytes, server: Address, route: _Route
) -> dns.message.QueryMessage:
    loop = asyncio.get_running_loop()
    with _bound_socket(socket.SOCK_STREAM, server, route) as one:
        await loop.sock_connect(one, _sockaddr(server))
        await loop.sock_sendall(one, struct.pack("!H", len(wire)) + wire)
        (length,) = struct.unpack("!H", await _exactly(one, 2))
        answer = _checked(await _exactly(one, length), query)
    if answer is None:
        raise _NoAnswer("answered another question over TCP")
    return answer


async def _exactly(one: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < count:
        more = await loop.sock_recv(one, count - len(data))
        if not more:
            raise _NoAnswer("closed the TCP connection early")
        data += more
    return data


def _checked(data: bytes, query: dns.message.Message) -> dns.message.QueryMessage | None:
    """Return the message when it answers the query: id, direction and question; None if not."""
    try:
        message = dns.message.from_wire(data, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError):
        return None
    if isinstance(message, dns.message.QueryMessage) and query.is_response(message):
        return message
    return None


def _bound_socket(kind: int, server: Address, route: _Route) -> socket.socket:
    """Make a socket that can send over the interface only. Raises OSError."""
    family = socket.AF_INET if server.version == 4 else socket.AF_INET6
    one = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, route.interface.encode())
        if route.mark:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, route.mark)
    except BaseException:
        one.close()
        raise
    return one


def _sockaddr(server: Address) -> tuple[str, int] | tuple[str, int, int, int]:
    if isinstance(server, IPv6Address):
        scope = server.scope_id
        index = socket.if_nametoindex(scope) if scope and not scope.isdigit() else int(scope or 0)
        return str(server).split("%")[0], PORT, 0, index
    return str(server), PORT
