"""How connections with the kernel's TCP end: resets in every state, either side; hostile floods."""

from __future__ import annotations

import asyncio
import socket
import struct
from random import Random
from typing import Any

import pytest

from tests.loops import until
from tests.netns.tcp_world import KERNEL, OURS, Side, exchange, run, world
from tools.netlab import Lab
from tunnel.netstack.states import State

pytestmark = pytest.mark.root

LINGER = struct.pack("ii", 1, 0)  # close() resets


async def pair(net: Any, *, calls: bool) -> tuple[Any, Any, socket.socket]:
    """Our streams and the kernel's socket of one connection."""
    loop = asyncio.get_running_loop()
    if calls:
        with socket.create_server((KERNEL, 0)) as server:
            server.setblocking(False)
            streams, (end, _) = await asyncio.gather(
                net.open_connection(KERNEL, server.getsockname()[1]), loop.sock_accept(server)
            )
        return *streams, end
    accepted: asyncio.Future[tuple[Any, Any]] = loop.create_future()

    async def serve(reader: Any, writer: Any) -> None:
        accepted.set_result((reader, writer))

    server = await net.start_server(serve, OURS, 0)
    end = socket.socket()
    end.setblocking(False)
    await loop.sock_connect(end, (OURS, server.addresses[0][1]))
    streams = await accepted
    server.close()
    return *streams, end


async def reach(net: Any, state: State) -> Any:
    """Wait until our only connection is in a state."""
    while True:
        sockets = list(net.stack.tcp.sockets.values())
        if sockets and sockets[0].connection.state is state:
            return sockets[0].connection
        await asyncio.sleep(0.005)


async def gone(net: Any) -> None:
    """Wait until nothing is left."""
    await until(lambda: not net.stack.tcp.sockets)


async def broken(end: socket.socket) -> None:
    """Use the kernel's socket until it says that it was reset (EPIPE once it had our FIN)."""
    while True:
        await asyncio.get_running_loop().sock_recv(end, 100)
        await asyncio.sleep(0.005)
        end.send(b"x")


#: What each side does to bring us there: (we finish, the kernel finishes).
STATES = {
    State.ESTABLISHED: (False, False),
    State.FIN_WAIT_2: (True, False),
    State.CLOSE_WAIT: (False, True),
}


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.value)
@pytest.mark.parametrize("ours", [True, False], ids=["we reset", "the kernel resets"])
@pytest.mark.parametrize("calls", [True, False], ids=["we call", "the kernel calls"])
def test_resets(lab: Lab, state: State, ours: bool, calls: bool) -> None:
    async def main() -> None:
        async with world("ktcp0") as made:
            reader, writer, end = await pair(made.net, calls=calls)
            finish, finished = STATES[state]
            with end:
                if finish:
                    writer.write_eof()
                if finished:
                    end.shutdown(socket.SHUT_WR)
                await reach(made.net, state)
                if ours:
                    writer.transport.abort()
                    with pytest.raises(ConnectionError):
                        await broken(end)
                else:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
                    end.close()
                    if not finished:
                        with pytest.raises(ConnectionResetError):
                            await reader.read()
                await gone(made.net)
                writer.close()

    run(lab.namespace("a"), main, seconds=30)


def test_a_refused_connection(lab: Lab) -> None:
    """A reset in SYN-SENT, theirs and ours."""

    async def main() -> None:
        async with world("ktcp0") as made:
            with pytest.raises(ConnectionRefusedError):
                await made.net.open_connection(KERNEL, 9)
            with socket.socket() as end:
                end.setblocking(False)
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.get_running_loop().sock_connect(end, (OURS, 9))
            await gone(made.net)

    run(lab.namespace("a"), main, seconds=30)


def hostile(random: Random, ports: tuple[int, int]) -> bytes:
    """A TCP packet from the kernel's side with anything in it, often for a real connection."""
    from scapy.layers.inet import IP, TCP

    port = random.choice((ports[0], ports[0], random.randrange(65536)))
    packet = IP(src=KERNEL, dst=OURS) / TCP(
        sport=random.choice((ports[1], random.randrange(65536))),
        dport=port,
        seq=random.randrange(1 << 32),
        ack=random.randrange(1 << 32),
        flags=random.choice((0x02, 0x02, 0x04, 0x04, random.randrange(256))),
        window=random.randrange(65536),
        dataofs=random.choice((None, None, random.randrange(16))),
        options=[(random.choice((1, 2, 3, 4, 5, 8, 30)), random.randbytes(random.choice((0, 4))))],
    )
    return bytes(packet / random.randbytes(random.choice((0, 0, 100))))


def test_floods_beside_an_exchange(lab: Lab) -> None:
    """SYNs, resets and nonsense: every byte of the established connections still arrives."""

    async def main() -> None:
        random = Random(7)
        async with world("ktcp0", loss=0.001) as made:
            shim = made.shim
            assert shim is not None
            server = await made.net.start_server(lambda reader, writer: None, OURS, 0)
            port = server.addresses[0][1]
            packets = [hostile(random, (port, 5)) for _ in range(2000)]

            async def flood() -> None:
                while True:
                    for packet in random.sample(packets, 50):
                        shim._put(shim.stack_fd, packet)
                    await asyncio.sleep(0.002)

            flooding = asyncio.create_task(flood())
            data = random.randbytes(2 << 20)
            async with asyncio.TaskGroup() as group:
                for calls in (True, False):
                    group.create_task(exchange(made.net, Side(data), Side(data), calls=calls))
            flooding.cancel()
            server.close()
            assert len(made.net.stack.tcp.sockets) < 300

    run(lab.namespace("a"), main, seconds=60)
