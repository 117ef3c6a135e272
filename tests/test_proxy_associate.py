"""UDP ASSOCIATE: who may use an association, and where its names and families lead."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address
from typing import Any

import pytest

from tests.loops import Runner, until
from tests.proxy_world import HOST, Network
from tests.test_proxy_socks5 import Datagrams, datagrams
from tunnel.errors import TunnelError
from tunnel.proxy import associate
from tunnel.proxy.associate import Association
from tunnel.settings import Address


class Names(Network):
    """A network whose names lead where the test says."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = [[ip_address(one) for one in answer] for answer in answers]
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def lookup(self, host: str, family: int = socket.AF_UNSPEC) -> list[Address]:
        self.asked += 1
        await self.gate.wait()
        if not self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return self.answers.pop(0)


def to(host: str | bytes, port: int, payload: bytes, fragment: int = 0) -> bytes:
    if isinstance(host, bytes):
        where = b"\x03" + bytes([len(host)]) + host
    else:
        packed = ip_address(host).packed
        where = (b"\x01" if len(packed) == 4 else b"\x04") + packed
    return bytes([0, 0, fragment]) + where + struct.pack("!H", port) + payload


@contextlib.asynccontextmanager
async def association(network: Network) -> AsyncIterator[tuple[Association, Any, Datagrams, int]]:
    """Yield it, how to send to it, and an echo with its port."""
    far, port = await datagrams(back=True)
    near, _ = await datagrams()
    made = Association(network, HOST)
    place = await made.open(HOST)
    try:
        yield made, lambda data: near.transport.sendto(data, place), far, port
    finally:
        await made.aclose()
        near.transport.close()
        far.transport.close()


async def came(far: Datagrams) -> bytes:
    data: bytes = (await far.received.get())[0]
    return data


def test_only_the_client_and_only_its_first_socket(run: Runner) -> None:
    async def work() -> None:
        async with association(Names()) as (made, send, far, port):
            place = made._near.get_extra_info("sockname")  # type: ignore[union-attr]
            send(to(HOST, port, b"mine"))
            assert await came(far) == b"mine"
            stranger, _ = await datagrams()
            stranger.transport.sendto(to(HOST, port, b"not mine"), place)
            await until(lambda: made.dropped == 1)
            stranger.transport.close()
            made._client = "127.0.0.9"
            send(to(HOST, port, b"from elsewhere"))
            await until(lambda: made.dropped == 2)
            assert far.received.empty()

    run(work())


def test_fragments_are_counted_and_dropped_like_what_is_malformed(run: Runner) -> None:
    async def work() -> None:
        async with association(Names()) as (made, send, far, port):
            send(to(HOST, port, b"piece", fragment=1))
            send(to(HOST, port, b"last piece", fragment=0x82))
            for bad in (b"\0\0\0\x01", b"\0\0\0\x09rest", to(HOST, 0, b"x"), to(b"", 1, b"")):
                send(bad)
            send(to(b"\xff", port, b""))
            send(to(HOST, port, b"whole"))
            assert await came(far) == b"whole"
            assert (made.fragments, made.dropped) == (2, 5)

    run(work())


def test_its_end_leaves_nothing(run: Runner) -> None:
    async def work() -> None:
        network = Names()
        network.gate.clear()
        made = Association(network, HOST)
        opened: asyncio.Future[tuple[str, int]] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(
            made.carry(HOST, lambda host, port: opened.set_result((host, port)))
        )
        near, _ = await datagrams()
        near.transport.sendto(to(b"a.test", 9, b"waits"), await opened)
        await until(lambda: network.asked == 1)
        question = made._names["a.test"].task
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert question is not None
        assert question.cancelled()
        transports = [made._near, *(far.transport for far in made._far.values())]
        assert [one.is_closing() for one in transports if one is not None] == [True] * 3
        near.transport.close()

    run(work())


def test_a_burst_of_the_client_finds_room(run: Runner) -> None:
    async def work() -> None:
        async with association(Names()) as (made, _, far, _):
            kernel, usual = (
                one.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
                for one in (made._near, far.transport)
            )
            assert kernel > usual

    run(work())


def test_a_name_is_asked_for_again_and_keeps_an_address_that_is_still_there(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        network = Names([HOST], ["127.0.0.2", HOST], ["127.0.0.2"])
        async with association(network) as (made, send, far, port):
            send(to(b"a.test", port, b"1"))
            send(to(b"a.test", port, b"2"))
            assert (await came(far), await came(far), network.asked) == (b"1", b"2", 1)
            monkeypatch.setattr(associate, "_FRESH_SECONDS", 0.0)
            for asked in (2, 3):
                send(to(b"a.test", port, b"old"))
                assert await came(far) == b"old"
                await until(lambda n=asked: network.asked == n)  # type: ignore[misc]
            await until(lambda: made._names["a.test"].addresses == [ip_address("127.0.0.2")])

    run(work())


def test_a_name_that_is_gone_is_forgotten_and_asked_for_anew(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(associate, "_FRESH_SECONDS", 0.0)

    async def work() -> None:
        network = Names([HOST])
        async with association(network) as (made, send, far, port):
            send(to(b"a.test", port, b"1"))
            assert await came(far) == b"1"
            send(to(b"a.test", port, b"2"))  # by the old address, while it is asked for again
            assert await came(far) == b"2"
            await until(lambda: not made._names)
            network.gate.clear()
            for _ in range(40):
                send(to(b"a.test", port, b"3"))
            await until(lambda: made.dropped == 8)  # no more than 32 wait
            network.answers = [[ip_address(HOST)]]
            network.gate.set()
            assert [await came(far) for _ in range(32)] == [b"3"] * 32

    run(work())


def test_so_many_names_are_known_at_most(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(associate, "_NAMES_MOST", 3)

    async def work() -> None:
        async with association(Names(*[[HOST]] * 9)) as (made, send, far, port):
            for number in range(9):
                send(to(b"%d.test" % number, port, b"%d" % number))
                assert await came(far) == b"%d" % number
            assert list(made._names) == ["6.test", "7.test", "8.test"]

    run(work())


class OneFamily(Names):
    """Has no IPv6, and says so at the socket or, with `late`, at the datagram."""

    def __init__(self, *answers: Sequence[str], late: bool) -> None:
        super().__init__(*answers)
        self.late = late

    async def create_datagram_endpoint(
        self, factory: Any, local: Any = None, far: Any = None
    ) -> Any:
        if local[0] == "::" and not self.late:
            raise TunnelError("there is no IPv6 in this tunnel")
        made = await super().create_datagram_endpoint(factory, local, far)
        if local[0] == "::":
            made[0].close()
            made[1].transport = Refusing(made[1])
        return made


class Refusing:
    """A transport of a stack without a route."""

    def __init__(self, protocol: asyncio.DatagramProtocol) -> None:
        self.protocol = protocol

    def sendto(self, data: bytes, place: Any) -> None:
        self.protocol.error_received(OSError(101, "Network is unreachable"))

    def close(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize("late", [True, False])
def test_the_next_family_where_the_first_has_no_route(run: Runner, late: bool) -> None:
    async def work() -> None:
        async with association(OneFamily(["::1", HOST], late=late)) as (made, send, far, port):
            send(to(b"both.test", port, b"by IPv4"))
            assert await came(far) == b"by IPv4"
            send(to("::1", port, b"nowhere"))
            await until(lambda: made.dropped == 1)

    run(work())
