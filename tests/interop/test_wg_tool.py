"""The real wg(8) against the UAPI server, and as an oracle for the reader of its file format.

wg finds a user-space device by its socket in /var/run/wireguard alone, so no interface is needed.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from providers.wireguard.change import DeviceChange, DeviceSnapshot, PeerSnapshot
from providers.wireguard.device import Device
from providers.wireguard.uapi_socket import DIRECTORY, UapiServer
from tests.uapi_device import FakeDevice
from tunnel import saveconfig, wgquick
from tunnel.config import Config
from tunnel.engine import Engine
from tunnel.errors import ConfigError
from tunnel.secret import Secret

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for /var/run/wireguard"),
    pytest.mark.skipif(shutil.which("wg") is None, reason="needs wg (wireguard-tools)"),
]

_serial = itertools.count()
SECRET = Secret(bytes([0x48]) * 31 + b"\x41")
PRESHARED = Secret(bytes([0x51]) * 32)
PUBLIC, OTHER = bytes([0x21]) * 32, bytes([0x22]) * 32
P, O = (base64.b64encode(raw).decode() for raw in (PUBLIC, OTHER))  # noqa: E741
CONF = f"""
[Interface]
PrivateKey = {SECRET.base64()}
ListenPort = 51820
FwMark = 0xca6c

[Peer]
PublicKey = {P}
PresharedKey = {PRESHARED.base64()}
AllowedIPs = 10.0.0.0/8, 2001:db8::/32
Endpoint = 192.0.2.1:51820
PersistentKeepalive = 25

[Peer]
PublicKey = {O}
AllowedIPs = 192.0.2.128/25
Endpoint = [2001:db8::1]:1
"""


class RealDevice:
    """The provider's device over a native engine that has no links and no sockets.

    Port and mark, which are the sockets' and not the device's, are only noted.
    """

    def __init__(self) -> None:
        self.engine = Engine()
        self.device = Device(self.engine, wall=time.time_ns)
        self.listen_port = self.fwmark = 0

    def get_snapshot(self) -> DeviceSnapshot:
        known = self.device.snapshot()
        return replace(known, listen_port=self.listen_port, fwmark=self.fwmark)

    async def configure(self, change: DeviceChange) -> None:
        self.device.configure(change, self.engine.now())
        if change.listen_port is not None:
            self.listen_port = change.listen_port
        if change.fwmark is not None:
            self.fwmark = change.fwmark

    def close(self) -> None:
        self.device.close()
        self.engine.close()


AnyDevice = FakeDevice | RealDevice


@pytest.fixture(params=[FakeDevice, RealDevice])
def make(request: pytest.FixtureRequest) -> Callable[[], AnyDevice]:
    maker: Callable[[], AnyDevice] = request.param
    return maker


@dataclass(frozen=True)
class Wg:
    """wg, run against one interface's server."""

    interface: str
    device: AnyDevice
    folder: Path

    def peer(self, public_key: bytes) -> PeerSnapshot:
        (found,) = (p for p in self.device.get_snapshot().peers if p.public_key == public_key)
        return found

    def allowed(self, public_key: bytes) -> set[str]:
        return set(map(str, self.peer(public_key).allowed_ips))

    async def run(self, *words: str, file: str | None = None) -> tuple[int, str]:
        """Run wg; a word '@' stands for the interface and FILE for a file with that content."""
        path = self.folder / "input"
        path.write_text(file or "")
        names = {"@": self.interface, "FILE": str(path)}
        process = await asyncio.create_subprocess_exec(
            "wg",
            *(names.get(word, word) for word in words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "WG_HIDE_KEYS": "never", "WG_COLOR_MODE": "never"},
        )
        output, _ = await asyncio.wait_for(process.communicate(), 30)
        return process.returncode or 0, output.decode()

    async def __call__(self, *words: str, file: str | None = None) -> str:
        code, output = await self.run(*words, file=file)
        assert code == 0, output
        return output


@asynccontextmanager
async def serving(folder: Path, make: Callable[[], AnyDevice] = FakeDevice) -> AsyncIterator[Wg]:
    device = make()
    name = f"t{os.getpid()}u{next(_serial)}"
    try:
        async with UapiServer(name, device):
            yield Wg(name, device, folder)
    finally:
        if isinstance(device, RealDevice):
            device.close()


def device_as_config(device: AnyDevice) -> list[object]:
    snapshot = device.get_snapshot()
    peers = [
        (p.public_key, p.preshared_key or None, p.endpoint and (str(p.endpoint[0]), p.endpoint[1]),
         frozenset(p.allowed_ips), p.persistent_keepalive)
        for p in snapshot.peers
    ]  # fmt: skip
    return [snapshot.private_key, snapshot.listen_port, snapshot.fwmark, peers]


def config_as_device(config: Config) -> list[object]:
    """Return what a device would be after this configuration; a network has one owner."""
    owned = {network: peer for peer in config.peers for network in peer.allowed_ips}
    peers = [
        (p.public_key, p.preshared_key, p.endpoint and (p.endpoint.host, p.endpoint.port),
         frozenset(n for n in p.allowed_ips if owned[n] is p), p.persistent_keepalive)
        for p in config.peers
    ]  # fmt: skip
    interface = config.interface
    return [interface.private_key, interface.listen_port, interface.fwmark, peers]


def test_show_of_an_empty_device(tmp_path: Path, make: Callable[[], AnyDevice]) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, make) as wg:
            assert await wg("show", "@") == f"interface: {wg.interface}\n"
            assert wg.interface in (await wg("show", "interfaces")).split()
            assert await wg("showconf", "@") == "[Interface]\n\n"

    asyncio.run(scenario())


def test_the_socket_is_gone_with_the_server(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as wg:
            assert (DIRECTORY / f"{wg.interface}.sock").is_socket()
        code, output = await wg.run("show", "@")
        assert code == 1
        assert "Unable to access interface" in output
        assert not (DIRECTORY / f"{wg.interface}.sock").exists()

    asyncio.run(scenario())


def test_set_piece_by_piece(tmp_path: Path, make: Callable[[], AnyDevice]) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, make) as wg:
            device = wg.device
            await wg("set", "@", "private-key", "FILE", file=SECRET.base64())
            await wg("set", "@", "listen-port", "7", "fwmark", "0x10")
            assert device_as_config(device) == [SECRET, 7, 16, []]
            await wg("set", "@", "peer", P, "preshared-key", "FILE", file=PRESHARED.base64())
            await wg("set", "@", "peer", P, "endpoint", "[fe80::1%lo]:5", "allowed-ips", "::/0")
            await wg("set", "@", "peer", O, "persistent-keepalive", "9", "allowed-ips", "::1,::/0")
            assert wg.peer(PUBLIC).preshared_key == PRESHARED
            assert (await wg("show", "@", "endpoints")).splitlines() == [
                f"{P}\t[fe80::1%lo]:5",
                f"{O}\t(none)",
            ]
            assert wg.allowed(PUBLIC) == set(), "::/0 has moved to the newest claimant"
            assert wg.allowed(OTHER) == {"::1/128", "::/0"}
            await wg("set", "@", "peer", O, "allowed-ips", "", "persistent-keepalive", "off")
            assert wg.allowed(OTHER) == set()
            assert wg.peer(OTHER).persistent_keepalive == 0
            await wg("set", "@", "peer", P, "remove")
            await wg("set", "@", "fwmark", "off", "private-key", "/dev/null")
            nothing = (OTHER, None, None, frozenset(), 0)
            assert device_as_config(device) == [None, 7, 0, [nothing]]

    asyncio.run(scenario())


def test_dump_shows_every_value(tmp_path: Path, make: Callable[[], AnyDevice]) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, make) as wg:
            await wg("setconf", "@", "FILE", file=CONF)
            public = (await wg("show", "@", "public-key")).strip()
            assert (await wg("show", "@", "dump")).splitlines() == [
                f"{SECRET.base64()}\t{public}\t51820\t0xca6c",
                f"{P}\t{PRESHARED.base64()}\t192.0.2.1:51820\t10.0.0.0/8,2001:db8::/32\t0\t0\t0\t25",
                f"{O}\t(none)\t[2001:db8::1]:1\t192.0.2.128/25\t0\t0\t0\toff",
            ]
            assert "preshared key: " + PRESHARED.base64() in await wg("show", "@")

    asyncio.run(scenario())


def test_setconf_showconf_addconf_and_syncconf(
    tmp_path: Path, make: Callable[[], AnyDevice]
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, make) as wg:
            await wg("setconf", "@", "FILE", file=CONF)
            shown = await wg("showconf", "@")
            expected = config_as_device(wgquick.parse(CONF, Path("c.conf")))
            assert device_as_config(wg.device) == expected
            assert config_as_device(wgquick.parse(shown, Path("c.conf"))) == expected

            more = f"[Peer]\nPublicKey = {O}\nAllowedIPs = 10.0.0.0/8\n"
            await wg("addconf", "@", "FILE", file=more)
            assert wg.allowed(OTHER) == {"10.0.0.0/8"}
            assert wg.allowed(PUBLIC) == {"2001:db8::/32"}

            await wg("syncconf", "@", "FILE", file=CONF)
            assert device_as_config(wg.device) == expected
            await wg("setconf", "@", "FILE", file=f"[Interface]\nPrivateKey = {SECRET.base64()}\n")
            assert device_as_config(wg.device) == [SECRET, 0, 0, []]

    asyncio.run(scenario())


def test_failures_reach_the_user_in_words(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as wg:
            assert isinstance(wg.device, FakeDevice)
            wg.device.error = OSError(98, "in use")
            code, output = await wg.run("set", "@", "listen-port", "1")
            assert (code, output) == (1, "Unable to modify interface: Address already in use\n")
            wg.device.error = OSError(5, "broken")
            code, output = await wg.run("set", "@", "listen-port", "1")
            assert (code, output) == (1, "Unable to modify interface: Input/output error\n")
            assert wg.device.listen_port == 0

    asyncio.run(scenario())


def test_thousands_of_peers_in_one_request(tmp_path: Path, make: Callable[[], AnyDevice]) -> None:
    keys = [base64.b64encode(i.to_bytes(32, "big")).decode() for i in range(1, 3001)]
    text = "\n".join(
        f"[Peer]\nPublicKey={key}\nAllowedIPs=10.{i >> 8}.{i & 255}.0/24,fd00:{i:x}::/64"
        for i, key in enumerate(keys)
    )

    async def scenario() -> None:
        async with serving(tmp_path, make) as wg:
            await wg("setconf", "@", "FILE", file=f"[Interface]\n{text}")
            assert (await wg("show", "@", "peers")).split() == keys

    asyncio.run(scenario())


# -- wg as the oracle of the reader ------------------------------------------------------------

# Not here, since we are stricter: ListenPort = 65536 (wg takes it for 0), and names of services.
LINES = {
    "[Interface]": [
        "ListenPort = 0", "ListenPort = 65535", "listenport=7", "ListenPort = x-1",
        "ListenPort =", "FwMark = off", "FwMark = 0xFFFFFFFF", "FwMark = 4294967296", "FwMark = 0x",
        "FwMark = -1", f"PrivateKey = {SECRET.base64()}", f"private key={SECRET.base64()} # c",
        "PrivateKey = short", f"PrivateKey = {'A' * 42}B=", f"PrivateKey = {'A' * 42}==",
        "# comment", "", "Nonsense = 1", "AllowedIPs = ::/0", "ListenPort",
    ],
    "[Peer]": [
        "AllowedIPs = 10.0.0.0/8", "AllowedIPs = 10.1.2.3/8, ::1", "AllowedIPs = 10.0.0.0/33",
        "AllowedIPs = ::/129", "AllowedIPs = 10.0.0.0/8,", "AllowedIPs = 10.0.0.0/", "AllowedIPs=a",
        "AllowedIPs = 010.0.0.0/8", "AllowedIPs = 10.0.0/8", "AllowedIPs = fe80::1%lo/64",
        "AllowedIPs = ::ffff:10.0.0.1/128", "AllowedIPs = 0.0.0.0/0 , : : / 0",
        "AllowedIPs = 192.0.2.1/+8", "AllowedIPs = 10.0.0.0/0008",
        "Endpoint = 192.0.2.1:5", "Endpoint = [2001:db8::1]:65535", "Endpoint = [192.0.2.1]:5",
        "Endpoint = 192.0.2.1", "Endpoint = [::1]", "Endpoint = [::1:5", "Endpoint =",
        "Endpoint = 192.0.2.1:65536", "PersistentKeepalive = off", "PersistentKeepalive = 65535",
        "PersistentKeepalive = 65536", "PersistentKeepalive = -1", "persistentkeepalive=2 5",
        f"PresharedKey = {PRESHARED.base64()}", f"PresharedKey = {'A' * 43}=", "PresharedKey = x",
        f"PublicKey = {O}", "# c", "ListenPort = 1", "Table = off",
    ],
}  # fmt: skip
SECTIONS = st.sampled_from(list(LINES)).flatmap(
    lambda name: st.tuples(
        st.just(name),
        st.sampled_from([P, O, None] if name == "[Peer]" else [None]),
        st.lists(st.sampled_from(LINES[name]), max_size=3),
    )
)


def render(sections: list[tuple[str, str | None, list[str]]]) -> str:
    lines = []
    for name, key, body in sections:
        lines += [name, *([f"PublicKey = {key}"] if key else []), *body]
    return "\n".join(lines)


def agree(text: str, folder: Path) -> None:
    """wg and our reader take the same files for the same thing, and refuse the same."""

    async def scenario() -> None:
        async with serving(folder) as wg:
            code, output = await wg.run("setconf", "@", "FILE", file=text)
            try:
                ours = config_as_device(wgquick.parse(text, Path("c.conf")))
            except ConfigError as error:
                ours, output = None, str(error)
            assert (ours is None) == (code != 0), f"one of the two refuses: {output}"
            assert ours is None or ours == device_as_config(wg.device)

    asyncio.run(scenario())


@pytest.mark.parametrize("line", LINES["[Interface]"])
def test_wg_agrees_on_interface_lines(line: str, tmp_path: Path) -> None:
    agree(f"[Interface]\n{line}", tmp_path)


@pytest.mark.parametrize("line", LINES["[Peer]"])
def test_wg_agrees_on_peer_lines(line: str, tmp_path: Path) -> None:
    agree(f"[Peer]\nPublicKey={P}\n{line}", tmp_path)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sections=st.lists(SECTIONS, max_size=4))
def test_wg_agrees_on_whole_files(
    sections: list[tuple[str, str | None, list[str]]], tmp_path: Path
) -> None:
    agree(render(sections), tmp_path)


def test_wg_takes_what_save_config_writes(tmp_path: Path) -> None:
    config = wgquick.parse(CONF, Path("c.conf"))
    agree(saveconfig.render(config), tmp_path)
