"""Connecting to a host: its addresses, the race between them, TLS on top."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl as tls
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tunnel.netstack.aio.dial import ATTEMPT_DELAY, Addresses, Race
from tunnel.netstack.aio.names import failure, literal
from tunnel.netstack.aio.tls import TlsProtocol
from tunnel.netstack.aio.transport import TcpTransport
from tunnel.netstack.tcpsocket import Place

if TYPE_CHECKING:
    from tunnel.netstack.aio.net import NetStack

P = TypeVar("P", bound=asyncio.BaseProtocol)
FAMILIES: Final = {4: socket.AF_INET, 16: socket.AF_INET6}
Secure = bool | tls.SSLContext | None


def context_for(ssl: Secure) -> tls.SSLContext | None:
    """Return the context that an `ssl` argument means; True is the default one."""
    if ssl is None or ssl is False:
        return None
    return tls.create_default_context() if ssl is True else ssl


def own_address(what: str, host: str | None) -> bytes | None:
    """Return the address of ours that an argument names, None for all of them."""
    if not host:
        return None
    address = literal(host)
    if address is None:
        raise ValueError(f"{what}: {host!r} is not an address; give one of the tunnel's own")
    return address if any(address) else None


def addresses_of(net: NetStack, host: str, family: int = 0) -> Addresses:
    """Begin to ask for the addresses of a name, in the families that the stack has."""
    ours = {len(address) for address in net.stack.addresses}
    sizes = [size for size in (16, 4) if size in ours and family in (0, FAMILIES[size])]
    if not sizes:
        raise failure(errno.ENETUNREACH)
    return Addresses(
        [net.loop.create_task(net.resolver.ask(host, FAMILIES[size])) for size in sizes]
    )


async def resolve(net: NetStack, host: str, family: int = 0) -> list[bytes]:
    """Return the addresses of a host, IPv6 first and families in turn. Raises socket.gaierror."""
    address = literal(host)
    if address is not None:
        return [address]
    addresses = addresses_of(net, host, family)
    try:
        await addresses.settle()
    finally:
        addresses.close()
    found: list[bytes] = []
    while (one := addresses.next()) is not None:
        found.append(one)
    if not found:
        raise no_addresses(host, addresses.errors)
    return found


def no_addresses(host: str, errors: list[BaseException]) -> BaseException:
    """Return the reason why a name has no address."""
    for error in errors:
        return error
    return socket.gaierror(socket.EAI_NONAME, f"{host}: the name has no address")


async def connect(
    net: NetStack,
    protocol_factory: Callable[[], P],
    host: str,
    port: int,
    *,
    ssl: Secure = None,
    server_hostname: str | None = None,
    ssl_handshake_timeout: float | None = None,
    local_addr: tuple[Any, ...] | None = None,
    family: int = 0,
    happy_eyeballs_delay: float | None = ATTEMPT_DELAY,
) -> tuple[asyncio.Transport, P]:
    """Connect as loop.create_connection does; see `NetStack.create_connection`."""
    if not 0 < port < 65536:
        raise ValueError(f"port {port} is out of range")
    context = context_for(ssl)
    if server_hostname is not None and context is None:
        raise ValueError("server_hostname is for connections with ssl")
    local = None
    if local_addr is not None:
        local = Place(own_address("local_addr", local_addr[0]) or b"", local_addr[1])
    address = literal(host)
    if address is not None:
        opened = await net.connect(Place(address, port), local)
    else:
        opened = await _race(net, host, port, local, family, happy_eyeballs_delay)
    protocol = protocol_factory()
    if context is None:
        opened.begin(protocol)
        return opened, protocol
    name = host if server_hostname is None else server_hostname
    return await secure(
        net, opened, protocol, context, server_hostname=name or None,
        handshake_timeout=ssl_handshake_timeout,
    ), protocol  # fmt: skip


async def _race(
    net: NetStack, host: str, port: int, local: Place | None, family: int, delay: float | None
) -> TcpTransport:
    if local is not None and local.address:
        family = FAMILIES[len(local.address)]
    addresses = addresses_of(net, host, family)

    async def attempt(address: bytes) -> TcpTransport:
        return await net.connect(Place(address, port), local)

    # Without a delay the next address has its turn when the last one has failed.
    race = Race(addresses, attempt, TcpTransport.abort, 1e9 if delay is None else delay)
    opened = await race.run()
    if opened is not None:
        return opened
    if not race.errors:
        raise no_addresses(host, addresses.errors)
    if len(race.errors) == 1:
        raise race.errors[0]
    words = "; ".join(getattr(error, "strerror", None) or str(error) for error in race.errors)
    code = next((e.errno for e in race.errors if isinstance(e, OSError)), None)
    raise OSError(code or errno.EHOSTUNREACH, f"cannot connect to {host}: {words}")


async def secure(
    net: NetStack,
    below: Any,
    protocol: asyncio.BaseProtocol,
    context: tls.SSLContext,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
    handshake_timeout: float | None = None,
    tell_made: bool = True,
) -> asyncio.Transport:
    """Put TLS on a transport and wait for its handshake. Raises ssl.SSLError, OSError."""
    waiter: asyncio.Future[None] = net.loop.create_future()
    wrapped = TlsProtocol(
        net.loop,
        protocol,
        context,
        server_side=server_side,
        server_hostname=server_hostname,
        handshake_timeout=handshake_timeout,
        waiter=waiter,
        tell_made=tell_made,
    )
    if isinstance(below, TcpTransport) and below.get_protocol() is None:
        below.begin(wrapped)
    else:
        below.set_protocol(wrapped)
        wrapped.connection_made(below)
        below.resume_reading()
    try:
        await waiter
    except BaseException:
        wrapped.abort()
        raise
    return wrapped.transport


def info(
    address: bytes, port: int, kind: int
) -> tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]:
    """Return one answer of getaddrinfo."""
    family = FAMILIES[len(address)]
    chosen = socket.SocketKind(kind or socket.SOCK_STREAM)
    protocol = socket.IPPROTO_UDP if chosen is socket.SOCK_DGRAM else socket.IPPROTO_TCP
    host = str(ip_address(address))
    place = (host, port) if len(address) == 4 else (host, port, 0, 0)
    return family, chosen, protocol, "", place
