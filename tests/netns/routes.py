"""What the tests of routes share: running one, its footprint, packets there and back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_interface, ip_network
from pathlib import Path as FilePath

from tests.netns.conftest import FAR, FAR6, TwoNetworks
from tools.netlab import Namespace
from tunnel.bind import OuterSockets
from tunnel.policy.apply import MachineRoutes
from tunnel.policy.binding import BindingPolicy, Term
from tunnel.policy.interface import InterfaceType
from tunnel.policy.monitor import PathMonitor
from tunnel.settings import TunnelSettings

CELLULAR = BindingPolicy((Term(InterfaceType.CELLULAR),))
FULL = TunnelSettings(
    addresses=(ip_interface("10.9.0.2/24"), ip_interface("fd09::2/64")),
    included_routes=(ip_network("0.0.0.0/0"), ip_network("::/0")),
)


def footprint(space: Namespace) -> str:
    """Everything that a tunnel may change, as text."""
    parts = [
        space.ip(command)
        for command in ("-4 rule", "-6 rule", "-4 route show table all", "-6 route show table all",
                        "addr", "link")
    ]  # fmt: skip
    parts.append(space.run("nft list ruleset").stdout)
    parts.append(space.run("sysctl -a --pattern src_valid_mark|rp_filter").stdout)
    return "\n".join(parts)


def run(
    networks: TwoNetworks,
    folder: FilePath,
    work: Callable[[PathMonitor, MachineRoutes], Awaitable[None]],
    policy: BindingPolicy = CELLULAR,
) -> list[str]:
    log: list[str] = []

    async def main() -> None:
        async with PathMonitor(policy, exclude={"tt0"}) as monitor:
            routes = MachineRoutes(log=log.append, run=folder)
            try:
                await work(monitor, routes)
            finally:
                await routes.clear()

    with networks.client.entered():
        asyncio.run(main())
    return log


@contextlib.contextmanager
def answering(space: Namespace, family: int, port: int = 7000) -> Iterator[socket.socket]:
    with space.entered():
        one = socket.socket(family, socket.SOCK_DGRAM)
    with one:
        one.settimeout(2)
        # The far address, not any: an answer from the router's own would pass every check.
        one.bind((FAR if family == socket.AF_INET else FAR6, port))
        yield one


def exchange(outer: OuterSockets, at: socket.socket, far: str) -> bool:
    """Send a packet out and an answer back; False when the answer does not arrive."""
    fd = outer.pairs[0][0 if at.family == socket.AF_INET else 1]
    with socket.socket(fileno=os.dup(fd)) as one:
        one.sendto(b"there", (far, 7000))
        data, sender = at.recvfrom(99)
        assert data == b"there"
        at.sendto(b"back", sender)
        one.settimeout(0.5)
        try:
            return one.recv(99) == b"back"
        except TimeoutError:
            return False
        finally:
            one.setblocking(False)
