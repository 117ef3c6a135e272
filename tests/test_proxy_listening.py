"""Accepting clients: tunnel/proxy/listening.py."""

from __future__ import annotations

import asyncio
import errno
import resource
import select
import socket
from typing import Any

import pytest

from tests.loops import Runner, until
from tests.proxy_door import door
from tests.proxy_world import HOST


def test_many_at_once_are_all_accepted(run: Runner) -> None:
    async def work() -> None:
        async with door() as at:
            place = at.listening.sockets[0].getsockname()
            clients = [socket.create_connection(place) for _ in range(200)]
            for number, client in enumerate(clients):
                client.send(b"%d" % number)
            await until(lambda: len(at.clients) == 200 and all(one.heard for one in at.clients))
            assert {int(one.heard) for one in at.clients} == set(range(200))
            for client in clients:
                client.close()

    run(work())


def test_those_who_are_there_outlive_the_listening(run: Runner) -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        async with door() as at:
            client = await at.connect()
            place = at.listening.sockets[0].getsockname()
            at.listening.close()
            at.listening.close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(place)
            await loop.sock_sendall(client, b"still")
            await until(lambda: at.clients[0].heard == b"still")
            client.close()

    run(work())


@pytest.mark.parametrize("silent", [False, True])
def test_a_client_that_speaks_first_is_accepted_with_what_it_says(
    run: Runner, silent: bool
) -> None:
    async def work() -> None:
        async with door() as at:
            at.listening.defer()
            client = socket.create_connection(at.listening.sockets[0].getsockname())
            if not silent:
                client.send(b"hello")
            await until(lambda: bool(at.clients))
            assert at.clients[0].heard == (b"" if silent else b"hello")
            client.send(b" and more")
            await until(lambda: at.clients[0].heard.endswith(b" and more"))
            client.close()

    run(work())


def test_names_of_both_ends_and_an_unknown_one(run: Runner) -> None:
    async def work() -> None:
        for host in (HOST, "::1"):
            async with door(host=host) as at:
                client = socket.create_connection(at.listening.sockets[0].getsockname()[:2])
                await until(lambda at=at: bool(at.clients))
                info = at.clients[0].transport.get_extra_info
                assert info("peername") == client.getsockname()
                assert info("sockname") == client.getpeername()
                assert info("compression", 5) == 5
                client.close()

    run(work())


def test_without_files_they_wait_for_one(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnel.proxy.listening.RETRY", 0.05)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        failures: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: failures.append(context))
        async with door() as at:
            client = socket.socket()
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            with socket.socket() as last:
                free = last.fileno()
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
                client.connect(at.listening.sockets[0].getsockname())
                await until(lambda: bool(failures))
                assert not at.clients
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            await until(lambda: bool(at.clients))
            client.send(b"there at last")
            await until(lambda: at.clients[0].heard == b"there at last")
            client.close()

    run(work())


class Crowded:
    """An epoll that takes no more while it is full: the kernel's own limit is for all of a user."""

    full = False
    refused = 0

    def __init__(self, flags: int) -> None:
        self._epoll = select.epoll(flags)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)

    def register(self, fd: int, events: int) -> None:
        if Crowded.full:
            Crowded.refused += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        self._epoll.register(fd, events)


def test_a_client_that_cannot_be_watched_is_refused(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnel.proxy.listening.RETRY", 0.01)
    monkeypatch.setattr("tunnel.proxy.listening.epoll", Crowded)
    monkeypatch.setattr(Crowded, "full", False)
    monkeypatch.setattr(Crowded, "refused", 0)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        failures: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: failures.append(context))
        async with door() as at:
            there = await at.connect()
            Crowded.full = True
            refused = socket.create_connection(at.listening.sockets[0].getsockname())
            refused.setblocking(False)
            with pytest.raises(ConnectionResetError):
                await loop.sock_recv(refused, 1)
            (failure,) = failures
            assert failure["message"] == "a client was refused"
            assert failure["exception"].errno == errno.ENOSPC
            waits = socket.create_connection(at.listening.sockets[0].getsockname())
            there.send(b"still here")
            await until(lambda: at.clients[0].heard == b"still here")
            await until(lambda: Crowded.refused > 2)  # the listener's own place is taken, too
            Crowded.full = False
            await until(lambda: len(at.clients) == 2)
            waits.send(b"there at last")
            await until(lambda: at.clients[1].heard == b"there at last")
            assert len(failures) == 1
            for client in (there, refused, waits):
                client.close()

    run(work())
