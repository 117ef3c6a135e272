"""MachineRoutes: makes the machine agree with what routing.py wants, and takes it all back.

Each call reads the kernel's state whole, plans the difference, carries it out, and reads back. What
is there already is not touched, so a call may be repeated at every change of the network; and it
must be, since the kernel removes routes silently when a link goes down.

Everything blocking runs in one thread of its own. That thread belongs to the network namespace of
the thread that made it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path as FilePath
from typing import TypeVar

from tunnel.errors import MissingFacilityError, PrivilegeError, TunnelError
from tunnel.policy import guard, rtencode
from tunnel.policy.connection import Connection, Refusal
from tunnel.policy.difference import Plan, plan
from tunnel.policy.numbers import SLOTS, Numbers
from tunnel.policy.path import Path
from tunnel.policy.routing import Desired, desired
from tunnel.policy.rtencode import Request
from tunnel.policy.slot import RUN, Slot
from tunnel.settings import RoutingPolicy, TunnelSettings

ATTEMPTS = 4
"""The network may change between reading and writing; then it is read and planned again."""
NFT_TIMEOUT = 10.0
_SRC_VALID_MARK = FilePath("/proc/sys/net/ipv4/conf/all/src_valid_mark")
_GONE = (errno.ESRCH, errno.ENOENT, errno.ENODEV, errno.EADDRNOTAVAIL)
_THERE = (errno.EEXIST,)

T = TypeVar("T")


class MachineRoutes:
    """The routes, rules, addresses, MTU, sysctl and firewall table of one tunnel.

    `log` gets lines for people: what was found from a crash, what cannot be done here.
    """

    def __init__(
        self,
        numbers: Numbers | None = None,
        *,
        log: Callable[[str], None] = lambda line: None,
        run: FilePath = RUN,
    ) -> None:
        self.numbers = numbers or Numbers()
        self.in_force = Desired()
        self._log = log
        self._run = run
        self._slot: Slot | None = None
        self._connection: Connection | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._lock = asyncio.Lock()
        self._rendered = ""

    async def start(self) -> None:
        """Take a slot and remove what crashed tunnels left. `apply` does it when it is due.

        Raises PrivilegeError, TunnelError.
        """
        async with self._lock:
            await self._in_thread(self._start)

    async def apply(
        self,
        interface: str | None,
        settings: TunnelSettings,
        path: Path,
        policy: RoutingPolicy | None = None,
    ) -> Desired:
        """Make the machine agree; return what is in force, whose `mark` the outer sockets need.

        `interface` is the tunnel's, None while it is not there: then only the path's own tables
        are made, and under include-all-networks the way past the tunnel is closed. Raises
        MissingFacilityError when it is not there, PrivilegeError, and TunnelError, which names
        what the kernel refused.
        """
        async with self._lock:
            await self._in_thread(self._start)
            policy = policy or RoutingPolicy()
            return await self._in_thread(lambda: self._apply(interface, settings, path, policy))

    async def clear(self) -> None:
        """Remove all that was made, and give the slot back; safe to call again."""
        async with self._lock:
            if self._thread is None:
                return
            try:
                await self._in_thread(self._clear)
            finally:
                self._thread.shutdown(wait=False)
                self._thread = None

    # ---- in the thread ----

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="routes")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _start(self) -> None:
        if self._slot is not None:
            return
        self._connection = Connection()
        self._slot = Slot.take(self._run)
        left = _clean(self._connection, self._slot, self.numbers)
        for number in range(SLOTS):
            if number != self._slot.number and (free := Slot.take_if_free(number, self._run)):
                left += _clean(self._connection, free, self.numbers)
                free.release()
        if left:
            self._log(f"removed {left} routes, rules and tables that a crashed tunneld left")

    def _apply(
        self,
        interface: str | None,
        settings: TunnelSettings,
        path: Path,
        policy: RoutingPolicy,
    ) -> Desired:
        slot, connection = self._held()
        wanted, steps = Desired(), Plan()
        problem: OSError | None = None
        for _ in range(ATTEMPTS):
            dump = connection.read()
            if interface is not None and dump.link(interface) is None:
                raise MissingFacilityError(f"interface {interface} is gone; start the tunnel again")
            wanted = desired(settings, interface, path, dump, slot.number, self.numbers, policy)
            steps = plan(wanted, dump, slot.number, self.numbers, self.in_force)
            if not steps:
                break
            try:
                _carry_out(connection, steps, wanted.link)
            except OSError as error:
                problem = error
        else:
            raise _explained(problem)
        self._guard(interface, wanted, slot)
        self.in_force = wanted
        return wanted

    def _guard(self, interface: str | None, wanted: Desired, slot: Slot) -> None:
        """Put the firewall table and the sysctl that go with a default route, or remove them."""
        text = ""
        if interface is not None and (wanted.guarded or wanted.enforced):
            text = guard.render(
                slot.number, interface, wanted.guarded, wanted.mark, wanted.enforced
            )
        if text == self._rendered:
            return
        if text:
            _claim_src_valid_mark(slot)
        else:
            _restore_src_valid_mark(slot)
        if not _nft(text or guard.removal(slot.number)):
            if wanted.enforced:
                raise MissingFacilityError("enforce_routes needs the nft command; install nftables")
            self._log(
                "no nft command: packets for the tunnel's address that come from another link are "
                "not dropped; install nftables"
            )
        self._rendered = text

    def _clear(self) -> None:
        if self._slot is None:
            return
        slot, connection = self._held()
        dump = connection.read()
        wanted = Desired(link=self.in_force.link)
        steps = plan(wanted, dump, slot.number, self.numbers, self.in_force)
        try:
            _carry_out(connection, steps, wanted.link)
            self._guard(None, wanted, slot)
        finally:
            slot.release()
            connection.close()
            self._slot = self._connection = None
            self.in_force = Desired()

    def _held(self) -> tuple[Slot, Connection]:
        if self._slot is None or self._connection is None:
            raise TunnelError("routes: not started")
        return self._slot, self._connection


def _clean(connection: Connection, slot: Slot, numbers: Numbers) -> int:
    """Remove whatever a crashed holder of the slot left; return how much it was."""
    steps = plan(Desired(), connection.read(), slot.number, numbers)
    _carry_out(connection, steps, 0)
    left = len(steps.remove_rules) + len(steps.remove_routes)
    if slot.note():
        _restore_src_valid_mark(slot)
        _nft(guard.removal(slot.number))
        left += 1
    return left


def _carry_out(connection: Connection, steps: Plan, link: int) -> None:
    """Carry a plan out: what is to be there first, then what is to go. Raises _Refused."""

    def do(requests: list[Request], *fine: int) -> None:
        if refused := connection.change(requests, fine):
            raise _Refused(refused[0])

    if steps.set_mtu or steps.set_up:
        do([rtencode.set_link(link, mtu=steps.set_mtu, up=steps.set_up)])
    do([rtencode.add_address(link, address) for address in steps.add_addresses], *_THERE)
    do([rtencode.replace_route(route) for route in steps.add_routes])
    do([rtencode.add_rule(rule) for rule in steps.add_rules], *_THERE)
    do([rtencode.remove_rule(rule) for rule in steps.remove_rules], *_GONE)
    do([rtencode.remove_route(route) for route in steps.remove_routes], *_GONE)
    do([rtencode.remove_address(link, address) for address in steps.remove_addresses], *_GONE)


class _Refused(OSError):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.error, str(refusal))
        self.refusal = refusal


def _explained(problem: OSError | None) -> TunnelError:
    if problem is None:
        return TunnelError("routes: something undoes our changes; look for another VPN's service")
    if problem.errno == errno.EPERM:
        return PrivilegeError("may not change routes; run as root or with CAP_NET_ADMIN")
    if problem.errno == errno.EACCES:  # the answer to an IPv6 address under disable_ipv6
        return TunnelError(
            "the kernel refused an IPv6 address; remove the IPv6 addresses of the configuration, "
            "or set net.ipv6.conf.default.disable_ipv6=0"
        )
    what = problem.refusal.request.what if isinstance(problem, _Refused) else "a change of routes"
    return TunnelError(f"the kernel refused {what}: {problem.strerror}")


def _nft(text: str) -> bool:
    """Run one nft transaction; False where there is no nft. Raises TunnelError."""
    command = shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin")
    if command is None:
        return False
    done = subprocess.run(
        [command, "-f", "-"], input=text, text=True, capture_output=True, timeout=NFT_TIMEOUT
    )
    if done.returncode:
        raise TunnelError(f"nft refused the tunnel's table: {done.stderr.strip().splitlines()[0]}")
    return True


# src_valid_mark belongs to the whole namespace: whoever needs it first notes the value that was
# there, later ones take over that note, and only the last one to need it restores it.


def _claim_src_valid_mark(slot: Slot) -> None:
    if slot.note():
        return
    with contextlib.suppress(OSError):
        former = next((note for note in slot.others() if note), None)
        slot.record(former or _SRC_VALID_MARK.read_text().strip())
        _SRC_VALID_MARK.write_text("1")


def _restore_src_valid_mark(slot: Slot) -> None:
    former = slot.note()
    slot.record("")
    if former and not any(slot.others()):
        with contextlib.suppress(OSError):
            _SRC_VALID_MARK.write_text(former)
