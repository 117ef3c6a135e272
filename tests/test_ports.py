"""Ports taken of a name with several addresses: those that are here are enough."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.proxy_world import HOST, free_port
from tunnel.daemon.ports import TCP, UDP, OwnPorts

OTHER, ABSENT = "127.0.0.2", "192.0.2.77"


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, int]]]:
    """Take a port of a name; return the places that were bound, and give them back."""

    def taken(kind: socket.SocketKind, port: int, *addresses: str) -> list[tuple[str, int]]:
        places = [(socket.AF_INET, kind, 0, "", (one, port)) for one in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)

        async def work() -> list[tuple[str, int]]:
            ports = OwnPorts()
            await ports.take(kind, "name.test", port)
            bound = [one.getsockname() for one in ports._taken[kind, "name.test", port]]
            ports.let_go()
            return bound

        coroutine: Coroutine[Any, Any, list[tuple[str, int]]] = work()
        return asyncio.run(coroutine)

    return taken


def test_an_address_too_many_is_left_out(take: Callable[..., Any]) -> None:
    port = free_port()
    for addresses in ((ABSENT, HOST), (HOST, ABSENT)):
        for kind in (TCP, UDP):
            assert take(kind, port, *addresses) == [(HOST, port)]
    with pytest.raises(OSError, match=r".") as caught:
        take(TCP, port, ABSENT, "192.0.2.78")
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_all_addresses_for_tcp_and_the_first_for_udp(take: Callable[..., Any]) -> None:
    port = free_port()
    assert take(TCP, port, HOST, OTHER, HOST) == [(HOST, port), (OTHER, port)]
    assert take(UDP, port, HOST, OTHER) == [(HOST, port)]


def test_one_that_is_in_use_leaves_the_others_free(take: Callable[..., Any]) -> None:
    with socket.create_server((OTHER, 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(OSError, match=r".") as caught:
            take(TCP, port, HOST, OTHER)
        assert caught.value.errno == errno.EADDRINUSE
        assert take(TCP, port, HOST) == [(HOST, port)]
