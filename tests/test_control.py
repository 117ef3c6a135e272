from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.loops import run
from tests.unix_listener import listening
from tunnel.daemon import client, control
from tunnel.daemon.control import ControlServer
from tunnel.daemon.rundir import run_directory
from tunnel.errors import (
    ConfigError,
    MissingFacilityError,
    PrivilegeError,
    TunnelError,
    UsageError,
)


async def status(request: Mapping[str, Any]) -> dict[str, Any]:
    return {"schema": 1, "echo": request.get("x")}


async def refuse(request: Mapping[str, Any]) -> None:
    raise ConfigError("is wrong", where=None, key="MTU", mend="mend it")


async def crash(request: Mapping[str, Any]) -> None:
    raise ZeroDivisionError("an accident")


HANDLERS: dict[str, control.Handler] = {"status": status, "refuse": refuse, "crash": crash}


@asynccontextmanager
async def served(
    directory: Path, handlers: Mapping[str, control.Handler] | None = None
) -> AsyncIterator[ControlServer]:
    server = ControlServer("t0", HANDLERS if handlers is None else handlers, directory=directory)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def ask(directory: Path, request: str, **fields: Any) -> Any:
    return await asyncio.to_thread(client.ask, "t0", request, directory=directory, **fields)


def raw(path: Path, data: bytes) -> bytes:
    """Send bytes as they are and return everything that comes back."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


def test_a_request_gets_its_result(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path):
            assert await ask(tmp_path, "status", x=7) == {"schema": 1, "echo": 7}

    run(main())


def test_the_socket_is_private_and_its_directory_open(tmp_path: Path) -> None:
    async def main() -> None:
        directory = tmp_path / "run"
        former = os.umask(0o077)  # as tunneld sets it
        try:
            async with served(directory) as server:
                assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
                assert stat.S_IMODE(directory.stat().st_mode) == 0o755
                assert os.umask(0o077) == 0o077
        finally:
            os.umask(former)
        assert list(directory.iterdir()) == []

    run(main())


def test_an_unknown_request_names_the_known_ones(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path):
            with pytest.raises(TunnelError, match="known are crash, refuse, status") as caught:
                await ask(tmp_path, "fly")
            assert caught.value.exit_code == 2

    run(main())


def test_errors_carry_their_exit_code(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path):
            with pytest.raises(TunnelError, match="MTU: is wrong; mend it") as caught:
                await ask(tmp_path, "refuse")
            assert caught.value.exit_code == 3
            with pytest.raises(TunnelError, match="an accident") as caught:
                await ask(tmp_path, "crash")
            assert caught.value.exit_code == 1
            assert (await ask(tmp_path, "status"))["schema"] == 1  # it lives on

    run(main())


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"\n", "not JSON"),
        (b"{\n", "not JSON"),
        (b"\xff\xfe\n", "not JSON"),
        (b"[" * 50_000 + b"\n", "not JSON"),
        (b'"status"\n', "unknown request"),
        (b'{"request": ["status"]}\n', "unknown request"),
        (b'{"request": null}\n', "unknown request"),
        (b"x" * (control.REQUEST_BYTES + 10) + b"\n", "at most 65536 bytes"),
    ],
)
def test_malformed_requests_get_one_clear_error(tmp_path: Path, sent: bytes, expected: str) -> None:
    async def main() -> None:
        async with served(tmp_path) as server:
            answer = json.loads(await asyncio.to_thread(raw, server.path, sent))
            assert expected in answer["error"]
            assert len(answer["error"]) < 200
            assert answer["exit_code"] == 2

    run(main())


def test_requests_can_be_pipelined_and_an_unfinished_one_is_dropped(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as server:
            one = b'{"request": "status", "x": 1}\n'
            answers = (await asyncio.to_thread(raw, server.path, one * 3 + b'{"req')).splitlines()
            assert [json.loads(line)["result"]["echo"] for line in answers] == [1, 1, 1]

    run(main())


def test_a_silent_client_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_SECONDS", 0.05)

    async def main() -> None:
        async with served(tmp_path) as server:
            first, _ = await asyncio.open_unix_connection(server.path)
            assert await first.read() == b""

    run(main())


def test_idle_clients_make_way_for_the_next_one_the_longest_silent_first(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as server:
            idle = []
            for _ in range(control.CLIENTS):
                idle.append(await asyncio.open_unix_connection(server.path))
                await speak(*idle[-1])
            await speak(*idle[0])  # so that the second one is the longest silent
            assert (await ask(tmp_path, "status", x=1))["echo"] == 1
            assert await idle[1][0].read() == b""
            for reader, writer in (idle[0], *idle[2:]):
                await speak(reader, writer)

    run(main())


def test_a_client_is_refused_while_all_others_wait_for_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "CLIENTS", 1)

    async def main() -> None:
        begun, answer = asyncio.Event(), asyncio.Event()

        async def slow(request: Mapping[str, Any]) -> str:
            begun.set()
            await answer.wait()
            return "slow"

        async with served(tmp_path, {"slow": slow}) as server:
            asked = asyncio.create_task(ask(tmp_path, "slow"))
            await begun.wait()
            refused, _ = await asyncio.open_unix_connection(server.path)
            assert await refused.read() == b""
            answer.set()
            assert await asked == "slow"

    run(main())


async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'{"request": "status", "x": 3}\n')
    assert json.loads(await reader.readline())["result"]["echo"] == 3


def test_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with served(tmp_path) as server:
            # To the server, its own user is now another; root is let in whatever that is.
            monkeypatch.setattr(control.os, "geteuid", lambda: 54321)
            answer = await asyncio.to_thread(raw, server.path, b'{"request": "status"}\n')
            monkeypatch.undo()
            assert bool(answer) == (os.geteuid() == 0)

    run(main())


def test_a_dead_socket_is_replaced_and_a_living_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "LOCK_PAUSE", 0)

    async def main() -> None:
        dead = tmp_path / "t0.sock"
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(str(dead))
        async with served(tmp_path):
            assert (await ask(tmp_path, "status"))["schema"] == 1
            with pytest.raises(TunnelError, match="runs for t0 already"):
                await ControlServer("t0", HANDLERS, directory=tmp_path).start()
            assert (await ask(tmp_path, "status"))["schema"] == 1

    run(main())


def test_a_server_that_is_on_its_way_down_is_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        first = ControlServer("t0", HANDLERS, directory=tmp_path)
        await first.start()
        second = ControlServer("t0", HANDLERS, directory=tmp_path)
        waiting = asyncio.create_task(second.start())
        await asyncio.sleep(0)
        await first.close()
        await waiting
        assert (await ask(tmp_path, "status"))["schema"] == 1
        await second.close()

    run(main())


def test_what_is_not_a_socket_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("kept")
    path = tmp_path / "t0.sock"
    for put in (lambda: path.symlink_to(target), lambda: path.write_text("kept")):
        put()
        with pytest.raises(TunnelError, match="is not a socket; remove it"):
            run(ControlServer("t0", HANDLERS, directory=tmp_path).start())
        assert path.read_text() == "kept"
        path.unlink()
    assert sorted(tmp_path.iterdir()) == [target]


def test_the_answer_to_the_request_that_ends_the_server_arrives(tmp_path: Path) -> None:
    async def main() -> None:
        ending = asyncio.Event()
        closed = asyncio.Event()

        async def down(request: Mapping[str, Any]) -> str:
            ending.set()
            await asyncio.sleep(0)
            return "done"

        server = ControlServer("t0", {"down": down}, directory=tmp_path)
        await server.start()
        idle, _ = await asyncio.open_unix_connection(server.path)
        asking = asyncio.create_task(ask(tmp_path, "down", until_closed=True))
        await ending.wait()
        await server.close()
        closed.set()
        assert await asking == "done"
        assert await idle.read() == b""

    run(main())


def test_the_client_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingFacilityError, match="no tunneld runs here"):
        client.choose(None, tmp_path)
    with pytest.raises(MissingFacilityError, match="no tunneld runs for t9"):
        client.ask("t9", "status", directory=tmp_path)
    with listening(tmp_path / "a.sock"):
        assert client.choose(None, tmp_path) == "a"
        with (
            listening(tmp_path / "b.sock"),
            pytest.raises(UsageError, match="several tunnels run: a, b; name one"),
        ):
            client.choose(None, tmp_path)
        assert client.choose(None, tmp_path) == "a"
    assert client.choose("c", tmp_path) == "c"


def test_a_daemon_that_says_nothing_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "t0.sock"))
        mute.listen()
        with pytest.raises(TunnelError, match="did not answer within"):
            client.ask("t0", "status", directory=tmp_path, seconds=0.05)


def test_the_client_says_nothing_to_somebody_elses_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "t0.sock"))
        user = os.geteuid()
        if user == 0:  # whose sockets everybody trusts; listen(2) notes the user
            os.seteuid(12345)
        try:
            other.listen()
        finally:
            os.seteuid(user)
        monkeypatch.setattr(os, "geteuid", lambda: 54321)
        with pytest.raises(PrivilegeError, match=r"t0.sock is user \d+'s; remove it"):
            client.ask("t0", "status", directory=tmp_path, seconds=5)
        accepted, _ = other.accept()
        with accepted:
            assert accepted.recv(100) == b""


def test_sockets_of_ordinary_users_are_in_their_own_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run_directory() == Path("/run/user/1000/tunneld")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert run_directory() == Path("/run/tunneld")
