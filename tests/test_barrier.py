"""What the kill switch is told as the session goes on: each step of its states, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from tests.fake_machine import NO_PATH, ON_LO, UNBOUND, FakeMachine
from tests.loops import run
from tunnel.daemon.barrier import Barrier
from tunnel.daemon.status import Ending
from tunnel.errors import TunnelError, UsageError
from tunnel.policy.killswitch.state import Desired, Endpoint, Phase
from tunnel.provider import StopReason, TunnelStatus
from tunnel.settings import RoutingPolicy

ALL = RoutingPolicy(include_all_networks=True)
FAR = ip_address("192.0.2.1")


class Switch:
    """Notes what the firewall should be; None while it is not held."""

    def __init__(self) -> None:
        self.desired: Desired | None = None
        self.left = False

    @property
    def phase(self) -> Phase:
        return self.desired.phase if self.desired else Phase.OFF

    def is_closed(self) -> bool:
        return True

    def close(self, desired: Desired) -> bool:
        self.desired = desired
        return False

    def set(self, desired: Desired) -> None:
        self.desired = desired

    def open(self) -> None:
        self.desired = None

    def leave(self) -> None:
        self.left = True


class Machine(FakeMachine):
    """One whose firewall only remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.switch = Switch()

    def kill_switch(self, log: Callable[[str], None]) -> Any:
        return self.switch

    def kill_switch_holder(self) -> str | None:
        return None


def begun(policy: RoutingPolicy = ALL) -> tuple[Barrier, Switch]:
    """Return a barrier that was started; it needs a running loop."""
    machine = Machine()
    barrier = Barrier("td0", policy, machine, logging.getLogger("test"))

    async def reroute(policy: RoutingPolicy) -> None:
        """There are no routes here."""

    barrier.start(lambda ending: None, reroute)
    return barrier, machine.switch


def test_it_follows_the_path_and_is_blocked_without_one() -> None:
    async def work() -> None:
        barrier, switch = begun()
        assert switch.desired == Desired(Phase.BLOCKED, "td0")
        barrier.update(path=ON_LO, endpoints=[(FAR, 7), (FAR, 7)], mark=9)
        ends = (Endpoint(FAR, 7),)
        there = Desired(Phase.CONNECTING, "td0", 9, interfaces=("lo",), endpoints=ends)
        assert switch.desired == there
        barrier.show(TunnelStatus.CONNECTED)
        assert switch.desired == replace(there, phase=Phase.CONNECTED)
        barrier.show(TunnelStatus.REASSERTING)
        assert switch.desired == there
        barrier.update(path=NO_PATH)
        assert switch.desired == replace(there, phase=Phase.BLOCKED, interfaces=())
        barrier.show(TunnelStatus.CONNECTED)  # a status of before
        assert switch.phase is Phase.BLOCKED
        barrier.update(path=UNBOUND)  # the routes decide
        assert switch.desired == replace(there, interfaces=None)

    run(work())


def test_names_are_asked_for_over_permitted_interfaces_while_it_is_closed() -> None:
    async def work() -> None:
        assert begun()[0].path_of_names(UNBOUND, ()).bound
        assert not begun(RoutingPolicy())[0].path_of_names(UNBOUND, ()).bound

    run(work())


def test_without_the_policy_nothing_is_closed_and_any_mark_will_do() -> None:
    async def work() -> None:
        barrier, switch = begun(RoutingPolicy())
        barrier.update(path=ON_LO, coming_mark=0)
        assert (switch.desired, barrier.state) == (None, "off")
        with pytest.raises(UsageError, match="fwmark 0 is refused"):
            begun()[0].update(coming_mark=0)

    run(work())


@pytest.mark.parametrize("lockdown", [False, True])
@pytest.mark.parametrize("reason", StopReason)
def test_only_an_orderly_end_opens_it(reason: StopReason, lockdown: bool) -> None:
    orderly = reason in (StopReason.NONE, StopReason.USER_INITIATED)

    async def work() -> None:
        for error in (None, TunnelError("it failed")):
            barrier, switch = begun(replace(ALL, lockdown_on_exit=lockdown))
            ending = Ending(reason, error)
            opens = orderly and not lockdown and error is None
            assert barrier.stays_closed(ending) is not opens
            barrier.end(ending)
            assert (switch.desired is None, switch.left) == (opens, not opens)

    run(work())


def test_what_the_firewall_refuses_is_not_taken_for_done() -> None:
    async def work() -> None:
        barrier, switch = begun()
        refused = switch.set

        def refuse(desired: Desired) -> None:
            raise TunnelError("no")

        switch.set = refuse  # type: ignore[method-assign]
        with pytest.raises(TunnelError):
            barrier.update(path=ON_LO)
        assert barrier.state == "blocked"
        switch.set = refused  # type: ignore[method-assign]
        barrier.update(path=ON_LO)  # the same is another change still
        assert switch.phase is Phase.CONNECTING

    run(work())


def test_one_that_nobody_confirms_ends_the_tunnel_and_opens() -> None:
    async def work() -> None:
        machine = Machine()
        policy = replace(ALL, confirm=0.01, lockdown_on_exit=True)
        barrier = Barrier("td0", policy, machine, logging.getLogger("test"))
        ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        barrier.start(ended.set_result, lambda policy: asyncio.sleep(0))
        ending = await ended
        barrier.end(ending)
        assert (machine.switch.desired, ending.reason) == (None, StopReason.USER_INITIATED)

    run(work())
