"""Endpoints that are names: when they are looked up again, and what comes of it."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from providers.wireguard import names
from providers.wireguard.messages import SECOND
from providers.wireguard.names import Names, Renewal, choose
from tunnel import Address, Config, HostPort, TunnelError
from tunnel.config import PeerConfig

A, B, C = (ip_address(f"192.0.2.{n}") for n in (1, 2, 3))
KEY, OTHER = bytes(32), bytes([1] * 32)
NAME = HostPort("vpn.example", 51820)


@pytest.mark.parametrize(
    ("answers", "now", "before", "failing", "chosen"),
    [
        ([], A, A, True, None),
        ([B], None, None, False, B),  # the first address
        ([A], A, A, False, None),
        ([A], A, A, True, None),  # the only one there is
        ([B, A], A, A, False, None),  # the order of answers means nothing while it works
        ([A, B, C], A, A, True, B),  # in turn
        ([A, B, C], C, C, True, A),
        ([B], A, A, False, B),  # the name has another address now
        ([B, C], A, A, True, B),
        ([B], A, B, False, None),  # the peer has roamed, and that works
        ([B], A, B, True, B),
    ],
)
def test_what_an_answer_changes(
    answers: list[Address], now: Address, before: Address, failing: bool, chosen: Address
) -> None:
    assert choose(answers, now, before, failing=failing) == chosen


def test_failing_handshakes_ask_again_with_back_off_until_one_is_answered() -> None:
    renewal = Renewal()
    asked = [
        second for second in range(0, 1200, 5)
        if renewal.due(min(second // 5, 18), False, (1000 + second) * SECOND)
    ]  # fmt: skip
    assert asked == [15, 45, 105, 225, 465, 945]
    assert not renewal.due(0, True, 2300 * SECOND)
    assert not renewal.due(2, False, 2305 * SECOND)
    assert renewal.due(3, False, 2310 * SECOND)


class World:
    """A resolver whose answers the test sets, and one peer's address."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Address]] = {}
        self.address: Address | None = None
        self.asked = 0
        self.moves: list[tuple[Address, int]] = []
        self.notes: list[str] = []
        self.names = Names(self.resolve, self.current, self.move, self.note)

    async def resolve(self, endpoint: HostPort) -> list[Address]:
        self.asked += 1
        await asyncio.sleep(0)
        if endpoint.host not in self.answers:
            raise TunnelError(f"cannot resolve {endpoint.host}")
        return self.answers[endpoint.host]

    def current(self, key: bytes) -> Address | None:
        return {KEY: self.address}[key]

    def move(self, key: bytes, address: Address, port: int) -> None:
        self.address = address
        self.moves.append((address, port))

    def note(self, key: bytes, text: str) -> None:
        self.notes.append(text)

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


def config(endpoint: HostPort | None = NAME, key: bytes = KEY) -> Config:
    return Config(peers=(PeerConfig(key, endpoint=endpoint),))


def test_a_peer_follows_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "FIRST_PAUSE", 0)

    async def main() -> None:
        world = World()
        world.names.use(config())
        await world.settle()
        assert world.notes[0] == "cannot resolve vpn.example"
        world.answers["vpn.example"] = [A]
        await world.settle()
        assert world.moves == [(A, 51820)]
        asked = world.asked
        world.names.use(config())  # a reload that changes nothing
        await world.settle()
        assert world.asked == asked

        world.names.moved()
        await world.settle()
        assert (world.asked, len(world.moves)) == (asked + 1, 1)
        world.answers["vpn.example"] = [B]
        world.names.moved()
        await world.settle()
        assert world.moves[1:] == [(B, 51820)]

        del world.answers["vpn.example"]  # a failing lookup keeps the address
        world.names.check({KEY: (3, False)}.get, 1)
        await world.settle()
        assert (world.address, len(world.moves)) == (B, 2)
        world.answers["vpn.example"] = [C]
        world.names.check({KEY: (4, False)}.get, 2)  # too early
        await world.settle()
        assert world.address == B
        world.names.check({KEY: (9, False), OTHER: (9, False)}.get, names.RENEW_FIRST + 1)
        await world.settle()
        assert world.address == C

        world.names.forget(KEY)  # `wg set ... endpoint`
        world.answers["vpn.example"] = [A]
        world.names.moved()
        world.names.check({KEY: (9, False)}.get, 9 * names.RENEW_LAST)
        await world.settle()
        assert world.address == C
        await world.names.close()

    asyncio.run(main())


def test_another_name_or_none_ends_the_lookup_of_the_old_one() -> None:
    async def main() -> None:
        world = World()
        world.answers = {"vpn.example": [A], "two.example": [B]}
        world.names.use(config())
        world.names.use(config(HostPort("two.example", 9)))
        await world.settle()
        assert world.moves == [(B, 9)]
        world.names.use(config(HostPort("192.0.2.9", 9)))
        world.names.moved()
        world.names.use(config(HostPort("vpn.example", 9), OTHER))  # a peer that is not there
        await world.settle()
        assert world.moves == [(B, 9)]
        await world.names.close()

    asyncio.run(main())
