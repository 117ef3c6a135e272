"""A DNS resolver through the tunnel: A, AAAA, CNAME, TCP where an answer was cut or none came.

Queries leave from a socket of their own each, with a port and an identifier drawn at random, and an
answer must repeat the question (RFC 5452). Answers are kept for their time to live, at most an
hour. dnspython knows the messages.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from tunnel.values import is_host

if TYPE_CHECKING:
    import dns.message
    import dns.name
    import dns.rdatatype

    from tunnel.netstack.aio.net import NetStack

PORT: Final = 53
TRY_SECONDS: Final = 2.0
ROUNDS: Final = 3
_PAYLOAD: Final = 1232
_MOST_KEPT: Final = 1024
_LONGEST_KEPT: Final = 3600
_NEGATIVE_KEPT: Final = 30
_CNAMES: Final = 8

Address = IPv4Address | IPv6Address


class Resolver:
    """Asks the servers of a stack, in their order."""

    def __init__(self, net: NetStack) -> None:
        self._net = net
        self._kept: dict[tuple[str, int], tuple[float, tuple[bytes, ...]]] = {}
        self._asked: dict[tuple[str, int], asyncio.Task[tuple[bytes, ...]]] = {}

    async def ask(self, host: str, family: int) -> tuple[bytes, ...]:
        """Return the addresses of a name in one family; () where it has none.

        Raises socket.gaierror: EAI_NONAME for a name that is not there, EAI_AGAIN when no server
        answered. Many who ask the same at once share one query.
        """
        key = (host.rstrip(".").lower(), family)
        kept = self._kept.get(key)
        if kept is not None and kept[0] > self._net.loop.time():
            return kept[1]
        task = self._asked.get(key)
        if task is None:
            task = self._net.loop.create_task(self._find(*key))
            self._asked[key] = task
            task.add_done_callback(lambda _: self._asked.pop(key, None))
            task.add_done_callback(_look_at)
        return await asyncio.shield(task)

    def close(self) -> None:
        """Give up all questions."""
        for task in list(self._asked.values()):
            task.cancel()

    async def _find(self, host: str, family: int) -> tuple[bytes, ...]:
        import dns.exception
        import dns.name
        import dns.rdatatype

        try:
            name = dns.name.from_text(host, idna_codec=dns.name.IDNA_2003)
        except (dns.exception.DNSException, UnicodeError) as error:
            raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is no host name") from error
        if not is_host(name.to_text(omit_final_dot=True)):
            raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is no host name")
        kind = dns.rdatatype.AAAA if family == socket.AF_INET6 else dns.rdatatype.A
        seconds: float = _LONGEST_KEPT
        found: tuple[bytes, ...] = ()
        for _ in range(_CNAMES):
            answer = await self._query(name, kind)
            _check(answer, host)
            found, name_now, lifetime = _read(answer, name, kind)
            seconds = min(seconds, lifetime)
            if found or name_now == name:
                break
            name = name_now
        if len(self._kept) >= _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        if seconds > 0:
            until = self._net.loop.time() + (seconds if found else min(seconds, _NEGATIVE_KEPT))
            self._kept[host, family] = until, found
        return found

    async def _query(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> dns.message.Message:
        """Ask one server after the other, in rounds, until one answers usefully."""
        import dns.exception
        import dns.message
        import dns.rcode

        if not self._net.dns:
            raise socket.gaierror(
                socket.EAI_AGAIN, f"cannot look up {name}: the tunnel has no DNS server; set DNS"
            )
        trouble = "no answer"
        for left in reversed(range(ROUNDS)):
            ask = self._ask_server if left else self._over_tcp
            for server in self._net.dns:
                question = dns.message.make_query(name, kind, use_edns=0, payload=_PAYLOAD)
                try:
                    async with asyncio.timeout(TRY_SECONDS):
                        answer = await ask(server, question)
                except (TimeoutError, OSError, dns.exception.DNSException, EOFError) as error:
                    trouble = getattr(error, "strerror", None) or str(error) or trouble
                    continue
                if answer.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                    return answer
                trouble = dns.rcode.to_text(answer.rcode())
        servers = ", ".join(map(str, self._net.dns))
        host = name.to_text(omit_final_dot=True)
        raise socket.gaierror(socket.EAI_AGAIN, f"cannot look up {host} at {servers}: {trouble}")

    async def _ask_server(
        self, server: Address, question: dns.message.Message
    ) -> dns.message.Message:
        import dns.flags

        answer = await self._over_udp(server, question)
        if answer.flags & dns.flags.TC:
            return await self._over_tcp(server, question)
        return answer

    async def _over_udp(
        self, server: Address, question: dns.message.Message
    ) -> dns.message.Message:
        answer: asyncio.Future[dns.message.Message] = self._net.loop.create_future()
        transport, _ = await self._net.create_datagram_endpoint(
            lambda: _Listening(question, answer), remote_addr=(str(server), PORT)
        )
        try:
            transport.sendto(question.to_wire())
            return await answer
        finally:
            transport.close()

    async def _over_tcp(
        self, server: Address, question: dns.message.Message
    ) -> dns.message.Message:
        """RFC 7766: two bytes of length before each message."""
        import dns.message
        import dns.query

        reader, writer = await self._net.open_connection(str(server), PORT)
        try:
            wire = question.to_wire()
            writer.write(len(wire).to_bytes(2, "big") + wire)
            size = int.from_bytes(await reader.readexactly(2), "big")
            answer = dns.message.from_wire(await reader.readexactly(size))
        finally:
            writer.transport.abort()
        if not question.is_response(answer):
            raise dns.query.BadResponse
        return answer


class _Listening(asyncio.DatagramProtocol):
    """Waits for the answer to one question; what does not answer it is ignored."""

    def __init__(
        self, question: dns.message.Message, answer: asyncio.Future[dns.message.Message]
    ) -> None:
        self._question = question
        self._answer = answer

    def datagram_received(self, data: bytes, addr: tuple[object, ...]) -> None:
        import dns.exception
        import dns.message

        try:
            found = dns.message.from_wire(data, ignore_trailing=True, raise_on_truncation=False)
        except (dns.exception.DNSException, ValueError):
            return
        if not self._answer.done() and self._question.is_response(found):
            self._answer.set_result(found)

    def error_received(self, exc: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc)


def _look_at(task: asyncio.Task[tuple[bytes, ...]]) -> None:
    """See the error of a question that nobody waits for any more."""
    if not task.cancelled():
        task.exception()


def _check(answer: dns.message.Message, host: str) -> None:
    import dns.rcode

    if answer.rcode() == dns.rcode.NXDOMAIN:
        raise socket.gaierror(socket.EAI_NONAME, f"{host}: there is no such name")


def _read(
    answer: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType
) -> tuple[tuple[bytes, ...], dns.name.Name, float]:
    """Return addresses, where the chain of CNAMEs ends, and the shortest time to live."""
    import dns.rdataclass
    import dns.rdatatype

    seconds: float = _LONGEST_KEPT
    for _ in range(_CNAMES):
        found = answer.get_rrset(answer.answer, name, dns.rdataclass.IN, kind)
        if found is not None:
            packed: Sequence[bytes] = [_packed(str(record.address)) for record in found]
            return tuple(packed), name, min(seconds, found.ttl)
        alias = answer.get_rrset(answer.answer, name, dns.rdataclass.IN, dns.rdatatype.CNAME)
        if alias is None:
            break
        seconds = min(seconds, alias.ttl)
        name = alias[0].target
    return (), name, seconds


def _packed(text: str) -> bytes:
    return IPv6Address(text).packed if ":" in text else IPv4Address(text).packed
