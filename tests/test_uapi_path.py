"""The UAPI socket's path: how it is taken, watched and left."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from providers.wireguard.uapi_socket import UapiServer
from tests.loops import Runner
from tests.uapi_client import ask
from tests.uapi_device import FakeDevice
from tunnel.errors import TunnelError


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


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
            server._watch._look()  # what any later notification does
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
