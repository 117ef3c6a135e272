"""Names: the resolver against a DNS server in the other stack, and the race of RFC 8305."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from tests.loops import Runner, until
from tests.netstack.pairs import BOB, two_stacks
from tunnel.netstack.aio import NetStack, resolver
from tunnel.netstack.aio.dial import Addresses, Race

DNS = {"dns": [BOB[0]]}
ZONE = {
    ("both.test.", "A"): [BOB[0]],
    ("both.test.", "AAAA"): [BOB[1]],
    ("four.test.", "A"): [BOB[0]],
    ("dead.test.", "A"): ["10.7.0.99"],
    ("dead.test.", "AAAA"): ["fd07::dead"],
    ("dead6.test.", "A"): [BOB[0]],
    ("dead6.test.", "AAAA"): ["fd07::dead"],
    ("alias.test.", "CNAME"): ["four.test."],
    ("deep.test.", "CNAME"): ["alias.test."],
    ("loop.test.", "CNAME"): ["loop.test."],
    ("many.test.", "A"): [f"10.9.{i}.1" for i in range(200)],
}


class Server(asyncio.DatagramProtocol):
    """A DNS server over UDP and TCP; `follow` puts the target of a CNAME into the answer."""

    def __init__(self, net: NetStack, *, follow: bool = True) -> None:
        self.net = net
        self.follow = follow
        self.asked: list[tuple[str, str]] = []
        self.over_tcp = 0
        self.mute = ""  # a kind that it never answers for
        self.mangle: Callable[[bytes], bytes] | None = None

    async def start(self) -> None:
        await self.net.create_datagram_endpoint(lambda: self, (BOB[0], 53))
        await self.net.start_server(self.serve, BOB[0], 53)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def answer(self, wire: bytes) -> dns.message.Message:
        query = dns.message.from_wire(wire)
        answer = dns.message.make_response(query)
        name = query.question[0].name.to_text()
        kind = query.question[0].rdtype.name
        self.asked.append((name, kind))
        known = False
        while True:
            alias = ZONE.get((name, "CNAME"))
            known = known or any(owner == name for owner, _ in ZONE)
            if (name, kind) in ZONE:
                answer.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *ZONE[name, kind]))
            if alias is None:
                break
            answer.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", *alias))
            if not self.follow or alias[0] == name:
                break
            name = alias[0]
        if not known:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        answer = self.answer(data)
        if answer.question[0].rdtype.name == self.mute:
            return
        wire = answer.to_wire(max_size=65535)
        if len(wire) > 1232:
            answer.flags |= dns.flags.TC
            del answer.answer[:]
            wire = answer.to_wire()
        if self.mangle is not None:
            self.transport.sendto(self.mangle(wire), addr)
        self.transport.sendto(wire, addr)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.over_tcp += 1
        size = int.from_bytes(await reader.readexactly(2), "big")
        wire = self.answer(await reader.readexactly(size)).to_wire(max_size=65535)
        writer.write(len(wire).to_bytes(2, "big") + wire)
        writer.close()


@pytest.mark.parametrize("follow", [True, False], ids=["whole chain", "one step"])
def test_names_are_resolved(run: Runner, follow: bool) -> None:
    async def work() -> None:
        async with two_stacks(**DNS) as (alice, bob):
            server = Server(bob, follow=follow)
            await server.start()
            for host, expected in (
                ("both.test", [BOB[1], BOB[0]]),
                ("four.test", [BOB[0]]),
                ("alias.test.", [BOB[0]]),
                ("DEEP.test", [BOB[0]]),
                ("10.1.2.3", ["10.1.2.3"]),
                ("fd00::9", ["fd00::9"]),
            ):
                assert [str(a) for a in await alice.resolve(host)] == expected
            before = len(server.asked)
            await alice.resolve("both.test")  # kept
            assert len(server.asked) == before
            info = await alice.getaddrinfo("four.test", 80, family=socket.AF_INET)
            assert info == [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (BOB[0], 80))]

    run(work())


@pytest.mark.parametrize("host", ["none.test", "loop.test", "", "a..b", "x" * 300, "white space"])
def test_names_without_addresses_are_errors(run: Runner, host: str) -> None:
    async def work() -> None:
        async with two_stacks(**DNS) as (alice, bob):
            await Server(bob).start()
            with pytest.raises(socket.gaierror):
                await alice.resolve(host)

    run(work())


@pytest.mark.parametrize("host", ["white space", "[::1]", "127.1", "..", "a/b", "-", "é" * 64])
def test_what_is_no_host_name_is_not_asked_for(run: Runner, host: str) -> None:
    async def work() -> None:
        async with two_stacks(**DNS) as (alice, bob):
            server = Server(bob)
            await server.start()
            with pytest.raises(socket.gaierror, match="is no host name"):
                await alice.resolve(host)
            assert not server.asked

    run(work())


def test_a_long_answer_comes_over_tcp(run: Runner) -> None:
    async def work() -> None:
        async with two_stacks(**DNS) as (alice, bob):
            server = Server(bob)
            await server.start()
            assert len(await alice.resolve("many.test")) == 200
            assert server.over_tcp == 1

    run(work())


@pytest.mark.parametrize(
    "mangle",
    [
        lambda wire: bytes((wire[0] ^ 1,)) + wire[1:],  # another identifier
        lambda wire: wire.replace(b"four", b"five"),  # another question
        lambda wire: wire[:20],
        lambda wire: b"",
    ],
    ids=["identifier", "question", "cut", "empty"],
)
def test_a_forged_answer_is_ignored(run: Runner, mangle: Callable[[bytes], bytes]) -> None:
    async def work() -> None:
        async with two_stacks(**DNS) as (alice, bob):
            server = Server(bob)
            server.mangle = mangle
            await server.start()
            assert [str(a) for a in await alice.resolve("four.test")] == [BOB[0]]

    run(work())


def test_a_server_that_is_deaf_to_udp_is_asked_over_tcp(run: Runner) -> None:
    async def work() -> None:
        async with two_stacks(**DNS) as (alice, bob):
            server = Server(bob)
            await bob.start_server(server.serve, BOB[0], 53)
            assert [str(a) for a in await alice.resolve("four.test")] == [BOB[0]]

    run(work())


@pytest.mark.parametrize(("mute", "found"), [("AAAA", BOB[0]), ("A", BOB[1])])
def test_a_family_that_is_never_answered_for_holds_up_nobody(
    run: Runner, mute: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "TRY_SECONDS", 1000.0)

    async def work() -> None:
        async with two_stacks(**DNS) as (alice, bob):
            server = Server(bob)
            server.mute = mute
            await server.start()
            assert [str(a) for a in await alice.resolve("both.test")] == [found]

    run(work())


def test_without_a_server_the_reason_is_said(run: Runner) -> None:
    async def work() -> None:
        async with two_stacks() as (alice, _):
            with pytest.raises(socket.gaierror, match="no DNS server"):
                await alice.open_connection("four.test", 80)

    run(work())


def test_a_dead_server_hands_over_to_the_next(run: Runner) -> None:
    async def work() -> None:
        async with two_stacks(dns=["fd07::2", BOB[0]]) as (alice, bob):
            await Server(bob).start()  # on the IPv4 address only: the other one refuses
            assert [str(a) for a in await alice.resolve("four.test")] == [BOB[0]]

    run(work())


def test_a_dead_address_costs_little(run: Runner) -> None:
    async def work() -> None:
        async with two_stacks(**DNS) as (alice, bob):
            await Server(bob).start()
            await bob.start_server(lambda r, w: w.close(), None, 80)
            for host, winner in (("both.test", BOB[1]), ("dead6.test", BOB[0])):
                _, writer = await alice.open_connection(host, 80)
                assert writer.get_extra_info("peername")[0] == winner
                writer.close()
            assert len(alice.transports) <= 2
            with pytest.raises(ConnectionRefusedError):
                await alice.open_connection("both.test", 81)

    run(work())


@pytest.mark.parametrize("attempts", [1, 2])
def test_who_gives_up_on_dead_addresses_hears_of_nothing_else(run: Runner, attempts: int) -> None:
    async def work() -> None:
        async with two_stacks(**DNS) as (alice, bob):
            await Server(bob).start()
            task = asyncio.create_task(alice.open_connection("dead.test", 80))
            await until(lambda: len(alice.stack.tcp.sockets) == attempts)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: not (alice.stack.tcp.sockets or alice.transports))

    run(work())


def test_the_next_attempt_begins_when_it_is_due_and_no_sooner(run: Runner) -> None:
    async def work() -> None:
        late: asyncio.Future[Sequence[bytes]] = asyncio.get_running_loop().create_future()
        began: list[bytes] = []
        second = asyncio.Event()

        async def known(answer: Sequence[bytes]) -> Sequence[bytes]:
            return answer

        async def unknown() -> Sequence[bytes]:
            return await late

        async def attempt(address: bytes) -> str:
            began.append(address)
            if len(began) == 3:
                return "the third"
            await second.wait()
            raise OSError("refused")

        six, four = [bytes(16), bytes([1] * 16)], bytes(4)
        tasks = [asyncio.create_task(known(six)), asyncio.create_task(unknown())]
        race = Race(Addresses(tasks), attempt, lambda one: None, delay=60.0)
        running = asyncio.create_task(race.run())
        await until(lambda: len(began) == 1)
        late.set_result([four])  # the other family's answer begins no attempt
        await until(lambda: tasks[1].done())
        for _ in range(9):
            await asyncio.sleep(0)
        assert began == six[:1]
        second.set()  # a failure does
        assert await running == "the third"
        assert began == [six[0], four, six[1]]

    run(work())


def test_cancelling_a_lookup_leaves_nothing(run: Runner) -> None:
    async def work() -> None:
        async with two_stacks(dns=["10.7.0.99"]) as (alice, _):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(alice.open_connection("both.test", 80), 0.05)
            assert not alice.stack.tcp.sockets
            alice.resolver.close()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not alice.transports

    run(work())
