"""A tunnel without root: tunneld --userspace as an ordinary user, with curl, against wireguard-go.

Nothing that tunneld makes here is the kernel's: no interface, no route. The control is curl without
the proxy, which cannot reach the server. The hosts are in rootless.py.
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
from collections.abc import Iterator

import dns.message
import dns.query
import dns.rdatatype
import dns.rrset
import pytest

from bench.implementations import eventually
from tests.interop.rootless import (
    FAR,
    FAR6,
    NEAR,
    SOCKS,
    World,
    digest,
    make_world,
    said,
    serving,
    shouting,
    site,
    written,
)
from tests.netns.test_policy_resolver import serving as resolving

pytestmark = pytest.mark.root

FILE = os.urandom(20 << 20)
WHOLE = hashlib.sha256(FILE).digest()
HTTP, FORWARD, EXPOSED, LOCAL, NAMED, SHOUT = 8118, 8080, 81, 8099, 5353, 7777
BY_SOCKS = ("--socks5-hostname", f"127.0.0.1:{SOCKS}")
BY_HTTP = ("--proxy", f"http://127.0.0.1:{HTTP}")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with make_world() as made:
        folder = made.folder / "site"
        folder.mkdir()
        (folder / "file").write_bytes(FILE)
        (folder / "small").write_bytes(b"small")
        site(made.far, FAR, 80, folder)
        site(made.far, FAR6, 80, folder)
        site(made.near, "127.0.0.1", LOCAL, folder)
        yield made


@pytest.fixture(scope="module")
def open_ways(world: World) -> Iterator[World]:
    with world.running(
        "--socks5", f"127.0.0.1:{SOCKS}", "--http-proxy", f"127.0.0.1:{HTTP}",
        "--forward", f"tcp:{FORWARD}={FAR}:80", "--forward", f"udp:{NAMED}={FAR}:53",
        "--expose", f"tcp:{EXPOSED}={LOCAL}", "--expose", f"udp:{EXPOSED}={SHOUT}",
    ):  # fmt: skip
        yield world


def answer(query: dns.message.Message, transport: str) -> list[bytes]:
    """Know `inside.test` and `six.test`, which nobody outside the tunnel does."""
    reply, question = dns.message.make_response(query), query.question[0]
    kind = dns.rdatatype.to_text(question.rdtype)
    address = {"A": FAR, "AAAA": FAR6}.get(kind)
    known = question.name.to_text() in ("inside.test.", "six.test.")
    if known and address and not (kind == "A" and question.name.to_text() == "six.test."):
        reply.answer.append(dns.rrset.from_text(question.name, 1, "IN", kind, address))
    elif not known:
        reply.set_rcode(dns.rcode.NXDOMAIN)
    return [reply.to_wire()]


def test_every_way_in_and_out(open_ways: World) -> None:
    world = open_ways
    with pytest.raises(RuntimeError):
        world.curl(f"http://{FAR}/small", "--max-time", "1")  # the control: not without a proxy
    assert world.curl(f"http://{FAR}/file", *BY_SOCKS) == WHOLE
    assert world.curl(f"http://[{FAR6}]/file", *BY_SOCKS) == WHOLE
    assert world.curl(f"http://{FAR}/file", *BY_HTTP) == WHOLE
    assert world.curl(f"http://[{FAR6}]/file", *BY_HTTP, "--proxytunnel") == WHOLE
    assert world.curl(f"http://127.0.0.1:{FORWARD}/file") == WHOLE
    fetch = ["curl", "--silent", "--fail", f"http://{NEAR}:{EXPOSED}/file"]
    shown = subprocess.run(world.far.command(fetch), capture_output=True, check=True).stdout
    assert shown == FILE
    with pytest.raises(RuntimeError, match=r"97: .*5"):
        world.curl(f"http://{FAR}:99/", *BY_SOCKS)
    assert world.status() == "connected"
    assert world.interface not in world.near.ip("-o link")


def test_uploads(open_ways: World) -> None:
    for address in (FAR, FAR6):
        with serving(open_ways.far, address, digest) as port:
            one = open_ways.connected(address, port)
            with one:
                one.sendall(FILE)
                one.shutdown(socket.SHUT_WR)
                assert one.recv(32, socket.MSG_WAITALL) == WHOLE


def test_names_are_those_of_the_tunnel(open_ways: World) -> None:
    world = open_ways
    with resolving(world.far, answer, FAR) as server:
        for name in ("inside.test", "six.test"):
            for way in (BY_SOCKS, BY_HTTP, (*BY_HTTP, "--proxytunnel")):
                assert world.curl(f"http://{name}/file", *way) == WHOLE
        with pytest.raises(RuntimeError, match=r"97: .*4"):
            world.curl("http://nowhere.test/", *BY_SOCKS)
        assert len(server.questions) < 12, "answers are kept"
        with world.near.entered():
            query = dns.message.make_query("inside.test", "A")
            found = dns.query.udp(query, "127.0.0.1", port=NAMED, timeout=20)
        assert found.answer[0][0].address == FAR


def test_datagrams_come_to_what_is_exposed(open_ways: World) -> None:
    with shouting(open_ways.near, "127.0.0.1", SHOUT):
        assert said(open_ways.far, NEAR, EXPOSED, b"out here") == b"OUT HERE"
        assert said(open_ways.far, "fd77::1", EXPOSED, b"by six") == b"BY SIX"


def test_datagrams_by_socks(open_ways: World) -> None:
    world = open_ways
    control, reply = world.socks("0.0.0.0", 0, command=3)
    place = socket.inet_ntoa(reply[4:8]), int.from_bytes(reply[8:10], "big")
    with world.near.entered():
        near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    near.settimeout(20)
    with control, near, resolving(world.far, answer, FAR):
        with shouting(world.far, FAR, SHOUT), shouting(world.far, FAR6, SHOUT):
            for host, comes_from in ((FAR, FAR), (FAR6, FAR6), ("six.test", FAR6)):
                near.sendto(b"\0\0\0" + written(host, SHOUT) + b"hello", place)
                assert near.recv(99) == b"\0\0\0" + written(comes_from, SHOUT) + b"HELLO"
        ends = f"ss -Huan sport = {place[1]}"
        assert world.near.run(ends).stdout.strip()
        control.close()
        eventually("it ends", lambda: not world.near.run(ends).stdout.strip())


def test_fifty_at_once_while_many_wait_for_the_dead(open_ways: World) -> None:
    world = open_ways
    with world.near.entered():
        waiting = [socket.create_connection(("127.0.0.1", SOCKS)) for _ in range(100)]
    for one in waiting:
        one.sendall(b"\x05\x01\x00\x05\x01\x00" + written("10.77.0.99", 80))
    command = ["curl", "--silent", "--fail", "--max-time", "20", "--parallel", "--parallel-max",
               "50", "--parallel-immediate", *BY_SOCKS]  # fmt: skip
    urls = [f"http://{FAR}/small?{number}" for number in range(50)]
    done = subprocess.run(world.near.command([*command, *urls]), capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"small" * 50)
    for one in waiting:
        assert one.recv(2) == b"\x05\x00"  # and nothing of a reply
        one.close()
