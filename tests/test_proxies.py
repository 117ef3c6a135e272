"""What a file's [proxy] and the command line come to together, and how a reload is followed."""

from __future__ import annotations

import asyncio
import resource
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.loops import Runner
from tests.proxy_world import HOST, LOG, Network, echo, exchange, free_port
from tests.test_service import KEY
from tunnel.config import ProxyConfig
from tunnel.daemon import service
from tunnel.daemon.options import parse
from tunnel.daemon.plan import read_config
from tunnel.daemon.proxies import Proxies
from tunnel.errors import ConfigError, TunnelError, UsageError
from tunnel.places import Place, forward

BASE = f'[interface]\nprivate_key = "{KEY}"\naddresses = "10.0.0.2/24"\n'


def read(folder: Path, text: str, *arguments: str) -> ProxyConfig:
    file = folder / "wg0.toml"
    file.write_text(BASE + text)
    file.chmod(0o600)
    options = parse(["--config", str(file), *arguments])
    assert options is not None
    return read_config(options, need_key=True).proxy


def test_the_command_line_replaces_proxies_and_adds_forwards(tmp_path: Path) -> None:
    text = """
        [proxy]
        socks5 = "127.0.0.1:1080"
        http = "127.0.0.1:8118"
        credentials = "users"
        forward = ["tcp:8080=a:80", "tcp:8081=b:80"]
        """
    said = ["--socks5", "127.0.0.1:9", "--forward", "tcp:8081=c:80", "--forward", "tcp:82=d:80"]
    proxy = read(tmp_path, text, *said)
    assert (proxy.socks5, proxy.http) == (Place(HOST, 9), Place(HOST, 8118))
    assert proxy.credentials == tmp_path / "users"
    assert [f"{one.listen.port} {one.to.host}" for one in proxy.forward] == [
        "8080 a", "8081 c", "82 d"
    ]  # fmt: skip


OPEN = "[proxy]\nsocks5 = '0.0.0.0:1080'"


@pytest.mark.parametrize(
    ("text", "arguments", "kind", "words"),
    [
        ("", ["--socks5", "0.0.0.0:1080"], UsageError,
         "--socks5: 0.0.0.0:1080 is open to the network; give --proxy-credentials FILE, or listen "
         "on 127.0.0.1:1080"),
        ("", ["--http-proxy", "[fd00::1]:80"], UsageError, "--http-proxy: [fd00::1]:80 is open"),
        ("", ["--proxy-credentials", "f"], UsageError, "--proxy-credentials: is for a SOCKS5 or"),
        ("", ["--forward", "tcp:1=a:1", "--forward", "tcp:1=b:1"], UsageError,
         "--forward: tcp 127.0.0.1:1 is listened on twice; leave one of the two out"),
        ("", ["--socks5", "127.0.0.1:1", "--forward", "tcp:1=b:1"], UsageError,
         "--forward: socks5 listens on 127.0.0.1:1 too; choose another port"),
        (OPEN, [], ConfigError, "wg0.toml: socks5: 0.0.0.0:1080 is open to the network; add cred"),
        ("[proxy]\ncredentials = 'f'", [], ConfigError, "wg0.toml: credentials: is for a SOCKS5"),
        ("[proxy]\nexpose = ['udp:1=1', 'udp:1=2']", [], ConfigError,
         "wg0.toml: expose: udp port 1 is listened on twice"),
        ("[proxy]\nsocks5 = '[::1]:1'\nhttp = '[::1]:1'", [], ConfigError,
         "wg0.toml: http: socks5 listens on [::1]:1 too"),
        ("[routing]\ninclude_all_networks = true", ["--userspace"], ConfigError,
         "wg0.toml: include_all_networks: is about a firewall, which --userspace does not make; "),
        ("[routing]\nenforce_routes = true", ["--userspace"], ConfigError, "enforce_routes: is ab"),
    ],
)  # fmt: skip
def test_what_is_refused(
    tmp_path: Path, text: str, arguments: list[str], kind: type[TunnelError], words: str
) -> None:
    with pytest.raises(kind) as caught:
        read(tmp_path, text, *arguments)
    assert words in str(caught.value)


def test_credentials_of_the_command_line_serve_a_proxy_of_the_file(tmp_path: Path) -> None:
    proxy = read(tmp_path, OPEN, "--proxy-credentials", "users")
    assert (proxy.socks5, proxy.credentials) == (Place("0.0.0.0", 1080), Path("users"))


def test_check_shows_what_would_be_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    users = tmp_path / "users"
    users.write_text("ann:secret\n")
    users.chmod(0o600)
    file = tmp_path / "wg0.toml"
    file.write_text(f"{BASE}{OPEN}\ncredentials = 'users'\nexpose = 'tcp:80=8080'\n")
    file.chmod(0o600)
    arguments = ["--config", str(file), "--userspace", "--check", "--forward", "udp:53=ns.lan:53"]
    assert service.run(arguments) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"SOCKS5: on 0.0.0.0:1080, for those in {users}",
        "forward: udp 127.0.0.1:53 to ns.lan:53, through the tunnel",
        "expose: tcp port 80 of the tunnel's addresses to 127.0.0.1:8080",
    ]
    users.chmod(0o644)
    assert service.run(arguments) == 3
    assert f"{users}: other users may read the credentials; chmod 600" in capsys.readouterr().err


async def reached(port: int) -> bytes | None:
    try:
        return await exchange(await asyncio.open_connection(HOST, port), b"through")
    except OSError:
        return None


def test_a_reload_closes_and_opens_and_leaves_the_rest(run: Runner) -> None:
    async def work() -> None:
        network: Any = Network()
        async with echo() as port:
            ports = [free_port() for _ in range(3)]
            first, second, third = (forward(f"tcp:{one}=echo.test:{port}") for one in ports)
            proxies = Proxies(ProxyConfig(forward=(first, second)), LOG)
            await proxies.start(network)
            kept = await asyncio.open_connection(HOST, ports[1])
            await proxies.follow(ProxyConfig(forward=(second, third)), network)
            assert [await reached(one) for one in ports] == [None, b"through", b"through"]
            assert await exchange(kept, b"still") == b"still"
            with pytest.raises(TunnelError, match=f"cannot listen on 127.0.0.1:{port}: "):
                await proxies.follow(ProxyConfig(socks5=Place(HOST, port)), network)
            await proxies.aclose()
            assert [await reached(one) for one in ports] == [None] * 3

    run(work())


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("at", "words", "code"),
    [
        ("127.0.0.1:{}", "Address already in use; choose another port, or end the program", 1),
        ("192.0.2.77:{}", "it is no address of this machine; choose one that is", 5),
    ],
)
def test_a_port_that_cannot_be_had_is_told_before_there_is_a_tunnel(
    protocol: str, at: str, words: str, code: int, run: Runner
) -> None:
    async def work() -> None:
        with socket.socket(
            type=socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        ) as busy:
            busy.bind((HOST, 0))
            if protocol == "tcp":
                busy.listen()
            place = at.format(busy.getsockname()[1])
            other = forward(f"{protocol}:{free_port()}=10.0.0.1:53")
            way = forward(f"{protocol}:{place}=10.0.0.1:53")
            proxies = Proxies(ProxyConfig(forward=(other, way)), LOG)
            with pytest.raises(TunnelError, match=f"cannot listen on {place}: .*{words}") as caught:
                await proxies.take_ports()
            assert caught.value.exit_code == code
            await proxies.aclose()
            with socket.socket() as again:
                again.bind((HOST, other.listen.port))  # nothing is kept

    run(work())


def test_who_comes_before_the_tunnel_is_up_waits(run: Runner) -> None:
    async def work() -> None:
        network: Any = Network()
        async with echo() as port:
            way = forward(f"tcp:localhost:{free_port()}=echo.test:{port}")
            proxies, rival = (Proxies(ProxyConfig(forward=(way,)), LOG) for _ in range(2))
            await proxies.take_ports()
            with pytest.raises(TunnelError, match="Address already in use"):
                await rival.take_ports()
            early = asyncio.create_task(reached(way.listen.port))
            await proxies.start(network)
            assert await early == b"through"
            await proxies.aclose()
            assert await reached(way.listen.port) is None

    run(work())


def test_where_few_files_may_be_open_udp_has_few_flows(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (64, 64))

    async def work() -> None:
        network: Any = Network()
        proxies = Proxies(ProxyConfig(forward=(forward(f"udp:{free_port()}=10.0.0.1:53"),)), LOG)
        await proxies.start(network)
        (way,) = proxies._open.values()
        assert way._most <= 64 // 3
        await proxies.aclose()

    run(work())


def test_a_reload_that_fails_costs_no_connection(run: Runner) -> None:
    async def work() -> None:
        network: Any = Network()
        async with echo() as port:
            ports = [free_port(), free_port()]
            first, second = (forward(f"tcp:{one}=echo.test:{port}") for one in ports)
            old = ProxyConfig(forward=(first,))
            proxies = Proxies(old, LOG)
            await proxies.start(network)
            kept = await asyncio.open_connection(HOST, ports[0])
            wrong = ProxyConfig(socks5=Place(HOST, port), forward=(second,))
            with pytest.raises(TunnelError, match=f"cannot listen on 127.0.0.1:{port}: "):
                await proxies.follow(wrong, network)
            await proxies.follow(old, network)  # as tunneld does then
            assert await exchange(kept, b"still") == b"still"
            for text in (
                f"{ports[0]}=echo.test:{ports[1]}",
                f"0.0.0.0:{ports[0]}=echo.test:{port}",
            ):
                await proxies.follow(ProxyConfig(forward=(forward(f"tcp:{text}"),)), network)
            assert await reached(ports[0]) == b"through"  # at the same port, every time another way
            await proxies.aclose()

    run(work())
