"""A rootless tunnel that is bound, moved, suspended and reconfigured, and what that does to others.

An established connection through the SOCKS proxy goes on where it can: it is an echo at the far end
that is spoken to before and after. Where it cannot, its client hears so at once. The hosts are in
rootless.py.
"""

from __future__ import annotations

import os
import queue
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.implementations import eventually
from tests.interop.rootless import (
    AS_NOBODY,
    FAR,
    NEAR,
    NOBODY,
    SOCKS,
    World,
    echo,
    make_world,
    serving,
    site,
)

pytestmark = pytest.mark.root

CREDENTIALS = "ann:secret"
PROXY = ("--socks5", f"127.0.0.1:{SOCKS}")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with make_world() as made:
        folder = made.folder / "site"
        folder.mkdir()
        (folder / "small").write_bytes(b"small")
        site(made.far, FAR, 80, folder)
        yield made


@pytest.fixture(scope="module")
def echoing(world: World) -> Iterator[int]:
    with serving(world.far, FAR, echo) as port:
        yield port


def speak(one: socket.socket, word: bytes) -> bytes:
    one.sendall(word)
    return one.recv(len(word), socket.MSG_WAITALL)


# ---- what survives ----


@pytest.mark.parametrize("seconds", [0.0, pytest.param(20.0, marks=pytest.mark.long)])
def test_a_suspend(world: World, echoing: int, seconds: float) -> None:
    with world.running(*PROXY) as tunneld, world.connected(FAR, echoing) as one:
        assert speak(one, b"before") == b"before"
        tunneld.send_signal(signal.SIGSTOP)
        one.sendall(b"meanwhile")  # the kernel keeps it for tunneld
        wait_stopped(tunneld.pid)
        time.sleep(seconds)
        tunneld.send_signal(signal.SIGCONT)
        assert one.recv(9, socket.MSG_WAITALL) == b"meanwhile"
        assert speak(one, b"after") == b"after"


def wait_stopped(pid: int) -> None:
    """Wait until a process has stopped."""

    def stopped() -> bool:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "T"

    eventually("it stops", stopped)


def test_a_restart_of_the_far_end(world: World) -> None:
    there: queue.Queue[socket.socket] = queue.Queue()

    def serve(client: socket.socket) -> None:
        there.put(client)
        echo(client)

    with (
        world.running(*PROXY),
        serving(world.far, FAR, serve) as port,
        world.connected(FAR, port) as one,
    ):
        assert speak(one, b"before") == b"before"
        world.restart_far()
        there.get().sendall(b"news")  # which makes wireguard-go shake hands at once
        assert one.recv(4, socket.MSG_WAITALL) == b"news"
        assert speak(one, b"after") == b"after"


@pytest.mark.long  # WireGuard takes 15 s to doubt a far end that does not answer
def test_a_restart_of_a_far_end_that_says_nothing(world: World, echoing: int) -> None:
    with world.running(*PROXY), world.connected(FAR, echoing) as one:
        assert speak(one, b"before") == b"before"
        world.restart_far()
        one.settimeout(60)
        assert speak(one, b"after") == b"after"
        (shaken,) = world.daemon.wg("show {interface} latest-handshakes").split()[1:]
        assert time.time() - int(shaken) < 4  # the connection's own timer would take 10 s more


def test_a_move_to_another_interface_and_back(world: World, echoing: int) -> None:
    types = ("--classify", "e0=wifi", "--classify", "e1=cellular", "--bind", "wifi,cellular")
    with world.running(*PROXY, *types), world.connected(FAR, echoing) as one:
        try:
            for link, other in (("e0", "e1"), ("e1", "e0")):
                assert speak(one, b"before") == b"before"
                world.near.ip(f"link set {link} down")
                before = world.near.packets(other)
                assert speak(one, b"after") == b"after"
                assert world.near.packets(other) > before
                world.near.ip(f"link set {link} up")
                world.routes()
        finally:
            world.near.ip("link set e0 up")
            world.near.ip("link set e1 up")
            world.routes()


# ---- what cannot ----


def test_the_end_of_the_tunnel_is_told_at_once(world: World, echoing: int) -> None:
    tunneld = world.tunneld(*PROXY)
    with world.connected(FAR, echoing) as one:
        assert speak(one, b"before") == b"before"
        tunneld.terminate()
        with pytest.raises(ConnectionResetError):
            one.recv(1)
    assert tunneld.wait() == 0


def test_an_address_that_is_gone_is_told_at_once(world: World, echoing: int) -> None:
    proxy = f"[proxy]\nsocks5 = '127.0.0.1:{SOCKS}'\n"
    config = world.toml(proxy)
    with world.running(config=config), world.connected(FAR, echoing) as one:
        assert speak(one, b"before") == b"before"
        config.write_text(config.read_text().replace(NEAR, "10.77.0.7"))
        world.tunnelctl("reload")
        with pytest.raises(ConnectionResetError):
            one.recv(1)


# ---- who may, and over what ----


def test_a_port_that_is_taken_ends_it_before_anything_is_sent(world: World) -> None:
    with world.near.entered():
        busy = socket.create_server(("127.0.0.1", SOCKS))
    before = world.sent()
    with busy:
        done = world.near.run(world.command(*PROXY), check=False)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line]
    assert "SOCKS5: cannot listen on 127.0.0.1:1080: Address already in use; choose" in line
    assert world.sent() == before


def test_credentials_are_asked_for(world: World) -> None:
    file = world.folder / "credentials"
    file.touch(0o600)
    file.write_text(f"{CREDENTIALS}\n")
    os.chown(file, NOBODY, NOBODY)
    config = world.toml(
        "[proxy]\ncredentials = 'credentials'\nsocks5 = '0.0.0.0:1080'\nhttp = '0.0.0.0:8118'\n"
    )
    ways = (
        ("socks5h://{}10.99.0.1:1080",),
        ("http://{}10.99.0.1:8118",),
        ("http://{}10.99.0.1:8118", "--proxytunnel"),
    )
    with world.running(config=config):
        for proxy, *more in ways:
            good = proxy.format(f"{CREDENTIALS}@")
            assert world.curl(f"http://{FAR}/small", "--proxy", good, *more)
            for bad in ("", "ann:wrong@"):
                with pytest.raises(RuntimeError):
                    world.curl(f"http://{FAR}/small", "--proxy", proxy.format(bad), *more)


@pytest.mark.parametrize("bind", ["if:e0", "if:e9"])
def test_binding_holds_without_root_too(world: World, bind: str) -> None:
    with world.running("--bind", bind, *PROXY):
        socks = ("--socks5-hostname", f"127.0.0.1:{SOCKS}", "--max-time", "3")
        if bind == "if:e0":
            assert world.curl(f"http://{FAR}/small", *socks)
        else:
            before = world.sent()
            with pytest.raises(RuntimeError):
                world.curl(f"http://{FAR}/small", *socks)
            assert world.sent() == before


# ---- from a program ----


def test_the_program_in_the_readme_that_visits_a_site_as_any_user(world: World) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    (program,) = re.findall(r"```python\n(# visit.py.*?)```", text, re.S)
    script = world.folder / "visit.py"
    script.write_text(program)
    words = [sys.executable, str(script), str(world.config), f"http://{FAR}/small"]
    assert world.near.run([*AS_NOBODY, *words]).stdout == "small\n"
