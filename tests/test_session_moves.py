"""A session that moves between Wi-Fi and cellular, in virtual time, with a provider that proves."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.fake_machine import FakeMachine, JournalProvider, interface
from tunnel.bind import OuterSockets
from tunnel.config import BindingConfig, Config
from tunnel.daemon.follower import LINGER
from tunnel.daemon.session import TunnelSession
from tunnel.errors import TunnelError
from tunnel.policy.binding import BindingPolicy, Term
from tunnel.policy.interface import Interface, InterfaceType
from tunnel.provider import StopReason, TunnelStatus

WIFI, CELLULAR = InterfaceType.WIFI, InterfaceType.CELLULAR
POLICY = BindingPolicy((Term(WIFI), Term(CELLULAR)))


class _Skipping(selectors.DefaultSelector):
    """Lets the time that would be waited pass at once."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is None:
            return super().select(None)
        if not ready and timeout:
            self.passed += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return 1000.0 + self._skipping.passed


WLAN, WWAN = interface("wlan0", 1, WIFI), interface("wwan0", 2, CELLULAR)


class Anywhere(OuterSockets):
    """Sockets that only remember which interface they are bound to: it is not there."""

    def open(self, *, port: int = 0, mark: int = 0, interface: str | None = None) -> None:
        super().open()
        self.interface = interface

    def rebind(self, interface: str | None) -> None:
        self.interface = interface


class TwoPaths(FakeMachine):
    def outer_sockets(self, workers: int) -> OuterSockets:
        self.outers.append(Anywhere(workers))
        return self.outers[-1]


class Prover(JournalProvider):
    """Answers a proof after 20 ms with what `answer` says; None for never."""

    def __init__(self, machine: FakeMachine) -> None:
        super().__init__(machine)
        self.answer: bool | None = True
        self.proofs: list[tuple[float, str | None]] = []
        self.ended: list[str] = []

    async def prove_path(self, outer: OuterSockets) -> bool:
        now = asyncio.get_running_loop().time()
        self.proofs.append((now - 1000, outer.interface))
        assert self.context.outer.interface != outer.interface
        assert self.context.outer.pairs
        assert outer.pairs
        try:
            await asyncio.sleep(0.02 if self.answer is not None else 1e6)
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        return bool(self.answer)


class Script:
    def __init__(self, session: TunnelSession, machine: TwoPaths, provider: Prover) -> None:
        self.session = session
        self.machine = machine
        self.provider = provider
        self.statuses: list[TunnelStatus] = []

    def usable(self, *interfaces: Interface) -> None:
        self.machine.fake_monitor.change(POLICY.decide(interfaces))

    async def at(self, seconds: float) -> None:
        while (left := seconds + 1000 - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(left, 0.25))
            self.statuses.append(self.session.status)

    @property
    def used(self) -> str | None:
        first = self.session.path.interface
        assert first is None or self.session.outer.interface == first.name
        return first.name if first else None


def scripted(
    work: Callable[[Script], Awaitable[None]], *first: Interface, **binding: Any
) -> Script:
    """Run a script on a session that starts with these interfaces."""

    async def main() -> Script:
        machine = TwoPaths(POLICY.decide(first))
        provider = Prover(machine)
        session = TunnelSession(
            provider,
            name="t0",
            machine=machine,
            policy=POLICY,
            config=Config(binding=BindingConfig(**binding)),
        )
        script = Script(session, machine, provider)
        await session.start()
        try:
            await work(script)
        finally:
            await session.stop()
        assert not any(one.pairs for one in machine.outers)
        return script

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(asyncio.wait_for(main(), 100_000))


def test_wifi_that_returns_fails_and_comes_back_costs_one_move_and_no_stop() -> None:
    async def work(script: Script) -> None:
        await script.at(60)
        script.usable(WWAN, WLAN)
        await script.at(68)
        script.usable(WWAN)
        await script.at(70)
        script.usable(WWAN, WLAN)
        await script.at(84.5)
        assert script.used == "wwan0"
        assert script.provider.proofs == []
        await script.at(200)
        assert script.used == "wlan0"

    script = scripted(work, WWAN)
    ((when, name),) = script.provider.proofs
    assert (round(when, 1), name) == (85.0, "wlan0")
    assert set(script.statuses) == {TunnelStatus.CONNECTED}
    # Told once, when the old path was let go; never before.
    assert [path.interface for path in script.provider.paths] == [WLAN]


def test_both_sets_of_sockets_are_open_until_the_old_path_has_been_silent_for_a_while() -> None:
    async def work(script: Script) -> None:
        script.usable(WWAN, WLAN)
        await script.at(15.5)
        assert script.used == "wlan0"
        assert script.session._underlay.sockets.interfaces == {"wlan0", "wwan0"}
        await script.at(15.5 + LINGER)
        assert script.session._underlay.sockets.interfaces == {"wlan0"}

    scripted(work, WWAN)


def test_a_path_that_does_not_answer_is_tried_again_later_and_later() -> None:
    async def work(script: Script) -> None:
        script.provider.answer = False
        script.usable(WWAN, WLAN)
        await script.at(130)
        assert script.used == "wwan0"
        assert "wlan0 answers" in script.session.path.reason
        script.provider.answer = True
        await script.at(245)
        assert script.used == "wlan0"

    script = scripted(work, WWAN)
    assert [round(when) for when, _ in script.provider.proofs] == [15, 30, 60, 120, 240]
    assert set(script.statuses) == {TunnelStatus.CONNECTED}


@pytest.mark.parametrize("what", ["candidate goes", "old path dies", "policy changes"])
def test_what_overtakes_a_proof_ends_it(what: str) -> None:
    async def work(script: Script) -> None:
        script.provider.answer = None
        script.usable(WWAN, WLAN)
        await script.at(16)
        assert len(script.provider.proofs) == 1
        if what == "candidate goes":
            script.usable(WWAN)
        elif what == "old path dies":
            script.usable(WLAN)
        else:
            policy = BindingPolicy((Term(CELLULAR),))
            script.machine.fake_monitor.path = policy.decide((WWAN, WLAN))
            await script.session.set_policy(policy)
        await script.at(17)
        assert script.provider.ended == ["cancelled"]
        assert script.used == ("wlan0" if what == "old path dies" else "wwan0")
        assert len(script.session._underlay.sockets.interfaces) == 1

    assert set(scripted(work, WWAN).statuses) == {TunnelStatus.CONNECTED}


def test_a_dead_path_is_left_at_once() -> None:
    async def work(script: Script) -> None:
        await script.at(20)
        script.usable(WWAN)
        await asyncio.sleep(0)
        await script.at(20.25)
        assert script.used == "wwan0"
        assert script.provider.proofs == []

    assert set(scripted(work, WLAN, WWAN).statuses) == {TunnelStatus.CONNECTED}


def test_a_silent_path_is_left_for_one_that_answers() -> None:
    async def work(script: Script) -> None:
        await script.at(20)
        script.session.path_silent()
        await script.at(21)
        assert script.used == "wwan0"
        script.session.path_silent()  # the other one is put off: there is nothing to go to
        await script.at(30)
        assert script.used == "wwan0"
        await script.at(40)
        assert script.used == "wlan0"  # which had to answer

    script = scripted(work, WLAN, WWAN)
    assert [name for _, name in script.provider.proofs] == ["wwan0", "wlan0"]


def test_standing_by_costs_the_path_in_use_nothing() -> None:
    async def work(script: Script) -> None:
        for second in range(1, 10):
            script.usable(*((WLAN, WWAN) if second % 2 else (WLAN,)))
            await script.at(second)
        script.usable(WLAN, replace(WWAN, mtu=1400))
        await script.at(11)

    assert scripted(work, WLAN, WWAN).provider.paths == []


def test_without_any_path_it_waits_as_long_as_it_was_given() -> None:
    async def work(script: Script) -> None:
        await script.at(20)
        script.usable()
        await script.at(75)
        assert script.session.status is TunnelStatus.REASSERTING
        script.usable(WLAN)
        await script.at(78)
        assert script.session.status is TunnelStatus.CONNECTED
        script.usable()
        await script.at(137)
        assert script.session.status is TunnelStatus.REASSERTING
        await script.at(139)
        assert script.session.status is TunnelStatus.ERROR
        with pytest.raises(TunnelError, match="no path for 60 s: no permitted interface"):
            await script.session.wait_stopped()
        assert script.provider.reason is StopReason.NO_NETWORK_AVAILABLE

    scripted(work, WLAN, grace=60.0)


def test_without_a_setting_it_waits_for_ever() -> None:
    async def work(script: Script) -> None:
        script.usable()
        await script.at(5000)
        assert script.session.status is TunnelStatus.REASSERTING
        assert script.session.status_reason.startswith("waiting: no permitted interface")

    scripted(work, WLAN)
