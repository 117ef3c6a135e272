"""A tunnel without root: tunneld --userspace as an ordinary user, with curl, against wireguard-go.

    host 1: tunneld as user 65534, curl ----- host 2: wireguard-go, an HTTP server in the tunnel

Nothing that tunneld makes here is the kernel's: no interface, no route. The control is curl without
the proxy, which cannot reach the server.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.implementations import Daemon, eventually
from tests.interop.hosts import IMPLEMENTATIONS, MTU, PORT, REFERENCE
from tools.netlab import Lab, Namespace

pytestmark = pytest.mark.root

NOBODY = 65534
PROGRAMS = Path(sys.executable).parent
AS_NOBODY = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
FILE = os.urandom(5 << 20)
SOCKS, HTTP, FORWARD, EXPOSED, LOCAL, NAMED = 1080, 8118, 8080, 81, 8099, 5353
CREDENTIALS = "ann:secret"


@dataclass
class World:
    near: Namespace
    far: Namespace
    config: Path
    folder: Path
    interface: str

    def tunneld(self, *options: str) -> subprocess.Popen[str]:
        """Start tunneld as nobody, and return once it is ready."""
        environment = ["env", f"XDG_RUNTIME_DIR={self.folder}"]
        command = [*AS_NOBODY, *environment, str(PROGRAMS / "tunneld"), "--userspace"]
        process = self.near.start(
            [*command, "--config", str(self.config), *options],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stderr
        said = []
        for line in process.stderr:
            said.append(line)
            if "ready;" in line:
                return process
        raise AssertionError("".join(said))

    def curl(self, url: str, *options: str) -> bytes:
        """Fetch, and return the SHA-256 of what came."""
        command = ["curl", "--silent", "--show-error", "--fail", "--max-time", "20", *options, url]
        done = subprocess.run(self.near.command(command), capture_output=True)
        if done.returncode:
            raise RuntimeError(f"{done.returncode}: {done.stderr.decode()}")
        return hashlib.sha256(done.stdout).digest()

    def sent(self) -> int:
        """Return how many UDP datagrams have left the near host."""
        return int(self.near.run("nstat -asz UdpOutDatagrams").stdout.split()[-2])

    def status(self) -> str:
        command = ["env", f"XDG_RUNTIME_DIR={self.folder}", str(PROGRAMS / "tunnelctl"), "status"]
        shown = self.near.run([*AS_NOBODY, *command, "--json"]).stdout
        status: str = json.loads(shown)["status"]
        return status


def http(space: Namespace, address: str, port: int, folder: Path) -> None:
    """Serve a folder, and return once it is served."""
    command = [sys.executable, "-m", "http.server", str(port), "--bind", address, "-d", str(folder)]
    space.start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shown = f"[{address}]" if ":" in address else address
    listening = f"ss -Htln src {shown} and sport = {port}"
    eventually("the HTTP server", lambda: space.run(listening).stdout.strip())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("rootless")
    for parent in [folder, *folder.parents][:3]:
        parent.chmod(0o755)
    os.chown(folder, NOBODY, NOBODY)
    (folder / "site").mkdir()
    (folder / "site" / "file").write_bytes(FILE)
    with Lab() as lab:
        near, far = lab.namespace("near"), lab.namespace("far")
        lab.link(near, "e0", far, "e0")
        for number, space in enumerate((near, far), start=1):
            space.ip(f"addr add 10.99.0.{number}/24 dev e0")
        near.ip("route add default via 10.99.0.2 dev e0")
        near.ip("route add unreachable 10.77.0.0/24")  # the far host would answer outside, too
        name = f"rl{os.getpid()}"
        with Daemon(IMPLEMENTATIONS[REFERENCE], far, f"{name}b") as daemon:
            keys = [daemon.wg("genkey").strip() for _ in range(2)]
            near_public, far_public = (daemon.wg("pubkey", given=key).strip() for key in keys)
            daemon.wg(
                f"set {{interface}} listen-port {PORT} private-key /dev/stdin"
                f" peer {near_public} allowed-ips 10.77.0.1/32,fd77::1/128",
                given=keys[1],
            )
            far.ip(f"link set {name}b mtu {MTU} up")
            far.ip(f"addr add 10.77.0.2/24 dev {name}b")
            far.ip(f"-6 addr add fd77::2/64 dev {name}b nodad")
            config = folder / f"{name}.conf"
            config.touch(0o600)
            config.write_text(
                f"[Interface]\nPrivateKey = {keys[0]}\nAddress = 10.77.0.1/24, fd77::1/64\n"
                f"[Peer]\nPublicKey = {far_public}\nAllowedIPs = 10.77.0.0/24, fd77::/64\n"
                f"Endpoint = 10.99.0.2:{PORT}\n"
            )
            os.chown(config, NOBODY, NOBODY)
            http(far, "10.77.0.2", 80, folder / "site")
            http(far, "fd77::2", 80, folder / "site")
            http(near, "127.0.0.1", LOCAL, folder / "site")
            yield World(near, far, config, folder, name)


@pytest.fixture
def open_ways(world: World) -> Iterator[World]:
    process = world.tunneld(
        "--socks5", f"127.0.0.1:{SOCKS}", "--http-proxy", f"127.0.0.1:{HTTP}",
        "--forward", f"tcp:{FORWARD}=10.77.0.2:80", "--forward", f"udp:{NAMED}=10.77.0.2:{NAMED}",
        "--expose", f"tcp:{EXPOSED}={LOCAL}",
    )  # fmt: skip
    yield world
    process.terminate()
    assert process.wait() == 0


def test_every_way_in_and_out(open_ways: World) -> None:
    world, whole = open_ways, hashlib.sha256(FILE).digest()
    with pytest.raises(RuntimeError):
        world.curl("http://10.77.0.2/file", "--max-time", "1")  # the control: not without a proxy
    socks = ("--socks5-hostname", f"127.0.0.1:{SOCKS}")
    proxy = ("--proxy", f"http://127.0.0.1:{HTTP}")
    assert world.curl("http://10.77.0.2/file", *socks) == whole
    assert world.curl("http://[fd77::2]/file", *socks) == whole
    assert world.curl("http://10.77.0.2/file", *proxy) == whole
    assert world.curl("http://10.77.0.2/file", *proxy, "--proxytunnel") == whole
    assert world.curl(f"http://127.0.0.1:{FORWARD}/file") == whole
    fetch = ["curl", "--silent", "--fail", f"http://10.77.0.1:{EXPOSED}/file"]
    shown = subprocess.run(world.far.command(fetch), capture_output=True, check=True).stdout
    assert shown == FILE
    with pytest.raises(RuntimeError, match=r"97: .*5"):
        world.curl("http://10.77.0.2:99/", *socks)
    assert world.status() == "connected"
    assert world.interface not in world.near.ip("-o link")


def test_credentials_are_asked_for(world: World) -> None:
    file = world.folder / "credentials"
    file.touch(0o600)
    file.write_text(f"{CREDENTIALS}\n")
    os.chown(file, NOBODY, NOBODY)
    options = ("--proxy-credentials", str(file), "--socks5", f"0.0.0.0:{SOCKS}")
    process = world.tunneld(*options, "--http-proxy", f"0.0.0.0:{HTTP}")
    proxies = (f"socks5h://{{}}10.99.0.1:{SOCKS}", f"http://{{}}10.99.0.1:{HTTP}")
    for proxy in proxies:
        good = proxy.format(f"{CREDENTIALS}@")
        assert world.curl("http://10.77.0.2/file", "--proxy", good) == hashlib.sha256(FILE).digest()
        for bad in ("", "ann:wrong@"):
            with pytest.raises(RuntimeError):
                world.curl("http://10.77.0.2/file", "--proxy", proxy.format(bad))
    process.terminate()
    assert process.wait() == 0


@pytest.mark.parametrize("bind", ["if:e0", "if:e9"])
def test_binding_holds_without_root_too(world: World, bind: str) -> None:
    process = world.tunneld("--bind", bind, "--socks5", f"127.0.0.1:{SOCKS}")
    socks = ("--socks5-hostname", f"127.0.0.1:{SOCKS}", "--max-time", "3")
    if bind == "if:e0":
        assert world.curl("http://10.77.0.2/file", *socks) == hashlib.sha256(FILE).digest()
    else:
        before = world.sent()
        with pytest.raises(RuntimeError):
            world.curl("http://10.77.0.2/file", *socks)
        assert world.sent() == before
    process.terminate()
    assert process.wait() == 0
