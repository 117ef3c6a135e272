"""Sessions from outside, out of /proc/net/tcp, and who of them is logged in."""

from __future__ import annotations

import socket
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from tunnel.errors import UsageError
from tunnel.policy.killswitch import sessions
from tunnel.policy.killswitch.sessions import ended_by_closing, here, inbound, parse
from tunnel.settings import Inbound

HEAD = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode"
)


def line(near: str, far: str, state: int, inode: int) -> str:
    return f"   0: {near} {far} {state:02X} 00000000:00000000 00:00000000 00000000 0 0 {inode} 1"


def hexed(address: str, port: int) -> str:
    packed = ip_address(address).packed
    groups = (packed[i : i + 4] for i in range(0, len(packed), 4))
    number = "".join(f"{int.from_bytes(g, sys.byteorder):08X}" for g in groups)
    return f"{number}:{port:04X}"


def table(*rows: tuple[str, int, str, int, int, int]) -> str:
    return "\n".join(
        [HEAD, *(line(hexed(a, p), hexed(b, q), state, inode) for a, p, b, q, state, inode in rows)]
    )


LISTEN = ("0.0.0.0", 22, "0.0.0.0", 0, 10, 1)
LOGIN = ("10.0.0.5", 22, "192.0.2.7", 40000, 1, 2)
OUTGOING = ("10.0.0.5", 50000, "192.0.2.8", 443, 1, 3)
LOCAL = ("127.0.0.1", 22, "127.0.0.1", 40001, 1, 4)


def test_sessions_from_outside_are_those_on_a_port_that_listens() -> None:
    ((session, inode),) = inbound(parse(table(LISTEN, LOGIN, OUTGOING, LOCAL)))
    assert (str(session.far), session.port, inode) == ("192.0.2.7", 22, 2)


def test_ipv6_and_mapped_addresses() -> None:
    six = ("2001:db8::5", 22, "2001:db8::7", 9, 1, 5)
    mapped = ("::ffff:10.0.0.5", 22, "::ffff:192.0.2.7", 8, 1, 6)
    listen = ("::", 22, "::", 0, 10, 7)
    found = [session for session, _ in inbound(parse(table(listen, six, mapped)))]
    assert [str(session.far) for session in found] == ["2001:db8::7", "192.0.2.7"]


@pytest.mark.parametrize("text", ["", HEAD, f"{HEAD}\nnonsense\n 0: zz:1 y x", f"{HEAD}\n0: 1"])
def test_odd_lines_are_left_out(text: str) -> None:
    assert parse(text) == []


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "thread-self/net").mkdir(parents=True)
    return tmp_path


def test_a_login_is_known_by_port_or_by_who_holds_it(proc: Path) -> None:
    odd = ("10.0.0.5", 2222, "192.0.2.7", 40002, 1, 8)
    web = ("10.0.0.5", 80, "192.0.2.7", 40003, 1, 9)
    listens = [("0.0.0.0", port, "0.0.0.0", 0, 10, port) for port in (22, 80, 2222)]
    (proc / "thread-self/net/tcp").write_text(table(*listens, LOGIN, odd, web))
    (proc / "77/fd").mkdir(parents=True)
    (proc / "77/fd/3").symlink_to("socket:[8]")
    (proc / "77/comm").write_text("sshd\n")
    found = {session.port: session.login for session in here("", proc)}
    assert found == {22: True, 2222: True, 80: False}


def test_ssh_connection_counts_where_its_near_end_is_ours(proc: Path) -> None:
    (session,) = here("192.0.2.7 40000 127.0.0.1 2022", proc)
    assert (session.login, session.port) == (True, 2022)
    assert here("192.0.2.7 40000 192.0.2.99 22", proc) == []  # another network namespace's
    assert here("rubbish", proc) == []


def test_closing_refuses_to_end_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    login = sessions.Session(ip_address("10.0.0.5"), 22, ip_address("192.0.2.7"), 4, "sshd", True)
    other = sessions.Session(ip_address("10.0.0.5"), 80, ip_address("192.0.2.7"), 5)
    monkeypatch.setattr(sessions, "here", lambda ssh: [login, other])
    with pytest.raises(UsageError, match=r"--allow-inbound tcp/22@IF .* --confirm SECONDS"):
        ended_by_closing((), "", confirmed_later=False)
    assert ended_by_closing((), "", confirmed_later=True) == [login, other]
    allowed = (Inbound("tcp", 22, "eth0"),)
    assert ended_by_closing(allowed, "", confirmed_later=False) == [other]


def test_a_real_session_is_found() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.2", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.2", port)):
            text = Path("/proc/thread-self/net/tcp").read_text()
    states = {one.state for one in parse(text) if one.port == port}
    assert states == {sessions.ESTABLISHED, sessions.LISTENING}
