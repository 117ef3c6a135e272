"""The UAPI socket's clients: served, refused, timed out, and never able to hang the daemon."""

from __future__ import annotations

import asyncio
import errno
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from providers.wireguard.uapi_socket import UapiServer
from tests.loops import Runner
from tests.uapi_client import ask, client
from tests.uapi_device import FakeDevice
from tunnel.errors import TunnelError
from tunnel.secret import Secret

SECRET = bytes([0x48]) * 31 + b"\x41"
PUBLIC = bytes([0x21]) * 32


# -- serving -----------------------------------------------------------------------------------


def test_get_set_and_get_in_one_write(run: Runner, tmp_path: Path) -> None:
    async def scenario() -> None:
        device = FakeDevice()
        async with (
            UapiServer("wg7", device, directory=tmp_path) as server,
            client(server.path) as (reader, writer),
        ):
            writer.write(
                b"get=1\n\n"
                + f"set=1\nprivate_key={SECRET.hex()}\nlisten_port=9\n\n".encode()
                + b"set=1\nlisten_port=x\n\nget=1\n\n"
            )
            writer.write_eof()
            assert (await reader.read()).decode() == (
                "errno=0\n\n"
                "errno=0\n\n"
                "errno=-22\n\n"
                f"private_key={SECRET.hex()}\nlisten_port=9\nerrno=0\n\n"
            )
        assert device.changes == 1

    run(scenario())


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.EADDRINUSE, "in use"), -98),
        (OSError(errno.ENODEV, "gone"), -5),
        (TunnelError("no"), -55),
        (RuntimeError("a bug"), -55),
    ],
)
def test_failures_are_numbers_and_the_server_goes_on(
    run: Runner, tmp_path: Path, error: Exception, number: int
) -> None:
    async def scenario() -> None:
        log: list[str] = []
        device = FakeDevice(error=error)
        async with UapiServer("wg7", device, directory=tmp_path, log=log.append) as server:
            assert await ask(server.path, "set=1\n\n") == f"errno={number}\n\n"
            assert await ask(server.path, "set=1\n\n") == "errno=0\n\n"
        assert len(log) == 1

    run(scenario())


def test_link_local_endpoints_get_their_interfaces_number(run: Runner, tmp_path: Path) -> None:
    async def scenario() -> None:
        device = FakeDevice()
        async with UapiServer("wg7", device, directory=tmp_path) as server:
            text = f"set=1\npublic_key={PUBLIC.hex()}\nendpoint=[fe80::1%{{}}]:5\n\n"
            for scope in ("lo", str(socket.if_nametoindex("lo"))):
                assert await ask(server.path, text.format(scope)) == "errno=0\n\n"
                (peer,) = device.get_snapshot().peers
                number = socket.if_nametoindex("lo")
                assert peer.endpoint == (ip_address(f"fe80::1%{number}"), 5)
            assert await ask(server.path, text.format("no-such-link")) == "errno=-22\n\n"
        assert device.changes == 2

    run(scenario())


def test_keys_of_a_change_are_wiped_once_it_is_done(run: Runner, tmp_path: Path) -> None:
    seen: list[bytearray] = []

    class Keeping(FakeDevice):
        async def configure(self, change: Any) -> None:
            seen.append(change.private_key.reveal())
            assert seen[-1] == SECRET
            await super().configure(change)

    async def scenario() -> None:
        device = Keeping()
        async with UapiServer("wg7", device, directory=tmp_path) as server:
            await ask(server.path, f"set=1\nprivate_key={SECRET.hex()}\n\n")
        assert device.private_key == Secret(SECRET)

    run(scenario())
    assert seen == [bytearray(32)]


def test_changes_are_carried_out_one_at_a_time(run: Runner, tmp_path: Path) -> None:
    class Slow(FakeDevice):
        def __init__(self) -> None:
            super().__init__()
            self.running = self.most = 0
            self.begun, self.release = asyncio.Event(), asyncio.Event()

        async def configure(self, change: Any) -> None:
            self.running += 1
            self.begun.set()
            self.most = max(self.most, self.running)
            await self.release.wait()
            await asyncio.sleep(0)
            self.running -= 1
            await super().configure(change)

    async def scenario() -> None:
        device = Slow()
        async with UapiServer("wg7", device, directory=tmp_path) as server:
            asked = [asyncio.create_task(ask(server.path, "set=1\n\n")) for _ in range(4)]
            await device.begun.wait()
            # A slow change holds up no reader.
            assert await ask(server.path, "get=1\n\n") == "errno=0\n\n"
            device.release.set()
            assert await asyncio.gather(*asked) == ["errno=0\n\n"] * 4
        assert (device.changes, device.most) == (4, 1)

    run(scenario())


# -- bad clients -------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"get=1", b"set=1\nlisten_port=1\n"])
def test_a_silent_client_is_let_go_and_changes_nothing(
    run: Runner, tmp_path: Path, sent: bytes
) -> None:
    async def scenario() -> None:
        device = FakeDevice()
        async with (
            UapiServer("wg7", device, directory=tmp_path, timeout=0.05) as server,
            client(server.path) as (reader, writer),
        ):
            writer.write(sent)
            assert await reader.read() == b"", "closed by the server"
        assert device.changes == 0

    run(scenario())


def test_drops_of_bytes_do_not_buy_time(run: Runner, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            UapiServer("wg7", FakeDevice(), directory=tmp_path, timeout=0.2) as server,
            client(server.path) as (reader, writer),
        ):
            closed = asyncio.create_task(reader.read())
            writer.write(b"set=1\n")
            while not closed.done():
                writer.write(b"fwmark=1\n")
                await asyncio.wait([closed], timeout=0.02)
            assert closed.exception() is not None or closed.result() == b""

    run(scenario())


def test_a_client_that_does_not_read_is_let_go(run: Runner, tmp_path: Path) -> None:
    async def scenario() -> None:
        log: list[str] = []
        server = UapiServer("wg7", FakeDevice(), directory=tmp_path, timeout=0.1, log=log.append)
        async with server:
            with socket.socket(socket.AF_UNIX) as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
                deaf.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(deaf, str(server.path))

                async def flood() -> None:
                    while True:
                        await loop.sock_sendall(deaf, b"get=1\n\n" * 10_000)

                with pytest.raises((BrokenPipeError, ConnectionResetError)):
                    await flood()
            assert await ask(server.path, "get=1\n\n") == "errno=0\n\n"
        assert any("let go" in line for line in log)

    run(scenario())


def test_a_flood_of_clients_waits_its_turn(run: Runner, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            UapiServer("wg7", FakeDevice(), directory=tmp_path, timeout=0.1, clients=2) as server,
        ):
            silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
            for one in silent:
                one.connect(str(server.path))
            for _ in range(100):  # turns of the loop, many more than 20 clients need
                await asyncio.sleep(0)
            assert len(server._tasks) == 3, "the acceptor and two clients"
            assert await ask(server.path, "get=1\n\n") == "errno=0\n\n", "after those before it"
            for one in silent:
                one.close()

    run(scenario())


@pytest.mark.parametrize("sent", [b"nonsense\n", b"x" * 5000, b"\0" * 4096])
def test_what_is_no_request_is_answered_and_ended(run: Runner, tmp_path: Path, sent: bytes) -> None:
    async def scenario() -> None:
        async with (
            UapiServer("wg7", FakeDevice(), directory=tmp_path) as server,
            client(server.path) as (reader, writer),
        ):
            writer.write(sent)
            answer = await reader.read()
            assert answer in (b"errno=-71\n\n", b"errno=-22\n\n")

    run(scenario())


def test_a_client_may_leave_at_any_time(run: Runner, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with UapiServer("wg7", FakeDevice(), directory=tmp_path) as server:
            for sent in (b"", b"g", b"get=1\n\n", b"set=1\n", b"get=1\n\n" * 1000):
                with socket.socket(socket.AF_UNIX) as one:
                    one.connect(str(server.path))
                    one.sendall(sent)
            assert await ask(server.path, "get=1\n\n") == "errno=0\n\n"

    run(scenario())
