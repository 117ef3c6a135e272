from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.fake_machine import LO, NO_PATH, ON_LO, UNBOUND, FakeMachine
from tunnel.config import BindingConfig, Config, InterfaceConfig
from tunnel.daemon import session as session_module, status as states
from tunnel.daemon.session import TunnelSession
from tunnel.daemon.undo import Undo
from tunnel.errors import ConfigError, MissingFacilityError, PrivilegeError, TunnelError
from tunnel.policy.path import Path
from tunnel.provider import PacketTunnelProvider, StopReason, TunnelStatus
from tunnel.settings import TunnelSettings

S = TunnelStatus
HOOKS = InterfaceConfig(pre_up=("a",), post_up=("b",), pre_down=("c",), post_down=("d",))


class Provider(PacketTunnelProvider):
    """Writes its calls into the machine's journal and can be told to fail."""

    def __init__(self, machine: FakeMachine, fail: Exception | None = None) -> None:
        self.machine = machine
        self.journal = machine.journal
        self.fail = fail
        self.entered = asyncio.Event()
        self.hold: asyncio.Event | None = None
        self.paths: list[Path] = []
        self.pairs: list[list[tuple[int, int]]] = []
        self.reason: StopReason | None = None

    async def start_tunnel(self, options: Mapping[str, Any]) -> None:
        self.journal.append("start")
        self.entered.set()
        if self.hold:
            await self.hold.wait()
        if self.fail:
            raise self.fail
        self.context.status_changed(S.CONNECTED, "up")

    async def stop_tunnel(self, reason: StopReason) -> None:
        self.journal.append("stop")
        self.reason = reason

    async def path_changed(self, path: Path) -> None:
        self.paths.append(path)
        self.pairs.append(self.context.outer.pairs)


def session(machine: FakeMachine, provider: PacketTunnelProvider, **more: Any) -> TunnelSession:
    return TunnelSession(provider, name="t0", machine=machine, **more)


def run(test: Any) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


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


# ---- the path ----


def test_without_a_permitted_interface_it_waits_and_says_why() -> None:
    async def main() -> None:
        machine = FakeMachine(NO_PATH)
        provider = Provider(machine)
        async with session(machine, provider) as tunnel:
            assert not machine.outer.pairs
            # The provider said that it is connected; with closed sockets that cannot be.
            assert tunnel.status is S.CONNECTING
            assert tunnel.status_reason == f"waiting: {NO_PATH.reason}"
            machine.fake_monitor.change(ON_LO)
            await tunnel.wait(S.CONNECTED)
            assert machine.outer.interface == "lo"
            assert provider.pairs[-1] == machine.outer.pairs != []

    run(main())


def test_losing_the_path_withdraws_the_sockets_before_they_are_closed() -> None:
    async def main() -> None:
        machine = FakeMachine(ON_LO)
        provider = Provider(machine)
        async with session(machine, provider) as tunnel:
            assert tunnel.status is S.CONNECTED
            port = machine.outer.port
            descriptor = machine.outer.pairs[0][0]
            seen: list[bool] = []

            async def path_changed(path: Path) -> None:
                with socket.socket(fileno=descriptor) as ours:  # OSError if it were closed
                    seen.append(machine.outer.pairs == [] and ours.getsockname()[1] == port)
                    ours.detach()

            provider.path_changed = path_changed  # type: ignore[method-assign]
            machine.fake_monitor.change(NO_PATH)
            await tunnel.wait(S.REASSERTING)
            assert seen == [True]
            with pytest.raises(OSError, match="Bad file descriptor"):
                socket.socket(fileno=descriptor)
            del provider.path_changed  # type: ignore[attr-defined]
            machine.fake_monitor.change(ON_LO)
            await tunnel.wait(S.CONNECTED)
            assert machine.outer.port == port

    run(main())


def test_a_move_that_fails_closes_the_sockets_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_module, "RETRY_SECONDS", 0)

    async def main() -> None:
        machine = FakeMachine(ON_LO)
        provider = Provider(machine)
        async with session(machine, provider) as tunnel:
            machine.fake_routes.failures = [TunnelError("the kernel refused")] * 2
            machine.fake_monitor.change(replace(ON_LO, reason="moved"))
            await tunnel.wait(S.REASSERTING)
            assert tunnel.status_reason == "waiting: the kernel refused"
            await tunnel.wait(S.CONNECTED)
            assert provider.pairs[:2] == [[], []]
            assert provider.pairs[2] == machine.outer.pairs != []

    run(main())


def test_an_interface_gone_at_the_start_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "RETRY_SECONDS", 0)

    async def main() -> None:
        machine = FakeMachine(ON_LO)
        machine.fake_routes.failures = [MissingFacilityError("interface lo is gone")]
        async with session(machine, Provider(machine)) as tunnel:
            await tunnel.wait(S.CONNECTED)
            assert machine.outer.interface == "lo"

    run(main())


def test_without_a_binding_the_socket_is_bound_to_no_interface() -> None:
    async def main() -> None:
        machine = FakeMachine(UNBOUND)
        async with session(machine, Provider(machine)):
            assert machine.outer.pairs
            assert machine.outer.interface is None

    run(main())


def test_a_monitor_that_fails_ends_the_tunnel() -> None:
    async def main() -> None:
        machine = FakeMachine()
        tunnel = session(machine, Provider(machine))
        await tunnel.start()
        machine.fake_monitor.fail(OSError(105, "No buffer space available"))
        with pytest.raises(OSError, match="No buffer space"):
            await tunnel.wait_stopped()
        assert machine.journal[-2:] == ["close tun", "clear routes"]

    run(main())


# ---- settings ----


def test_settings_are_applied_now_and_on_later_paths_with_the_mark_they_need() -> None:
    async def main() -> None:
        machine = FakeMachine(ON_LO)
        machine.fake_routes.mark = 0
        async with session(machine, Provider(machine)) as tunnel:
            await tunnel.apply(TunnelSettings())
            assert machine.journal[-1] == ("apply", "t0", "lo")
            machine.fake_monitor.change(NO_PATH)
            await tunnel.wait(S.REASSERTING)
            assert machine.journal[-1] == ("apply", "t0", None)

    run(main())


def test_an_unmanaged_interface_is_left_to_others() -> None:
    async def main() -> None:
        machine = FakeMachine(ON_LO)
        async with session(machine, Provider(machine), manage=False) as tunnel:
            await tunnel.apply(TunnelSettings())
        assert ("apply", "t0", "lo") not in machine.journal

    run(main())


def test_a_reload_reaches_the_provider_and_a_changed_binding_is_refused() -> None:
    async def main() -> None:
        machine = FakeMachine()
        provider = Provider(machine)
        async with session(machine, provider) as tunnel:
            first = tunnel.config
            with pytest.raises(TunnelError, match="cannot reload"):
                await tunnel.reload(Config(interface=InterfaceConfig(mtu=1300)))
            assert tunnel.config is first

            async def reload(config: Config) -> None:
                machine.journal.append("reload")

            provider.reload = reload  # type: ignore[method-assign]
            fresh = Config(interface=InterfaceConfig(mtu=1300))
            await tunnel.reload(fresh)
            assert tunnel.config is fresh
            with pytest.raises(ConfigError, match="binding cannot change"):
                await tunnel.reload(Config(binding=BindingConfig(prohibit=("wifi",))))
            assert tunnel.config is fresh
            assert machine.journal.count("reload") == 1

    run(main())


# ---- the report ----


def test_the_report_has_every_key_of_the_contract_and_null_for_what_is_absent() -> None:
    class WithPeer(Provider):
        def peers(self) -> list[dict[str, Any]]:
            return [{"public_key": "abc=", "rx_bytes": 7}]

        def counters(self) -> dict[str, int]:
            return {"replayed": 3}

    async def main() -> None:
        machine = FakeMachine(replace(ON_LO, interfaces=(replace(LO, mtu=1400),)))
        tunnel = session(machine, WithPeer(machine))
        assert tunnel.report()["status"] == "disconnected"
        async with tunnel:
            report = tunnel.report()
            assert report == {
                "schema": 1,
                "interface": "t0",
                "status": "connected",
                "status_reason": "up",
                "path": {
                    "status": "satisfied",
                    "reason": "lo: permitted",
                    "interface": "lo",
                    "type": "cellular",
                    "expensive": False,
                    "constrained": False,
                    "gateways": [],
                    "mtu": 1400,
                },
                "kill_switch": "off",
                "peers": [
                    {
                        "public_key": "abc=",
                        "endpoint": None,
                        "handshake_age": None,
                        "rtt": None,
                        "rx_bytes": 7,
                        "tx_bytes": None,
                        "reason": None,
                    }
                ],
            }
            assert tunnel.stats() == {
                "schema": 1,
                "interface": "t0",
                "counters": {"replayed": 3},
            }
            machine.fake_monitor.change(NO_PATH)
            await tunnel.wait(S.REASSERTING)
            path = tunnel.report()["path"]
            assert path["status"] == "unsatisfied"
            assert path["interface"] is path["type"] is path["mtu"] is path["expensive"] is None

    run(main())
