"""The UAPI socket: taking its path, serving clients good and bad, leaving nothing behind."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from providers.wireguard.uapi_socket import UapiServer
from tests.uapi_device import FakeDevice
from tunnel.errors import TunnelError
from tunnel.secret import Secret

Runner = Callable[[Coroutine[Any, Any, Any]], Any]
PATIENCE = 30  # seconds until a test that hangs is failed
SECRET = bytes([0x48]) * 31 + b"\x41"
PUBLIC = bytes([0x21]) * 32


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    def runner(work: Coroutine[Any, Any, Any]) -> Any:
        return request.param(asyncio.wait_for(work, PATIENCE))

    return runner


@asynccontextmanager
async def client(path: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        yield reader, writer
    finally:
        writer.close()


async def ask(path: Path, text: str) -> str:
    async with client(path) as (reader, writer):
        writer.write(text.encode())
        return (await reader.readuntil(b"\n\n")).decode()


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


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


# -- the path ----------------------------------------------------------------------------------


def test_modes_and_an_end_that_leaves_nothing(run: Runner, tmp_path: Path) -> None:
    directory = tmp_path / "run" / "wireguard"

    async def scenario() -> None:
        before = os.umask(0)
        try:
            async with UapiServer("wg7", FakeDevice(), directory=directory) as server:
                assert stat.S_IMODE(directory.stat().st_mode) == 0o755
                mode = server.path.stat().st_mode
                assert stat.S_ISSOCK(mode)
                assert stat.S_IMODE(mode) == 0o600
                assert names(directory) == ["wg7.sock"]
        finally:
            assert os.umask(before) == 0, "the umask is as it was"

    run(scenario())
    assert names(directory) == []


def test_a_dead_socket_is_replaced(run: Runner, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "wg7.sock"))

    async def scenario() -> None:
        async with UapiServer("wg7", FakeDevice(), directory=tmp_path) as server:
            assert await ask(server.path, "get=1\n\n") == "errno=0\n\n"

    run(scenario())
    assert names(tmp_path) == []


def test_a_live_one_is_refused_and_left_alone(run: Runner, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with UapiServer("wg7", FakeDevice(listen_port=1), directory=tmp_path) as first:
            second = UapiServer("wg7", FakeDevice(listen_port=2), directory=tmp_path)
            with pytest.raises(TunnelError, match="another WireGuard runs as wg7 already"):
                await second.start()
            await second.close()
            assert await ask(first.path, "get=1\n\n") == "listen_port=1\nerrno=0\n\n"

    run(scenario())


def test_one_whose_queue_is_full_is_alive(run: Runner, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(tmp_path / "wg7.sock"))
        busy.listen(0)
        waiting.connect(str(tmp_path / "wg7.sock"))

        with pytest.raises(TunnelError, match="another WireGuard runs as wg7 already"):
            run(UapiServer("wg7", FakeDevice(), directory=tmp_path).start())


def test_a_symbolic_link_is_not_followed(run: Runner, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("kept")
    (tmp_path / "wg7.sock").symlink_to(target)
    with pytest.raises(TunnelError, match="is a symbolic link, which is not followed; remove it"):
        run(UapiServer("wg7", FakeDevice(), directory=tmp_path).start())
    assert target.read_text() == "kept"
    assert (tmp_path / "wg7.sock").is_symlink()


def test_a_file_in_the_way_is_kept(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "wg7.sock").write_text("kept")
    with pytest.raises(TunnelError, match="is in the way and is no socket; remove it"):
        run(UapiServer("wg7", FakeDevice(), directory=tmp_path).start())
    assert (tmp_path / "wg7.sock").read_text() == "kept"


def test_a_folder_that_others_may_write_is_refused(run: Runner, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(TunnelError, match="other users may write there; give it to root"):
        run(UapiServer("wg7", FakeDevice(), directory=tmp_path).start())


def test_a_path_too_long_for_a_socket(run: Runner, tmp_path: Path) -> None:
    with pytest.raises(TunnelError, match="path too long"):
        run(UapiServer("wg7", FakeDevice(), directory=tmp_path / ("d" * 120)).start())


@pytest.mark.parametrize("inotify", [True, False])
@pytest.mark.parametrize("how", ["unlink", "rename", "replace", "folder"])
def test_its_removal_is_told_once(run: Runner, tmp_path: Path, how: str, inotify: bool) -> None:
    directory = tmp_path / "wireguard"

    async def scenario() -> None:
        removed = asyncio.Event()
        calls: list[None] = []

        def on_removed() -> None:
            calls.append(None)
            removed.set()

        server = UapiServer(
            "wg7", FakeDevice(), directory=directory, on_removed=on_removed, inotify=inotify
        )
        async with server:
            match how:
                case "unlink":
                    server.path.unlink()
                case "rename":
                    server.path.rename(directory / "other")
                case "replace":
                    (directory / "new").write_text("somebody else's")
                    (directory / "new").replace(server.path)
                case "folder":
                    directory.rename(tmp_path / "elsewhere")
            await removed.wait()
        assert len(calls) == 1
        if how == "replace":
            assert server.path.read_text() == "somebody else's", "not ours to remove"

    run(scenario())


def test_its_own_end_and_other_files_are_no_removal(run: Runner, tmp_path: Path) -> None:
    async def scenario() -> None:
        calls: list[None] = []
        server = UapiServer(
            "wg7", FakeDevice(), directory=tmp_path, on_removed=lambda: calls.append(None)
        )
        async with server:
            other = UapiServer("wg8", FakeDevice(), directory=tmp_path)
            async with other:
                assert await ask(server.path, "get=1\n\n") == "errno=0\n\n"
            # Everything inotify had to say about wg8 has been read before this is answered.
            assert await ask(server.path, "get=1\n\n") == "errno=0\n\n"
        await server.close()
        assert calls == []

    run(scenario())
