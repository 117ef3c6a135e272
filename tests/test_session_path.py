"""A session while it runs: the path, the settings, the report."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

import pytest

from tests.fake_machine import (
    LO,
    NO_PATH,
    ON_LO,
    UNBOUND,
    FakeMachine,
    JournalProvider as Provider,
    session,
)
from tests.loops import run
from tunnel.config import BindingConfig, Config, InterfaceConfig
from tunnel.daemon import follower as follower_module
from tunnel.errors import MissingFacilityError, TunnelError
from tunnel.policy.binding import BindingPolicy, Term
from tunnel.policy.interface import InterfaceType
from tunnel.policy.path import Path
from tunnel.provider import TunnelStatus
from tunnel.settings import TunnelSettings

S = TunnelStatus


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
    monkeypatch.setattr(follower_module, "RETRY_SECONDS", 0)

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
    monkeypatch.setattr(follower_module, "RETRY_SECONDS", 0)

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


def test_a_reload_reaches_the_provider_and_may_change_the_binding() -> None:
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
            assert machine.fake_monitor.policy is None
            policy = BindingPolicy(prohibited=(Term(InterfaceType.WIFI),))
            bound = Config(binding=BindingConfig(prohibit=("wifi",), dwell=7))
            await tunnel.reload(bound, policy)
            assert tunnel.config is bound
            assert machine.fake_monitor.policy is tunnel.policy is policy
            assert machine.journal.count("reload") == 2

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
                "kill_switch_opening": None,
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
