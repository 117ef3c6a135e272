# ruff: noqa: ASYNC110, ASYNC240
"""A guarded resolv.conf, in a folder of the test's own: kept, watched, and given back."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from tunnel.errors import TunnelError
from tunnel.policy.dns import dns_servers
from tunnel.policy.dnsapply import machinedns
from tunnel.policy.dnsapply.guardedfile import GuardedFile
from tunnel.policy.dnsapply.leftover import recover
from tunnel.policy.dnsapply.machinedns import MachineDNS
from tunnel.settings import DNSMethod, DNSSettings

OLD = "# by hand\nnameserver 192.0.2.53\noptions rotate\n"
TWO = DNSSettings(
    servers=(ip_address("fd09::53"), ip_address("10.9.0.53")),
    search=("lan", "corp.example"),
    method=DNSMethod.FILE,
)
OURS = (
    "# Written by tunneld for wg0; what was here comes back when the tunnel stops.\n"
    "nameserver fd09::53\nnameserver 10.9.0.53\nsearch lan corp.example\n"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "resolv.conf").write_text(OLD)
    return folder / "resolv.conf"


def keeper(path: Path, **options: Any) -> MachineDNS:
    run, state = path.parent.parent / "run", path.parent.parent / "state"
    return MachineDNS(path=path, run=run, state=state, **options)


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 20))  # type: ignore[arg-type]


async def until(what: Callable[[], bool]) -> None:
    while not what():
        await asyncio.sleep(0.01)


def names(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir())


def test_the_servers_stand_in_the_configurations_order_and_the_original_comes_back(
    path: Path,
) -> None:
    path.chmod(0o640)
    before = path.stat()

    async def main() -> None:
        dns = keeper(path)
        await dns.apply("wg0", TWO)
        assert path.read_text() == OURS
        assert path.stat().st_mode & 0o777 == 0o644  # every program reads it, whatever our umask
        assert dns.method == str(path)
        await dns.clear()
        await dns.clear()

    former = os.umask(0o077)
    try:
        run(main)
    finally:
        os.umask(former)
    after = path.stat()
    assert path.read_text() == OLD
    assert (after.st_ino, after.st_mode, after.st_mtime) == (
        before.st_ino, before.st_mode, before.st_mtime,
    )  # fmt: skip
    assert names(path) == ["resolv.conf"]
    assert list((path.parent.parent / "run").iterdir()) == []


def test_other_settings_replace_the_text_and_none_give_the_original_back(path: Path) -> None:
    async def main() -> None:
        dns = keeper(path)
        await dns.apply("wg0", TWO)
        await dns.apply("wg0", DNSSettings((ip_address("10.9.0.1"),), method=DNSMethod.FILE))
        assert path.read_text().splitlines()[1:] == ["nameserver 10.9.0.1"]
        await dns.apply("wg0", DNSSettings())
        assert path.read_text() == OLD
        await dns.apply("wg0", TWO)
        assert path.read_text() == OURS
        await dns.clear()
        assert path.read_text() == OLD

    run(main)


def test_a_link_comes_back_as_a_link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")

    async def main() -> None:
        network = ["home"]
        dns = keeper(path, network=network.copy)
        await dns.apply("wg0", TWO)
        assert not path.is_symlink()
        assert path.with_name("real").read_text() == OLD
        network.append("elsewhere")
        path.write_text("nameserver 203.0.113.1\n")
        await until(lambda: path.read_text() == OURS)
        await dns.clear()

    run(main)
    assert path.is_symlink()
    assert path.read_text() == OLD
    assert names(path) == ["real", "resolv.conf"]


def test_where_there_was_none_there_is_none_again(path: Path) -> None:
    path.unlink()

    async def main() -> None:
        dns = keeper(path)
        await dns.apply("wg0", TWO)
        assert path.read_text() == OURS
        await dns.clear()

    run(main)
    assert names(path) == []


def rewritten(path: Path) -> None:
    path.write_text("nameserver 203.0.113.1\n")


def replaced(path: Path) -> None:
    path.with_name("new").write_text("nameserver 203.0.113.1\n")
    path.with_name("new").rename(path)


def linked(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere/else")


@pytest.mark.parametrize("inotify", [True, False], ids=["inotify", "poll"])
@pytest.mark.parametrize("disturb", [rewritten, replaced, linked, Path.unlink])
def test_what_another_program_does_to_the_file_is_undone(
    path: Path, disturb: Callable[[Path], None], inotify: bool
) -> None:
    said: list[str] = []

    async def main() -> None:
        dns = keeper(path, inotify=inotify, log=said.append)
        await dns.apply("wg0", TWO)
        for _ in range(2):
            said.clear()
            disturb(path)
            await until(lambda: path.exists() and path.read_text() == OURS)
            await until(lambda: any("another program changed" in line for line in said))
        await dns.clear()

    run(main)
    assert path.read_text() == OLD
    assert names(path) == ["resolv.conf"]


def test_on_another_network_what_is_written_newly_is_what_comes_back(path: Path) -> None:
    new = "nameserver 203.0.113.1\n"

    async def main() -> None:
        network = ["home"]
        dns = keeper(path, network=network.copy)
        await dns.apply("wg0", TWO)
        network.append("elsewhere")
        path.write_text("")  # no file that could be wanted back
        await until(lambda: path.read_text() == OURS)
        path.write_text(new)
        await until(lambda: path.read_text() == OURS)
        await dns.clear()

    run(main)
    assert path.read_text() == new
    assert names(path) == ["resolv.conf"]


CRASH = """
import asyncio, os, sys
from pathlib import Path
from tests.test_machinedns import TWO, keeper
async def main():
    await keeper(Path(sys.argv[1])).apply("wg0", TWO)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""


def crash(path: Path) -> None:
    subprocess.run([sys.executable, "-c", CRASH, str(path)], check=False)
    assert path.read_text() == OURS


def test_a_crash_leaves_ours_and_the_next_one_to_look_puts_the_original_back(path: Path) -> None:
    def look() -> list[str]:
        said: list[str] = []
        places = path.parent.parent
        recover(said.append, path, run=places / "run", state=places / "state")
        return said

    assert look() == []
    crash(path)
    assert look() == [f"put {path} back as it was before a tunneld that crashed"]
    assert (path.read_text(), look(), names(path)) == (OLD, [], ["resolv.conf"])
    crash(path)
    path.write_text("nameserver 203.0.113.1\n")  # who wrote this knew better by then
    look()
    assert path.read_text() == "nameserver 203.0.113.1\n"
    assert names(path) == ["resolv.conf"]


def test_after_a_crash_the_next_tunnel_keeps_the_true_original(path: Path) -> None:
    async def main() -> None:
        dns = keeper(path)
        await dns.apply("wg0", TWO)
        assert path.read_text() == OURS
        recover(pytest.fail, path, run=path.parent.parent / "run")  # of a living one: nothing
        await dns.clear()

    crash(path)
    crash(path)
    run(main)
    assert path.read_text() == OLD


def test_two_tunnels_cannot_both_have_the_file(path: Path) -> None:
    async def main() -> None:
        first, second = keeper(path), keeper(path)
        other = DNSSettings((ip_address("10.8.0.1"),), method=DNSMethod.FILE)
        await first.apply("wg0", TWO)
        with pytest.raises(TunnelError, match="another tunnel's resolvers are in it"):
            await second.apply("wg1", other)
        await second.clear()
        assert path.read_text() == OURS
        await first.clear()
        await second.apply("wg1", other)
        await second.clear()

    run(main)
    assert path.read_text() == OLD


def test_a_write_that_fails_leaves_the_original_and_is_explained(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async def main() -> None:
        dns = keeper(path)
        monkeypatch.setattr(GuardedFile, "_write", full)
        with pytest.raises(TunnelError, match=r"resolv.conf cannot be written: No space left"):
            await dns.apply("wg0", TWO)
        assert not dns.in_force.servers
        monkeypatch.undo()
        assert (path.read_text(), names(path)) == (OLD, ["resolv.conf"])
        await dns.apply("wg0", TWO)
        await dns.clear()

    run(main)
    assert path.read_text() == OLD


def test_an_interfaces_own_servers_are_still_known_while_ours_are_in_the_file(path: Path) -> None:
    root = path.parent.parent

    async def main() -> None:
        dns = keeper(path)
        await dns.apply("wg0", TWO)
        assert dns_servers("wlan0", 2, root=root) == (ip_address("192.0.2.53"),)
        await dns.clear()

    run(main)
    assert dns_servers("wlan0", 2, root=root) == (ip_address("192.0.2.53"),)


def test_a_file_cannot_split_names_and_that_is_said(path: Path) -> None:
    said: list[str] = []
    split = DNSSettings(TWO.servers, match_domains=("corp.example",), method=DNSMethod.FILE)

    async def main() -> None:
        dns = keeper(path, log=said.append)
        await dns.apply("wg0", split)
        await dns.clear()

    run(main)
    assert "all names go to fd09::53, 10.9.0.53, not only those under corp.example" in said[-1]


def test_what_is_demanded_and_not_there_is_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
    monkeypatch.setattr("tunnel.policy.dnsapply.command._PATH", "/nonexistent")

    async def main() -> None:
        for method in (DNSMethod.RESOLVED, DNSMethod.RESOLVCONF):
            dns = keeper(path)
            with pytest.raises(TunnelError, match="DNS: "):
                await dns.apply("wg0", DNSSettings(TWO.servers, method=method))
            await dns.clear()
        dns = keeper(path)
        await dns.apply("wg0", DNSSettings(TWO.servers))
        assert dns.method == str(path)
        await dns.clear()

    run(main)
    assert path.read_text() == OLD
    assert machinedns.SETTLE_SECONDS < 1
