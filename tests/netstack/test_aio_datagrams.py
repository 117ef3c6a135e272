"""UDP endpoints and echo requests between two stacks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.loops import Runner, until
from tests.netstack.pairs import ALICE, BOB, two_stacks


class Box(asyncio.DatagramProtocol):
    """Keeps what comes; echoes when told to."""

    def __init__(self, *, echo: bool = False) -> None:
        self.came: list[tuple[bytes, tuple[Any, ...]]] = []
        self.errors: list[Exception] = []
        self._echo = echo

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self.came.append((data, addr))
        if self._echo:
            self.transport.sendto(data, addr)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)


@pytest.mark.parametrize(("ours", "host"), list(zip(ALICE, BOB, strict=True)))
@pytest.mark.parametrize("flags", [None, 0], ids=["units", "plain link"])
@pytest.mark.parametrize("size", [0, 1, 1372, 1400, 9000, 65_000])
def test_datagrams_of_any_size_come_back(
    run: Runner, ours: str, host: str, flags: int | None, size: int
) -> None:
    async def work() -> None:
        async with two_stacks(flags=flags) as (alice, bob):
            await bob.create_datagram_endpoint(lambda: Box(echo=True), local_addr=(host, 53))
            _, box = await alice.create_datagram_endpoint(Box, remote_addr=(host, 53))
            data = bytes(i & 255 for i in range(size))
            box.transport.sendto(data)
            await until(lambda: bool(box.came))
            assert box.came[0][0] == data
            assert box.came[0][1][:2] == (host, 53)
            assert box.transport.get_extra_info("sockname")[0] == ours

    run(work())


def test_an_unconnected_endpoint_answers_many(run: Runner) -> None:
    async def work() -> None:
        async with two_stacks() as (alice, bob):
            await bob.create_datagram_endpoint(lambda: Box(echo=True), ("", 7))
            boxes = [
                (await alice.create_datagram_endpoint(Box, remote_addr=(BOB[i % 2], 7)))[1]
                for i in range(10)
            ]
            for i, box in enumerate(boxes):
                box.transport.sendto(b"%d" % i)
            await until(lambda: all(box.came for box in boxes))
            assert [box.came[0][0] for box in boxes] == [b"%d" % i for i in range(10)]

    run(work())


@pytest.mark.parametrize("host", BOB)
def test_a_port_that_nobody_has_is_told(run: Runner, host: str) -> None:
    async def work() -> None:
        async with two_stacks() as (alice, _):
            _, box = await alice.create_datagram_endpoint(Box, remote_addr=(host, 9))
            box.transport.sendto(b"hello")
            await until(lambda: bool(box.errors))
            assert isinstance(box.errors[0], ConnectionRefusedError)

    run(work())


def test_a_datagram_that_is_too_large_is_told(run: Runner) -> None:
    async def work() -> None:
        async with two_stacks() as (alice, _):
            _, box = await alice.create_datagram_endpoint(Box, remote_addr=(BOB[0], 9))
            box.transport.sendto(bytes(65_508))
            assert "too long" in str(box.errors[0])

    run(work())


@pytest.mark.parametrize("host", BOB)
def test_echo_requests_are_answered(run: Runner, host: str) -> None:
    async def work() -> None:
        async with two_stacks() as (alice, _):
            assert 0 < await alice.ping(host, data=b"x" * 1000) < 30
            with pytest.raises(TimeoutError):
                await alice.ping("10.7.0.99" if "." in host else "fd07::99", seconds=0.01)

    run(work())


def test_a_closed_port_can_be_taken_again(run: Runner) -> None:
    async def work() -> None:
        async with two_stacks() as (alice, _):
            first, _ = await alice.create_datagram_endpoint(Box, (ALICE[0], 99))
            with pytest.raises(OSError, match=r"UDP port \d+ of the tunnel: .* in use"):
                await alice.create_datagram_endpoint(Box, (ALICE[0], 99))
            first.close()
            await alice.create_datagram_endpoint(Box, (ALICE[0], 99))
            with pytest.raises(OSError, match="assign"):
                await alice.create_datagram_endpoint(Box, ("10.7.0.77", 99))

    run(work())
