"""How many clients there may be, and what those beyond hear."""

from __future__ import annotations

import asyncio
import logging
import os
import resource

import pytest

from tests.loops import Runner
from tests.proxy_world import HOST, LOG, Network, echo, port_of
from tunnel.places import Place
from tunnel.proxy.capacity import MOST, REFUSED_AT_ONCE, Capacity, of_process
from tunnel.proxy.clients import Clients
from tunnel.proxy.http import HttpProxy
from tunnel.proxy.relay import End
from tunnel.proxy.tcpforward import TcpForward


def test_places_are_taken_and_given_back() -> None:
    capacity = Capacity(1)
    assert capacity.enter()
    assert not capacity.is_over
    assert capacity.enter()
    assert capacity.is_over
    capacity.leave()
    assert not capacity.is_over
    for _ in range(REFUSED_AT_ONCE):
        assert capacity.enter()
    assert not capacity.enter()
    assert capacity.refused == 2 + REFUSED_AT_ONCE


@pytest.mark.parametrize(
    ("soft", "hard", "most", "warns"),
    [
        (1024, 20_000, 20_000 - 24 - 512, False),
        (1024, 1024, 1024 - 24 - 512, True),
        (600, 600, (600 - 24) // 3, True),
        (64, 64, (64 - 24) // 3, True),
        (16, 16, 1, True),
        (1024, 1 << 20, MOST, False),
        (1024, resource.RLIM_INFINITY, MOST, False),
    ],
)
def test_the_limit_of_files_is_raised(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    soft: int,
    hard: int,
    most: int,
    *,
    warns: bool,
) -> None:
    chosen = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: chosen.append(limits))
    monkeypatch.setattr(os, "listdir", lambda folder: ["a file"] * 24)
    capacity = of_process(logging.getLogger("test"))
    assert capacity.most == most
    assert chosen == ([] if soft == hard else [(hard, hard)])
    assert ("LimitNOFILE=" in caplog.text) is warns


def test_where_few_files_may_be_open_few_come_in_to_be_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (64, 64))
    monkeypatch.setattr(os, "listdir", lambda folder: ["a file"] * 24)
    capacity = of_process(LOG)
    assert [capacity.enter() for _ in range(20)] == [True] * (13 + 6) + [False]


def test_a_limit_that_cannot_be_raised_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(which: int, limits: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    monkeypatch.setattr(os, "listdir", lambda folder: ["a file"] * 24)
    assert of_process(LOG).most == 1024 - 24 - 512


def test_servers_that_speak_first_are_remembered_up_to_a_number() -> None:
    clients = Clients(End, Network(), LOG)
    for port in range(1, 3000):
        clients.greeted("echo.test", port)
    assert len(clients.greeters) == 1024


def test_an_http_client_too_many_hears_503(run: Runner) -> None:
    async def work() -> None:
        proxy = HttpProxy(Network(), LOG, capacity=Capacity(0))
        await proxy.clients.listen(Network(), HOST, 0)
        reader, writer = await asyncio.open_connection(HOST, port_of(proxy.clients))
        writer.write(b"CONNECT echo.test:80 HTTP/1.1\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"503"
        writer.close()
        await proxy.clients.aclose()

    run(work())


@pytest.mark.parametrize("most", [0, -REFUSED_AT_ONCE])
def test_a_forwarded_client_too_many_is_reset(run: Runner, most: int) -> None:
    async def work() -> None:
        network = Network()
        async with echo() as port:
            clients = TcpForward(network, Place(HOST, port), LOG, Capacity(most)).clients
            await clients.listen(network, HOST, 0)
            reader, _ = await asyncio.open_connection(HOST, port_of(clients))
            with pytest.raises(ConnectionResetError):
                await reader.read()
            await clients.aclose()

    run(work())
