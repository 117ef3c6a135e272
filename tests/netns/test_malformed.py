"""Wrong UAPI requests and configuration files for a running tunneld: it says so and goes on.

Two hosts, tunneld on both; the one from a configuration file is told wrong things while the other
pings it without a pause. Afterwards not a packet is lost and the configuration is what it was.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bench.implementations import SOCKETS
from tests.interop.hosts import TUNNELCTL, Host, connect, eventually, star

pytestmark = pytest.mark.root

#: Begins to replace all peers by one: what follows must undo that, too.
PEER = b"set=1\nreplace_peers=true\npublic_key=" + b"11" * 32 + b"\n"
#: Requests, and the errno that answers each (negative numbers of the cross-platform protocol).
REQUESTS = (
    (b"\n\n", None),
    (b"set=1\nprivate_key=12\n\n", -22),
    (b"set=1\nprivate_key=" + b"zz" * 32 + b"\n\n", -22),
    (b"set=1\nlisten_port=65536\n\n", -22),
    (b"set=1\nlisten_port=-1\n\n", -22),
    (b"set=1\nlisten_port\n\n", -71),
    (b"set=1\nfwmark=0x1ffffffff\n\n", -22),
    (b"set=1\nreplace_peers=false\n\n", -22),
    (b"set=1\nnosuchkey=1\n\n", -22),
    (b"set=1\npublic_key=11\n\n", -22),
    (b"set=1\nendpoint=192.0.2.1:1\n\n", -22),
    (PEER + b"allowed_ip=10.0.0.0/33\n\n", -22),
    (PEER + b"endpoint=nowhere:1\n\n", -22),
    (PEER + b"endpoint=192.0.2.1:0x1\n\n", -22),
    (PEER + b"persistent_keepalive_interval=65536\n\n", -22),
    (PEER + b"protocol_version=2\n\n", -22),
    (PEER + b"\xff\xfe=\x00\n\n", None),
    (b"get=2\n\n", None),
    (b"\x00" * 4096, None),
    (b"set=1\n" + b"a" * 100_000 + b"\n\n", None),
    (PEER, None),  # and hangs up
)

#: What to do to the text of a right file, and what the refusal must name.
EDITS = (
    ("PrivateKey = .*", "PrivateKey = AAAA", "PrivateKey"),
    ("ListenPort = .*", "ListenPort = 70000", "ListenPort"),
    ("ListenPort", "ListenPrt", "ListenPrt"),
    ("AllowedIPs = .*", "AllowedIPs = 10.77.0.0/240", "AllowedIPs"),
    ("Address = .*", "Address = 10.77.0.300/24", "Address"),
    (r"\[Peer\]", "[Pear]", "Pear"),
    ("PublicKey = .*", "PublicKey", "PublicKey"),
    ("PublicKey = .*\n", "", "PublicKey"),
    (r"\[Interface\]", "[Interface", "Interface"),
    ("PrivateKey = .*", "PrivateKey = \x00\x01\x02", ""),
)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host, Path]]:
    """Two hosts; the first one's tunneld has been started again, from a file."""
    with star("tunneld", "tunneld") as (ours, far):
        file = tmp_path / f"{ours.interface}.conf"
        file.write_text(
            f"[Interface]\nPrivateKey = {ours.private}\nListenPort = {ours.port}\n"
            f"Address = {ours.inner}/24, {ours.inner6}/64\nMTU = 1420\n\n"
            f"[Peer]\nPublicKey = {far.public}\nAllowedIPs = {far.inner}/32, {far.inner6}/128\n"
        )
        file.chmod(0o600)
        ours.daemon.stop()
        eventually("the interface goes", lambda: not ours.has_interface())
        command = ("tunneld", "{interface}", "--config", str(file))
        ours.daemon.implementation = replace(ours.daemon.implementation, command=command)
        ours.daemon.start()
        far.add(ours, family=4)
        far.reaches(ours)
        yield ours, far, file


def configuration(host: Host) -> list[str]:
    """Return what wg(8) shows of a host's configuration, and no counters."""
    return [
        host.show("dump").splitlines()[0],
        host.space.run(f"wg showconf {host.interface}").stdout,
    ]


@contextmanager
def undisturbed(ours: Host, far: Host) -> Iterator[None]:
    """Ping through the block, and compare the configuration before and after it."""
    before = configuration(ours)
    session = ours.handshake(far)
    pings = far.space.start(
        ["ping", "-n", "-i", "0.02", ours.inner], stdout=subprocess.PIPE, text=True
    )
    assert pings.stdout is not None
    head = pings.stdout.readline()  # from here on an interrupt makes ping count, not die
    try:
        yield
    finally:
        pings.send_signal(signal.SIGINT)
        answers, _ = pings.communicate(timeout=10)
    assert ours.daemon.process.poll() is None, ours.daemon.output()
    assert configuration(ours) == before
    assert ours.handshake(far) == session, "the session is the same one"
    found = re.search(r"(\d+) packets transmitted, (\d+) received", answers)
    assert found, head + answers[-500:]
    # The last one may be under way when ping is stopped.
    assert int(found[2]) >= max(1, int(found[1]) - 1), found[0]


def request(host: Host, text: bytes) -> bytes:
    """Send a UAPI request, say that there is no more, and return all of the answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(SOCKETS / f"{host.interface}.sock"))
        answer = b""
        try:
            client.sendall(text)
            client.shutdown(socket.SHUT_WR)
            while part := client.recv(65536):
                answer += part
        except (ConnectionResetError, BrokenPipeError):
            pass  # it need not listen to the end of what it refuses
        return answer


def test_uapi(hosts: tuple[Host, Host, Path]) -> None:
    ours, far, _ = hosts
    with undisturbed(ours, far):
        for text, errno in REQUESTS:
            answer = request(ours, text)
            if errno is None:
                assert b"errno=0" not in answer, text[:60]
            else:
                assert answer.endswith(b"errno=%d\n\n" % errno), (text[:60], answer)
        # Half-finished ones of clients that stay.
        with socket.socket(socket.AF_UNIX) as idle:
            idle.connect(str(SOCKETS / f"{ours.interface}.sock"))
            idle.sendall(b"set=1\nreplace_peers=tr")
            assert b"errno=0" in request(ours, b"get=1\n\n")


def test_wg_says_what_is_wrong(hosts: tuple[Host, Host, Path]) -> None:
    ours, far, _ = hosts
    with undisturbed(ours, far):
        with ours.space.entered():
            taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with taken:
            taken.bind(("0.0.0.0", 0))
            port = taken.getsockname()[1]
            done = ours.space.run(f"wg set {ours.interface} listen-port {port}", check=False)
        assert done.returncode
        assert "in use" in done.stderr


@pytest.mark.parametrize("how", ["SIGHUP", "tunnelctl reload"])
def test_files(hosts: tuple[Host, Host, Path], how: str) -> None:
    ours, far, file = hosts
    right = file.read_text()
    with undisturbed(ours, far):
        for pattern, replacement, named in EDITS:
            wrong, count = re.subn(pattern, lambda _, text=replacement: text, right, count=1)  # type: ignore[misc]
            assert count, pattern
            file.write_text(wrong)
            said = refusal(ours, how)
            assert str(file) in said, (pattern, said)
            assert named in said, (pattern, said)
            assert ours.private not in said
        file.unlink()
        assert str(file) in refusal(ours, how)
        file.write_bytes(os.urandom(5000))
        assert str(file) in refusal(ours, how)
        file.write_text(right)
        assert ours.space.run([str(TUNNELCTL), "reload", ours.interface]).returncode == 0


def refusal(ours: Host, how: str) -> str:
    """Have the file read again; return the line that refuses it."""
    if how == "SIGHUP":
        before = len(ours.daemon.output())
        ours.daemon.process.send_signal(signal.SIGHUP)
        eventually("a line in the log", lambda: ours.daemon.output()[before:].endswith("\n"))
        return ours.daemon.output()[before:]
    done = ours.space.run([str(TUNNELCTL), "reload", ours.interface], check=False)
    assert done.returncode == 3, done
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def test_a_right_reload_keeps_the_session(hosts: tuple[Host, Host, Path]) -> None:
    """The control: what is right does get in."""
    ours, far, file = hosts
    session = ours.handshake(far)
    extra = "10.78.0.0/24"
    file.write_text(file.read_text().replace(f"{far.inner}/32,", f"{far.inner}/32, {extra},"))
    ours.daemon.process.send_signal(signal.SIGHUP)
    eventually("the new network", lambda: extra in ours.show("allowed-ips"))
    assert ours.handshake(far) == session
    assert far.pings(ours.inner, 3) == 3
    far.remove(ours)
    connect(far, ours)
    far.reaches(ours)
