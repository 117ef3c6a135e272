"""The machine's own resolver: its answers, and that nobody waits for it when it is too late."""

from __future__ import annotations

import asyncio
import socket
import threading
from ipaddress import ip_address
from typing import Any

import pytest

from tests.loops import Runner
from tunnel.errors import TunnelError
from tunnel.policy.resolver import resolve


def found(*addresses: str) -> list[Any]:
    return [(0, socket.SOCK_DGRAM, 17, "", (address, 0)) for address in addresses]


def test_its_answers(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [found("192.0.2.1", "2001:db8::1", "192.0.2.1"), socket.gaierror(-2, "no")]

    def answer(*_: Any, **__: Any) -> Any:
        if isinstance(answers[0], Exception):
            raise answers.pop(0)
        return answers.pop(0)

    monkeypatch.setattr(socket, "getaddrinfo", answer)

    async def work() -> None:
        addresses = await resolve("vpn.test", None)
        assert addresses == [ip_address("192.0.2.1"), ip_address("2001:db8::1")]
        with pytest.raises(TunnelError, match=r"cannot resolve vpn\.test: no"):
            await resolve("vpn.test", None)

    run(work())


def test_the_end_does_not_wait_for_it(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    over, asked = threading.Event(), threading.Event()

    def hang(*_: Any, **__: Any) -> Any:
        asked.set()
        answered.append(over.wait(20))
        return found("192.0.2.1")

    answered: list[bool] = []
    monkeypatch.setattr(socket, "getaddrinfo", hang)

    async def work() -> None:
        task = asyncio.create_task(resolve("vpn.test", None))
        await asyncio.to_thread(asked.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work())
    assert not answered
    over.set()
