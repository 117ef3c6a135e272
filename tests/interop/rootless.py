"""A tunnel without root against wireguard-go: hosts, programs, and clients that speak by hand.

near: tunneld as user 65534, its clients      far: wireguard-go, and servers in the tunnel
      e0 10.99.0.1 ------------------------------ e0 10.99.0.2
      e1 10.98.0.1 ------------------------------ e1 10.98.0.2     (10.99.0.2 behind both)
      tunnel 10.77.0.1, fd77::1                   tunnel 10.77.0.2, fd77::2
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from bench.implementations import Daemon, eventually
from tests.interop.hosts import IMPLEMENTATIONS, MTU, PORT, REFERENCE
from tools.netlab import Lab, Namespace

NOBODY = 65534
PROGRAMS = Path(sys.executable).parent
AS_NOBODY = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
OUTER, NEAR, FAR, FAR6 = "10.99.0.2", "10.77.0.1", "10.77.0.2", "fd77::2"
LINKS = {"e0": "10.99.0", "e1": "10.98.0"}
SOCKS = 1080
PATIENCE = 30.0
SITE = """
import functools, http.server, socket, sys
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
    request_queue_size = 128
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
Server((sys.argv[1], int(sys.argv[2])),
       functools.partial(Handler, directory=sys.argv[3])).serve_forever()
"""


@dataclass
class World:
    near: Namespace
    far: Namespace
    daemon: Daemon
    config: Path
    folder: Path
    interface: str
    keys: tuple[str, str]  # the far end's private key, the near end's public one

    # ---- tunneld ----

    def command(self, *options: str, config: Path | None = None) -> list[str]:
        """Return what runs tunneld as nobody."""
        environment = ["env", f"XDG_RUNTIME_DIR={self.folder}"]
        command = [*AS_NOBODY, *environment, str(PROGRAMS / "tunneld"), "--userspace"]
        return [*command, "--config", str(config or self.config), *options]

    def tunneld(self, *options: str, config: Path | None = None) -> subprocess.Popen[str]:
        """Start tunneld as nobody, and return once it is ready."""
        process = self.near.start(
            self.command(*options, config=config),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stderr
        said = []
        for line in process.stderr:
            said.append(line)
            if "ready; `tunnelctl" in line:
                return process
        raise AssertionError("".join(said))

    @contextlib.contextmanager
    def running(self, *options: str, config: Path | None = None) -> Iterator[subprocess.Popen[str]]:
        """Run tunneld for a while; it must end well."""
        process = self.tunneld(*options, config=config)
        try:
            yield process
        finally:
            process.terminate()
            code = process.wait()
        assert code == 0

    def tunnelctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run tunnelctl as nobody."""
        command = ["env", f"XDG_RUNTIME_DIR={self.folder}", str(PROGRAMS / "tunnelctl")]
        return self.near.run([*AS_NOBODY, *command, *words])

    def status(self) -> str:
        status: str = json.loads(self.tunnelctl("status", "--json").stdout)["status"]
        return status

    def sent(self) -> int:
        """Return how many UDP datagrams have left the near host."""
        return int(self.near.run("nstat -asz UdpOutDatagrams").stdout.split()[-2])

    def toml(self, more: str) -> Path:
        """Return the configuration as a .toml file, with more in it."""
        lines = self.config.read_text().splitlines()
        said = dict(line.split(" = ", 1) for line in lines if " = " in line)
        file = self.folder / f"{self.interface}.toml"
        file.touch(0o600)
        file.write_text(
            f'[interface]\nprivate_key = "{said["PrivateKey"]}"\n'
            f'addresses = "{said["Address"]}"\n'
            f'[[peer]]\npublic_key = "{said["PublicKey"]}"\nendpoint = "{said["Endpoint"]}"\n'
            f'allowed_ips = "{said["AllowedIPs"]}"\n{more}'
        )
        os.chown(file, NOBODY, NOBODY)
        return file

    # ---- the far end ----

    def configure(self, endpoint: str = "") -> None:
        """Give wireguard-go its key and peer, and the tunnel its addresses."""
        private, public = self.keys
        where = f"endpoint {endpoint}" if endpoint else ""
        self.daemon.wg(
            f"set {{interface}} listen-port {PORT} private-key /dev/stdin"
            f" peer {public} allowed-ips {NEAR}/32,fd77::1/128 {where}",
            given=private,
        )
        self.far.ip(f"link set {self.interface}b mtu {MTU} up")
        self.far.ip(f"addr replace {FAR}/24 dev {self.interface}b")
        self.far.ip(f"-6 addr replace {FAR6}/64 dev {self.interface}b nodad")

    def restart_far(self) -> None:
        """Kill wireguard-go and start another with the same key, which knows the near end."""
        (endpoint,) = self.daemon.wg("show {interface} endpoints").split()[1:]
        self.daemon.kill()
        gone = f"ip link show {self.interface}b"
        eventually("its interface goes", lambda: self.far.run(gone, check=False).returncode)
        self.daemon.start()
        self.configure(endpoint)

    def routes(self) -> None:
        """Make the near end's default routes, which the kernel drops with their link."""
        for metric, (link, network) in enumerate(LINKS.items(), start=1):
            self.near.ip(f"route replace default via {network}.2 dev {link} metric {metric}")

    # ---- clients ----

    def curl(self, url: str, *options: str) -> bytes:
        """Fetch, and return the SHA-256 of what came."""
        command = ["curl", "--silent", "--show-error", "--fail", "--max-time", "20", *options, url]
        done = subprocess.run(self.near.command(command), capture_output=True)
        if done.returncode:
            raise RuntimeError(f"{done.returncode}: {done.stderr.decode()}")
        return hashlib.sha256(done.stdout).digest()

    def socks(self, host: str, port: int, *, command: int = 1) -> tuple[socket.socket, bytes]:
        """Connect by SOCKS5; return the socket and the reply, whose second byte tells."""
        with self.near.entered():
            one = socket.create_connection(("127.0.0.1", SOCKS), timeout=PATIENCE)
        one.sendall(b"\x05\x01\x00" + bytes([5, command, 0]) + written(host, port))
        assert one.recv(2, socket.MSG_WAITALL) == b"\x05\x00"
        reply = one.recv(4, socket.MSG_WAITALL)
        rest = {1: 6, 4: 18}[reply[3]] if len(reply) == 4 else 0
        return one, reply + one.recv(rest, socket.MSG_WAITALL)

    def connected(self, host: str, port: int) -> socket.socket:
        """Return a connection by SOCKS5 that stands."""
        one, reply = self.socks(host, port)
        assert reply[1] == 0, reply
        return one


def written(host: str, port: int) -> bytes:
    """Return a place as SOCKS5 has it."""
    try:
        packed = ip_address(host).packed
        where = (b"\x01" if len(packed) == 4 else b"\x04") + packed
    except ValueError:
        where = b"\x03" + bytes([len(host)]) + host.encode()
    return where + struct.pack("!H", port)


def site(space: Namespace, address: str, port: int, folder: Path) -> None:
    """Serve a folder by HTTP, and return once it is served."""
    command = [sys.executable, "-c", SITE, address, str(port), str(folder)]
    space.start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shown = f"[{address}]" if ":" in address else address
    listening = f"ss -Htln src {shown} and sport = {port}"
    eventually("the HTTP server", lambda: space.run(listening).stdout.strip())


@contextlib.contextmanager
def serving(
    space: Namespace, address: str, serve: Callable[[socket.socket], None]
) -> Iterator[int]:
    """Serve TCP clients of a namespace, a thread each; yields the port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with space.entered():
        listener = socket.create_server((address, 0), family=family)

    def one(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            serve(client)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def echo(client: socket.socket) -> None:
    """Send everything back at once."""
    while data := client.recv(1 << 16):
        client.sendall(data)


def digest(client: socket.socket) -> None:
    """Answer all that comes with its SHA-256."""
    whole = hashlib.sha256()
    while data := client.recv(1 << 16):
        whole.update(data)
    client.sendall(whole.digest())


@contextlib.contextmanager
def shouting(space: Namespace, address: str, port: int) -> Iterator[None]:
    """Answer UDP datagrams in capitals."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with space.entered():
        server = socket.socket(family, socket.SOCK_DGRAM)
        server.bind((address, port))
    over = threading.Event()

    def answer() -> None:
        while not over.is_set():
            data, place = server.recvfrom(1 << 16)
            server.sendto(data.upper(), place)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        over.set()
        with space.entered(), socket.socket(family, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (address, port))
        thread.join()
        server.close()


def said(space: Namespace, address: str, port: int, data: bytes) -> bytes:
    """Send one datagram and return what comes back."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with space.entered():
        one = socket.socket(family, socket.SOCK_DGRAM)
    with one:
        one.settimeout(PATIENCE)
        one.sendto(data, (address, port))
        return one.recv(1 << 16)


@contextlib.contextmanager
def make_world() -> Iterator[World]:
    """Make the hosts, wireguard-go, and the near end's configuration in a folder of its user's."""
    with tempfile.TemporaryDirectory(prefix="rootless-") as name, Lab() as lab:
        folder = Path(name)  # pytest's own folders are closed to others
        os.chown(folder, NOBODY, NOBODY)
        near, far = lab.namespace("near"), lab.namespace("far")
        for link, network in LINKS.items():
            lab.link(near, link, far, link)
            for number, space in enumerate((near, far), start=1):
                space.ip(f"addr add {network}.{number}/24 dev {link}")
        near.ip("route add unreachable 10.77.0.0/24")  # the far host would answer outside, too
        name = f"rl{os.getpid()}"
        with Daemon(IMPLEMENTATIONS[REFERENCE], far, f"{name}b") as daemon:
            keys = [daemon.wg("genkey").strip() for _ in range(2)]
            near_public, far_public = (daemon.wg("pubkey", given=key).strip() for key in keys)
            config = folder / f"{name}.conf"
            config.touch(0o600)
            config.write_text(
                f"[Interface]\nPrivateKey = {keys[0]}\nAddress = {NEAR}/24, fd77::1/64\n"
                f"DNS = {FAR}\n"
                f"[Peer]\nPublicKey = {far_public}\nAllowedIPs = 10.77.0.0/24, fd77::/64\n"
                f"Endpoint = {OUTER}:{PORT}\n"
            )
            os.chown(config, NOBODY, NOBODY)
            world = World(near, far, daemon, config, folder, name, (keys[1], near_public))
            world.routes()
            world.configure()
            yield world
