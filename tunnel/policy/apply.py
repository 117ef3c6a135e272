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
from socket import AF_INET, AF_INET6
from typing import Any, TypeVar

from tunnel.errors import MissingFacilityError, PrivilegeError, TunnelError
from tunnel.policy import guard
from tunnel.policy.numbers import SLOTS, Numbers
from tunnel.policy.path import Path
from tunnel.policy.routing import Desired, Plan, desired, plan
from tunnel.policy.rtnl import (
    FIB_RULE_INVERT,
    RTN_THROW,
    RTNH_F_ONLINK,
    Connection,
    Route,
    Rule,
)
from tunnel.policy.slot import RUN, Slot
from tunnel.settings import InterfaceAddress, TunnelSettings

ATTEMPTS = 4
"""The network may change between reading and writing; then it is read and planned again."""
NFT_TIMEOUT = 10.0
_FAMILY = {4: AF_INET, 6: AF_INET6}
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

    async def apply(self, interface: str | None, settings: TunnelSettings, path: Path) -> Desired:
        """Make the machine agree; return what is in force, whose `mark` the outer sockets need.

        `interface` is the tunnel's, None while only the path's own tables are wanted. Raises
        MissingFacilityError when it is not there, PrivilegeError, and TunnelError, which names
        what the kernel refused.
        """
        async with self._lock:
            await self._in_thread(self._start)
            return await self._in_thread(lambda: self._apply(interface, settings, path))

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

    def _apply(self, interface: str | None, settings: TunnelSettings, path: Path) -> Desired:
        slot, connection = self._held()
        wanted, steps = Desired(), Plan()
        problem: OSError | None = None
        for _ in range(ATTEMPTS):
            dump = connection.read()
            if interface is not None and dump.link(interface) is None:
                raise MissingFacilityError(f"interface {interface} is gone; start the tunnel again")
            wanted = desired(settings, interface, path, dump, slot.number, self.numbers)
            steps = plan(wanted, dump, slot.number, self.numbers, self.in_force)
            if not steps:
                break
            try:
                _carry_out(connection, steps, wanted.link)
            except OSError as error:
                problem = error
        else:
            raise _explained(steps, problem)
        self._guard(interface, wanted, slot)
        self.in_force = wanted
        return wanted

    def _guard(self, interface: str | None, wanted: Desired, slot: Slot) -> None:
        """Put the firewall table and the sysctl that go with a default route, or remove them."""
        text = ""
        if wanted.guarded and interface is not None:
            text = guard.render(slot.number, interface, wanted.guarded, wanted.mark)
        if text == self._rendered:
            return
        if text:
            _claim_src_valid_mark(slot)
        else:
            _restore_src_valid_mark(slot)
        if not _nft(text or guard.removal(slot.number)):
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
    route = connection.route

    def do(work: Any, *fine: int) -> None:
        try:
            connection.call(_consumed(work))
        except OSError as error:
            if error.errno not in fine:
                raise

    if steps.set_mtu:
        do(route.link("set", index=link, mtu=steps.set_mtu))
    if steps.set_up:
        do(route.link("set", index=link, state="up"))
    for address in steps.add_addresses:
        do(route.addr("add", **_address_words(link, address)), *_THERE)
    for one in steps.add_routes:
        do(route.route("replace", **_route_words(one)))
    for rule in steps.add_rules:
        do(route.rule("add", **_rule_words(rule)), *_THERE)
    for rule in steps.remove_rules:
        do(route.rule("del", **_rule_words(rule)), *_GONE)
    for one in steps.remove_routes:
        do(route.route("del", **_route_words(one)), *_GONE)
    for address in steps.remove_addresses:
        do(route.addr("del", **_address_words(link, address)), *_GONE)


async def _consumed(work: Any) -> None:
    answer = await work
    if hasattr(answer, "__aiter__"):
        async for _ in answer:
            pass


def _address_words(link: int, address: InterfaceAddress) -> dict[str, Any]:
    return {
        "index": link,
        "family": _FAMILY[address.version],
        "address": str(address.ip),
        "prefixlen": address.network.prefixlen,
    }


def _route_words(route: Route) -> dict[str, Any]:
    words: dict[str, Any] = {
        "family": _FAMILY[route.version],
        "dst": str(route.destination),
        "table": route.table,
        "proto": route.protocol,
        "scope": route.scope,
        "priority": route.metric,
    }
    if route.index:
        words["oif"] = route.index
    if route.type == RTN_THROW:
        words["type"] = "throw"
    if route.gateway is not None and route.gateway.version == route.version:
        words["gateway"] = str(route.gateway)
    elif route.gateway is not None:
        words["via"] = {"family": _FAMILY[route.gateway.version], "addr": str(route.gateway)}
    if route.source is not None:
        words["prefsrc"] = str(route.source)
    if route.onlink:
        words["flags"] = RTNH_F_ONLINK
    return words


def _rule_words(rule: Rule) -> dict[str, Any]:
    words: dict[str, Any] = {
        "family": _FAMILY[rule.version],
        "priority": rule.preference,
        "table": rule.table,
        "protocol": rule.protocol,
    }
    if rule.oif is not None:
        words["oifname"] = rule.oif
    if rule.source is not None:
        words |= {"src": str(rule.source.network_address), "src_len": rule.source.prefixlen}
    if rule.mark is not None:
        words |= {"fwmark": rule.mark, "fwmask": 0xFFFFFFFF}
    if rule.invert:
        words["flags"] = FIB_RULE_INVERT
    if rule.suppress_prefixlen is not None:
        words["suppress_prefixlen"] = rule.suppress_prefixlen
    return words


def _explained(steps: Plan, problem: OSError | None) -> TunnelError:
    if problem is None:
        return TunnelError("routes: something undoes our changes; look for another VPN's service")
    if problem.errno == errno.EPERM:
        return PrivilegeError("may not change routes; run as root or with CAP_NET_ADMIN")
    first = next(iter((*steps.add_addresses, *steps.add_routes, *steps.add_rules)), None)
    if problem.errno == errno.EACCES:  # the answer to an IPv6 address under disable_ipv6
        return TunnelError(
            "the kernel refused an IPv6 address; remove the IPv6 addresses of the configuration, "
            "or set net.ipv6.conf.default.disable_ipv6=0"
        )
    return TunnelError(f"the kernel refused {_named(first)}: {problem.strerror}")


def _named(step: InterfaceAddress | Route | Rule | None) -> str:
    if isinstance(step, Route):
        via = f" via {step.gateway}" if step.gateway else ""
        return f"the route {step.destination}{via} in table {step.table}"
    if isinstance(step, Rule):
        return f"the rule of preference {step.preference} (IPv{step.version})"
    return "a change of routes" if step is None else f"the address {step}"


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
