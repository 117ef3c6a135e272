"""A session's life: the table of states, start and stop, whatever fails on the way."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest

from tests.fake_machine import FakeMachine, JournalProvider as Provider, session
from tests.loops import run
from tunnel.config import Config, InterfaceConfig
from tunnel.daemon import status as states
from tunnel.daemon.undo import Undo
from tunnel.errors import ConfigError, MissingFacilityError, PrivilegeError, TunnelError
from tunnel.provider import StopReason, TunnelStatus

S = TunnelStatus
HOOKS = InterfaceConfig(pre_up=("a",), post_up=("b",), pre_down=("c",), post_down=("d",))


# ---- the table of states ----


def test_a_provider_reports_no_state_of_the_session() -> None:
    async def main() -> None:
        machine = FakeMachine()
        async with session(machine, Provider(machine)) as tunnel:
            with pytest.raises(ValueError, match="does not report"):
                tunnel.status_changed(S.DISCONNECTED)

    run(main())


@pytest.mark.parametrize(
    ("now", "asked", "then"),
    [
        (S.DISCONNECTED, S.CONNECTING, S.CONNECTING),
        (S.DISCONNECTED, S.CONNECTED, S.DISCONNECTED),
        (S.CONNECTING, S.CONNECTED, S.CONNECTED),
        (S.CONNECTING, S.REASSERTING, S.CONNECTING),
        (S.CONNECTED, S.CONNECTING, S.REASSERTING),
        (S.CONNECTED, S.REASSERTING, S.REASSERTING),
        (S.CONNECTED, S.DISCONNECTED, S.CONNECTED),
        (S.REASSERTING, S.CONNECTED, S.CONNECTED),
        (S.REASSERTING, S.CONNECTING, S.REASSERTING),
        (S.DISCONNECTING, S.CONNECTED, S.DISCONNECTING),
        (S.DISCONNECTING, S.ERROR, S.ERROR),
        (S.DISCONNECTING, S.DISCONNECTED, S.DISCONNECTED),
        (S.ERROR, S.CONNECTED, S.ERROR),
        (S.ERROR, S.CONNECTING, S.CONNECTING),
    ],
)
def test_states_follow_the_table(now: S, asked: S, then: S) -> None:
    assert states.follow(now, asked) is then


def test_the_table_knows_every_state_and_stopping_is_always_possible() -> None:
    assert set(states.NEXT) == set(S)
    for state in S:
        if state not in states.ENDED | {S.DISCONNECTING}:
            assert states.follow(state, S.DISCONNECTING) is S.DISCONNECTING


# ---- start and stop ----


def test_what_was_made_first_is_removed_last() -> None:
    async def main() -> None:
        machine = FakeMachine()
        provider = Provider(machine)
        tunnel = session(machine, provider, config=Config(interface=HOOKS))
        await tunnel.start()
        assert machine.outer.pairs
        await tunnel.stop()
        assert machine.journal == [
            "clean up", "PreUp a", "make tun", ("apply", None, "lo"), "start", "PostUp b",
            "PreDown c", "stop", "clear routes", "close tun", "PostDown d", "clear routes",
        ]  # fmt: skip
        assert not machine.outer.pairs
        assert machine.fake_monitor.closed
        assert machine.fake_watch is not None
        assert machine.fake_watch.closed
        assert tunnel.status is S.DISCONNECTED
        assert provider.reason is StopReason.USER_INITIATED
        await tunnel.stop()  # again, which does nothing

    run(main())


def test_a_session_can_be_started_again_after_it_ended() -> None:
    async def main() -> None:
        machine = FakeMachine()
        tunnel = session(machine, Provider(machine))
        for _ in range(2):
            await tunnel.start()
            assert tunnel.status is S.CONNECTED
            with pytest.raises(TunnelError, match="started already"):
                await tunnel.start()
            await tunnel.stop()
        assert machine.journal.count("make tun") == machine.journal.count("close tun") == 2

    run(main())


@pytest.mark.parametrize("fault", ["check", "PreUp", "provider", "PostUp"])
def test_a_start_that_fails_removes_what_it_made_and_says_why(fault: str) -> None:
    async def main() -> None:
        machine = FakeMachine()
        machine.failing_hooks.add(fault)
        machine.refusal = PrivilegeError("check failed") if fault == "check" else None
        provider = Provider(machine, ConfigError(
            "provider failed", where=None, key=None, mend="mend it"
        ) if fault == "provider" else None)  # fmt: skip
        tunnel = session(machine, provider, config=Config(interface=HOOKS))
        with pytest.raises(TunnelError, match=f"{fault} failed") as caught:
            await tunnel.start()
        assert tunnel.status is S.ERROR
        assert f"{fault} failed" in tunnel.status_reason
        assert tunnel.failure is caught.value
        journal = machine.journal
        assert ("make tun" in journal) == ("close tun" in journal)
        assert ("start" in journal) == ("stop" in journal)
        assert ("PreUp a" in journal) == ("PostDown d" in journal)
        assert ("PostUp b" in journal) == ("PreDown c" in journal)
        assert not machine.outer.pairs
        with pytest.raises(TunnelError, match=f"{fault} failed"):
            await tunnel.wait(S.CONNECTED)

    run(main())


def test_a_port_that_another_program_has_is_named() -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("", 0))
            port = taken.getsockname()[1]
            machine = FakeMachine()
            config = Config(interface=InterfaceConfig(listen_port=port))
            with pytest.raises(TunnelError, match=f"UDP port {port} is in use"):
                await session(machine, Provider(machine), config=config).start()
            assert "start" not in machine.journal

    run(main())


def test_stopping_during_the_start_interrupts_it() -> None:
    async def main() -> None:
        machine = FakeMachine()
        provider = Provider(machine)
        provider.hold = asyncio.Event()
        tunnel = session(machine, provider)
        starting = asyncio.create_task(tunnel.start())
        await provider.entered.wait()
        await tunnel.stop(StopReason.USER_LOGOUT)
        await starting
        assert tunnel.status is S.DISCONNECTED
        assert provider.reason is StopReason.USER_LOGOUT
        assert machine.journal[-2:] == ["close tun", "clear routes"]

    run(main())


def test_a_cancelled_start_leaves_nothing() -> None:
    async def main() -> None:
        machine = FakeMachine()
        provider = Provider(machine)
        provider.hold = asyncio.Event()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await session(machine, provider).start()
        assert machine.journal[-3:] == ["clear routes", "close tun", "clear routes"]

    run(main())


def test_every_step_of_stopping_is_tried_though_others_fail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        done: list[str] = []

        def broken() -> None:
            raise OSError("broken")

        async def hangs() -> None:
            await asyncio.Event().wait()

        undo = Undo(logging.getLogger("tunnel"))
        undo.push("the first", lambda: done.append("first"), seconds=1)
        undo.push("the broken", broken, seconds=1)
        undo.push("the slow", hangs, seconds=0.01)
        undo.push("the last", lambda: done.append("last"), seconds=1)
        await undo.unwind()
        assert done == ["last", "first"]
        await undo.unwind()
        assert done == ["last", "first"]

    run(main())
    assert "removing the broken failed: broken" in caplog.text
    assert "removing the slow took more than" in caplog.text


def test_a_provider_that_gives_up_ends_the_tunnel_with_its_error() -> None:
    async def main() -> None:
        machine = FakeMachine()
        provider = Provider(machine)
        tunnel = session(machine, provider)
        await tunnel.start()
        tunnel.cancel(MissingFacilityError("the far end is made of cheese"))
        with pytest.raises(MissingFacilityError, match="cheese"):
            await tunnel.wait_stopped()
        assert provider.reason is StopReason.PROVIDER_FAILED
        assert tunnel.status is S.ERROR
        assert machine.journal[-2:] == ["close tun", "clear routes"]

    run(main())


def test_a_configuration_that_was_taken_away_is_no_failure() -> None:
    async def main() -> None:
        machine = FakeMachine()
        provider = Provider(machine)
        tunnel = session(machine, provider)
        await tunnel.start()
        tunnel.cancel(TunnelError("removed"), StopReason.CONFIGURATION_REMOVED)
        await tunnel.wait_stopped()
        assert tunnel.status is S.DISCONNECTED
        assert provider.reason is StopReason.CONFIGURATION_REMOVED

    run(main())


def test_an_interface_that_was_deleted_ends_the_tunnel_in_order() -> None:
    async def main() -> None:
        machine = FakeMachine()
        provider = Provider(machine)
        tunnel = session(machine, provider)
        await tunnel.start()
        assert machine.fake_watch is not None
        machine.fake_watch.gone()
        await tunnel.wait_stopped()
        assert tunnel.status is S.DISCONNECTED
        assert provider.reason is StopReason.CONFIGURATION_REMOVED

    run(main())


def test_waiting_for_a_status_that_cannot_come_fails() -> None:
    async def main() -> None:
        machine = FakeMachine()
        tunnel = session(machine, Provider(machine))
        await tunnel.start()
        waiting = asyncio.create_task(tunnel.wait(S.REASSERTING))
        await asyncio.sleep(0)
        await tunnel.stop()
        with pytest.raises(TunnelError, match="is disconnected"):
            await waiting

    run(main())
