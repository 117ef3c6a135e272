"""MachineRoutes: makes the machine agree with what routing.py wants, and takes it all back.

Each call reads the kernel's state whole, plans the difference, carries it out, and reads back. What
is there already is not touched, so a call may be repeated at every change of the network; and it
must be, since the kernel removes routes silently when a link goes down.

Everything blocking runs in one thread of its own. That thread belongs to the network namespace of
the thread that made it.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import TypeVar

from tunnel.errors import MissingFacilityError, PrivilegeError, TunnelError
from tunnel.policy import guard, guardtable, rtencode
from tunnel.policy.connection import Connection, Refusal
from tunnel.policy.difference import Plan, damage, is_our_rule, plan, without
from tunnel.policy.loopguard import loop
from tunnel.policy.numbers import SLOTS, Numbers
from tunnel.policy.path import Path, PathStatus
from tunnel.policy.routing import Desired, desired
from tunnel.policy.rtencode import Request
from tunnel.policy.rtnl import Dump
from tunnel.policy.slot import RUN, Note, Slot
from tunnel.settings import Address, RoutingPolicy, TunnelSettings

ATTEMPTS = 4
"""The network may change between reading and writing; then it is read and planned again."""
_GONE = (errno.ESRCH, errno.ENOENT, errno.ENODEV, errno.EADDRNOTAVAIL)
_THERE = (errno.EEXIST,)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """What `apply` was asked for last."""

    interface: str | None = None
    settings: TunnelSettings = field(default_factory=TunnelSettings)
    path: Path = field(default_factory=lambda: Path(PathStatus.UNSATISFIED, ""))
    policy: RoutingPolicy = field(default_factory=RoutingPolicy)


class MachineRoutes:
    """The routes, rules, addresses, MTU, sysctl and firewall table of one tunnel.

    `name` is the tunnel's: by it the next start knows a closed one's leavings for its own. `log`
    gets lines for people: what was found from a crash, what cannot be done here. `endpoints` tells
    the addresses of the tunnel's peers, for the loop guard.
    """

    def __init__(
        self,
        numbers: Numbers | None = None,
        *,
        name: str = "",
        log: Callable[[str], None] = lambda line: None,
        run: FilePath = RUN,
    ) -> None:
        self.numbers = numbers or Numbers()
        self.in_force = Desired()
        self.endpoints: Callable[[], Iterable[Address]] = lambda: ()
        self._name = name
        self._log = log
        self._run = run
        self._asked = Asked()
        self._slot: Slot | None = None
        self._connection: Connection | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._lock = asyncio.Lock()
        self._listed = ""
        self._rendered: str | None = ""  # None: a crash may have left a table

    async def start(self) -> None:
        """Take a slot and remove what crashed tunnels left. `apply` does it when it is due.

        What this tunnel's own crash left closed stays as it is. Raises PrivilegeError, TunnelError.
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
        what the kernel refused or the loop that this would make.
        """
        async with self._lock:
            await self._in_thread(self._start)
            asked = Asked(interface, settings, path, policy or RoutingPolicy())
            return await self._in_thread(lambda: self._apply(asked))

    def outdated(self, dump: Dump) -> bool:
        """Whether a local network came or went that goes past the tunnel, whatever the path."""
        local = self._asked.policy.exclude_local_networks and self._slot is not None
        return local and self._wanted(self._asked, dump) != self.in_force

    async def renew(self) -> None:
        """Do again what was asked for last, on the machine as it is now. Raises TunnelError."""
        async with self._lock:
            if self._slot is not None:
                await self._in_thread(lambda: self._apply(self._asked))

    async def restore(self) -> list[str]:
        """Put back what others removed of what is in force; return what it was, in words.

        Only routes and rules that would be wanted now as well: others went with the network that
        they were for, and the next `apply` sees to that. Raises TunnelError.
        """
        async with self._lock:
            return [] if self._thread is None else await self._in_thread(self._restore)

    async def restore_guard(self) -> bool:
        """Put the firewall table back if it is not as it was made; whether it was not."""
        async with self._lock:
            return self._thread is not None and await self._in_thread(self._restore_guard)

    async def clear(self, *, keep_closed: bool = False) -> None:
        """Remove all that was made, and give the slot back; safe to call again.

        `keep_closed` leaves the way past a tunnel that includes all networks closed.
        """
        async with self._lock:
            if self._thread is None:
                return
            try:
                await self._in_thread(lambda: self._clear(keep_closed))
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
        dump = self._connection.read()
        standing = {n for n in range(SLOTS) for r in dump.rules if is_our_rule(r, n, self.numbers)}
        self._slot = slot = Slot.take(self._run, self._name, standing)
        note, left = slot.note(), 0
        if note.closed:
            self._log(f"{note.name} was left closed; it stays so until the tunnel is up")
            self._rendered = None
        else:
            left += _clean(self._connection, dump, slot, self.numbers)
        slot.record(replace(slot.note(), name=self._name))
        for number in range(SLOTS):
            if number == slot.number:
                continue
            if (free := Slot.take_if_free(number, self._run)) is not None:
                closed = free.note().closed
                left += 0 if closed else _clean(self._connection, dump, free, self.numbers)
                free.release(keep=closed)
        if left:
            self._log(f"removed {left} routes, rules and tables that a crashed tunneld left")

    def _apply(self, asked: Asked) -> Desired:
        slot, connection = self._held()
        closes = asked.policy.include_all_networks and asked.policy.confirm is None
        if closes and not slot.note().closed:
            slot.record(replace(slot.note(), closed=True))
        wanted = Desired()
        problem: OSError | None = None
        for _ in range(ATTEMPTS):
            dump = connection.read()
            if asked.interface is not None and dump.link(asked.interface) is None:
                raise MissingFacilityError(
                    f"interface {asked.interface} is gone; start the tunnel again"
                )
            wanted = self._wanted(asked, dump)
            self._refuse_loop(wanted, asked.path, dump)
            steps = plan(wanted, dump, slot.number, self.numbers, self.in_force)
            if not steps:
                break
            try:
                _carry_out(connection, steps, wanted.link)
            except OSError as error:
                problem = error
        else:
            raise _explained(problem)
        self._guard(asked.interface, wanted, slot)
        if slot.note().closed and not closes:
            slot.record(replace(slot.note(), closed=False))
        self._asked, self.in_force = asked, wanted
        return wanted

    def _wanted(self, asked: Asked, dump: Dump) -> Desired:
        slot, _ = self._held()
        return desired(
            asked.settings,
            asked.interface,
            asked.path,
            dump,
            slot.number,
            self.numbers,
            asked.policy,
        )

    def _refuse_loop(self, wanted: Desired, path: Path, dump: Dump) -> None:
        slot, _ = self._held()
        others = {note.name: number for number, note in slot.others().items() if note.name}
        rest = without(dump, slot.number, self.numbers)
        if said := loop(wanted, path, rest, self.endpoints(), others, self.numbers):
            raise TunnelError(said)

    def _restore(self) -> list[str]:
        if self._slot is None:
            return []
        _, connection = self._held()
        dump = connection.read()
        missing = damage(self.in_force, dump, self._wanted(self._asked, dump))
        if missing:
            try:
                _carry_out(connection, missing, 0)
            except OSError as error:
                raise _explained(error) from error
        return [str(rule) for rule in missing.add_rules] + [str(r) for r in missing.add_routes]

    def _guard(self, interface: str | None, wanted: Desired, slot: Slot) -> None:
        """Put the firewall table and the sysctl that go with the routes, or remove them."""
        text = ""
        if interface is not None and (wanted.guarded or wanted.enforced):
            text = guard.render(
                slot.number, interface, wanted.guarded, wanted.mark, wanted.enforced
            )
        if text == self._rendered:
            return
        if not text:
            guardtable.remove(slot)
        elif not guardtable.put(slot, text):
            if wanted.enforced:
                raise MissingFacilityError("enforce_routes needs the nft command; install nftables")
            self._log(
                "no nft command: packets for the tunnel's address that come from another link are "
                "not dropped; install nftables"
            )
        self._rendered = text
        self._listed = guardtable.listing(slot) if text else ""

    def _restore_guard(self) -> bool:
        if self._slot is None or not self._rendered or not self._listed:
            return False
        if guardtable.listing(self._slot) == self._listed:
            return False
        guardtable.put(self._slot, self._rendered)
        return True

    def _clear(self, keep_closed: bool) -> None:
        if self._slot is None:
            return
        slot, connection = self._held()
        dump = connection.read()
        keep = keep_closed and slot.note().closed
        wanted = Desired(link=self.in_force.link)
        if keep:
            nowhere = replace(self._asked, interface=None, path=Path(PathStatus.UNSATISFIED, ""))
            wanted = replace(self._wanted(nowhere, dump), link=self.in_force.link)
        steps = plan(wanted, dump, slot.number, self.numbers, self.in_force)
        if keep and not self._asked.policy.include_all_networks:
            steps = Plan()  # closed by the run before this one, which did not get far
        try:
            _carry_out(connection, steps, wanted.link)
            self._guard(None, wanted, slot)
        finally:
            slot.release(keep=keep)
            connection.close()
            self._slot = self._connection = None
            self._asked, self.in_force = Asked(), Desired()

    def _held(self) -> tuple[Slot, Connection]:
        if self._slot is None or self._connection is None:
            raise TunnelError("routes: not started")
        return self._slot, self._connection


def remove_left(
    name: str | None = None, numbers: Numbers | None = None, run: FilePath = RUN
) -> int:
    """Remove what the tunnel of this name (None: any) left when it ended, closed or not.

    Returns how many routes, rules and tables that were. A running tunnel is left alone. Raises
    PrivilegeError, OSError.
    """
    connection, left = Connection(), 0
    try:
        dump = connection.read()
        for number in range(SLOTS):
            if (slot := Slot.take_if_free(number, run)) is not None:
                theirs = name in (None, slot.note().name)
                left += _clean(connection, dump, slot, numbers or Numbers()) if theirs else 0
                slot.release(keep=not theirs and slot.note() != Note())
    finally:
        connection.close()
    return left


def _clean(connection: Connection, dump: Dump, slot: Slot, numbers: Numbers) -> int:
    """Remove whatever a crashed holder of the slot left; return how much it was."""
    steps = plan(Desired(), dump, slot.number, numbers)
    _carry_out(connection, steps, 0)
    left = len(steps.remove_rules) + len(steps.remove_routes)
    if slot.note().src_valid_mark:
        guardtable.remove(slot)
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
