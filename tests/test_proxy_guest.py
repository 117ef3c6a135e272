"""A client and its dial: tunnel/proxy/guest.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.loops import Runner, until
from tests.proxy_door import Noted
from tests.proxy_world import HOST, LOG, Network, port_of
from tunnel.proxy.dialer import Opened, Opening, Patience, Server
from tunnel.proxy.http import HttpProxy
from tunnel.proxy.relay import reset


class Held(Network):
    """A network on which the test says when a connection stands; one that is given up is noted."""

    def __init__(self) -> None:
        self.opened: Opened | None = None
        self.given_up = 0
        self.factory: Callable[[], Any]

    async def create_server(
        self, protocol_factory: Callable[[], Any], host: str | None, port: int
    ) -> Server:
        self.factory = protocol_factory
        return self

    def close(self) -> None:
        """Listen no more."""

    def begin_connection(
        self, opened: Opened, host: str, port: int, patience: Patience
    ) -> Opening | None:
        self.opened = opened
        return self

    def abort(self) -> None:
        self.given_up += 1


async def asking(network: Held) -> tuple[HttpProxy, asyncio.StreamWriter]:
    """Return a proxy, and a client of it whose connection does not stand yet."""
    made = HttpProxy(network, LOG)
    await made.clients.listen(Network(), HOST, 0)
    _, writer = await asyncio.open_connection(HOST, port_of(made.clients))
    writer.write(b"GET http://10.0.0.9/ HTTP/1.1\r\n\r\n")
    await until(lambda: network.opened is not None)
    return made, writer


def test_what_stands_when_its_client_is_gone_hears_nothing(run: Runner) -> None:
    async def work() -> None:
        loop, network, far = asyncio.get_running_loop(), Held(), Noted()
        made, writer = await asking(network)
        assert network.opened is not None
        end = loop.create_task(made.clients.aclose())
        # In the turn in which the client is dropped; it is told of it in the next one.
        loop.call_soon(network.opened, far, None)
        await end
        assert far.told == ["abort"]
        assert not network.given_up
        writer.close()

    run(work())


def test_a_dial_is_given_up_with_its_client(run: Runner) -> None:
    async def work() -> None:
        network, far = Held(), Noted()
        made, writer = await asking(network)
        assert network.opened is not None
        reset(writer.transport)
        await until(lambda: not made.clients.capacity.taken)
        assert network.given_up == 1
        network.opened(far, None)
        assert not far.told
        await made.clients.aclose()

    run(work())


def test_what_a_client_sends_before_its_destination_is_there_is_kept_within_bounds(
    run: Runner,
) -> None:
    async def work() -> None:
        network, here, far = Held(), Noted(), Noted()
        made = HttpProxy(network, LOG)
        await made.clients.listen(network, None, 0)
        client = network.factory()
        client.connection_made(here)
        client.data_received(b"CONNECT 10.0.0.9:80 HTTP/1.1\r\n\r\nearly")
        most = bytes(64 * 1024 - len("early"))
        client.data_received(most[1:])
        assert not here.told
        client.data_received(b"!")
        assert here.told == ["pause_reading"]
        assert network.opened is not None
        network.opened(far, None)
        granted = b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert here.told == ["pause_reading", granted, "resume_reading"]
        assert far.told == [b"early" + most[1:] + b"!"]
        client.connection_lost(None)
        await made.clients.aclose()

    run(work())
