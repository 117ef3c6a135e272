"""Sessions from outside that closing would cut, and whether the person at work has one of them.

Linux lists TCP sockets in /proc/net/tcp and tcp6. A session came from outside when its local port
is one that this machine listens on. It is a remote login when sshd holds it, when its port is
ssh's, or when SSH_CONNECTION names it; that variable alone is enough, where its near end is an
address of this network namespace (sudo removes the variable, hence the other two).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from struct import pack
from typing import Final

from tunnel.errors import UsageError
from tunnel.settings import Address, Inbound

ESTABLISHED, LISTENING = 1, 10
SSH_PORT: Final = 22
_LOGIN_PROGRAMS: Final = frozenset({"sshd", "sshd-session", "dropbear"})


@dataclass(frozen=True, slots=True)
class Session:
    """A TCP session from outside; `program` holds it, "" where that is unknown."""

    near: Address
    port: int
    far: Address
    far_port: int
    program: str = ""
    login: bool = False

    def __str__(self) -> str:
        by = f" ({self.program})" if self.program else ""
        return f"{self.far} to {self.near} port {self.port}{by}"


@dataclass(frozen=True, slots=True)
class Socket:
    """A line of /proc/net/tcp."""

    near: Address
    port: int
    far: Address
    far_port: int
    state: int
    inode: int


def parse(text: str) -> list[Socket]:
    """Return the sockets of /proc/net/tcp or tcp6 (proc_pid_net(5)); odd lines are left out."""
    found = []
    for line in text.splitlines()[1:]:
        words = line.split()
        with contextlib.suppress(IndexError, ValueError):
            near, port = _address(words[1])
            far, far_port = _address(words[2])
            found.append(Socket(near, port, far, far_port, int(words[3], 16), int(words[9])))
    return found


def inbound(sockets: Sequence[Socket]) -> list[tuple[Session, int]]:
    """Return the established sessions from outside, each with its socket's inode."""
    listening = {one.port for one in sockets if one.state == LISTENING}
    return [
        (Session(one.near, one.port, one.far, one.far_port), one.inode)
        for one in sockets
        if one.state == ESTABLISHED
        and one.port in listening
        and not one.far.is_loopback
        and one.far != one.near
    ]


def spared(session: Session, allowed: Iterable[Inbound]) -> bool:
    """Whether --allow-inbound lets the session go on; which interface it is on is not looked at."""
    return any(one.protocol == "tcp" and one.port == session.port for one in allowed)


def here(ssh_connection: str, proc: Path = Path("/proc")) -> list[Session]:
    """Return this network namespace's sessions from outside, remote logins first."""
    sockets: list[Socket] = []
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            sockets += parse((proc / "thread-self/net" / name).read_text())
    found = inbound(sockets)
    programs = _programs({inode for _, inode in found}, proc) if found else {}
    named = _named(ssh_connection)
    sessions = []
    for session, inode in found:
        program = programs.get(inode, "")
        login = program in _LOGIN_PROGRAMS or session.port == SSH_PORT
        same = named is not None and (session.far, session.far_port) == (named.far, named.far_port)
        sessions.append(replace(session, program=program, login=login or same))
    if named is not None and _is_ours(named.near) and not any(s.login for s in sessions):
        sessions.append(named)
    return sorted(sessions, key=lambda session: (not session.login, str(session)))


def ended_by_closing(
    allowed: Sequence[Inbound], ssh_connection: str, *, confirmed_later: bool
) -> list[Session]:
    """Return the sessions from outside that closing would end, for the user to see.

    Raises UsageError where one of them is a remote login that could then not undo it.
    """
    cut = [session for session in here(ssh_connection) if not spared(session, allowed)]
    login = next((session for session in cut if session.login), None)
    if login is not None and not confirmed_later:
        raise UsageError(
            f"closing the kill switch would end the remote login {login}; add --allow-inbound "
            f"tcp/{login.port}@IF for it, or --confirm SECONDS, after which everything opens again "
            "unless `tunnelctl killswitch confirm` could be given"
        )
    return cut


def _named(ssh_connection: str) -> Session | None:
    """Parse SSH_CONNECTION: client address, client port, server address, server port (ssh(1))."""
    words = ssh_connection.split()
    try:
        far, near = ip_address(words[0].split("%")[0]), ip_address(words[2].split("%")[0])
        return Session(near, int(words[3]), far, int(words[1]), "ssh", login=True)
    except (IndexError, ValueError):
        return None


def _is_ours(address: Address) -> bool:
    """Whether an address belongs to this namespace: only then can a socket be bound to it."""
    import socket

    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        try:
            one.bind((str(address), 0))
        except OSError:
            return address.is_link_local  # these cannot be bound without their interface
    return True


def _address(word: str) -> tuple[Address, int]:
    host, _, port = word.partition(":")
    groups = [int(host[i : i + 8], 16) for i in range(0, len(host), 8)]
    address = ip_address(b"".join(pack("=I", group) for group in groups))
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped, int(port, 16)
    return address, int(port, 16)


def _programs(inodes: set[int], proc: Path) -> dict[int, str]:
    """Return the names of the programs that hold these sockets, as far as we may look."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes if inode}
    found: dict[int, str] = {}
    for process in proc.iterdir():
        if not process.name.isdigit() or len(found) == len(wanted):
            continue
        with contextlib.suppress(OSError):
            for fd in (process / "fd").iterdir():
                inode = wanted.get(str(fd.readlink()))
                if inode is not None:
                    found[inode] = (process / "comm").read_text().strip()
    return found
