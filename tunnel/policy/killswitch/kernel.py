"""The netlink socket that owns the kill switch's tables.

A table with the flags owner and persist (kernel 6.9 and later) can be changed only through the
socket that made it, not even by `nft flush ruleset`, and stays when that socket closes; then it
belongs to nobody, and the next socket takes it. Where the kernel does not know the flags the
tables are plain ones, which stay as well, but which anybody with the privilege may remove; see
switch.py for who puts them back.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tunnel.errors import MissingFacilityError, PrivilegeError, TunnelError
from tunnel.policy.killswitch import encode, found, match, nfnl
from tunnel.policy.killswitch.common import TIMER_CONFIRM, UNCONFIRMED
from tunnel.policy.killswitch.nfnl import Message
from tunnel.policy.killswitch.ruleset import TIMERS, Chain, Hook, Rule, Ruleset, Table

#: A variable that names facilities to do without, with commas: owner, absent, cgroup. For tests.
WITHOUT: Final = "TUNNELD_KILLSWITCH_WITHOUT"

_RECEIVE_BYTES: Final = 1 << 16
_BUFFER_BYTES: Final = 4 << 20
_ANSWER_SECONDS: Final = 5.0
_ATTEMPTS: Final = 5  # the ruleset may change while it is dumped
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_NETLINK_CAP_ACK: Final = 10
_SOL_NETLINK: Final = 270
_FLAG_DUMP_INTR: Final = 0x10
_PROBE: Final = "tunneld-probe"


@dataclass(frozen=True, slots=True)
class Facilities:
    """What this kernel's nf_tables can do, newer than 6.1.

    `owner`: tables owned by a socket that outlive it (6.9). `absent`: chains on devices that are
    not there yet, which hold when the device is made again (6.16). That kernel also takes
    beginnings of names, but the nft of that time and before cannot list such a chain, and loops.
    `cgroup`: a socket's control group (5.13), which is asked for when it is needed.
    """

    owner: bool = False
    absent: bool = False
    cgroup: bool = True

    @property
    def flags(self) -> int:
        """The flags of our tables."""
        return nfnl.TABLE_OWNER | nfnl.TABLE_PERSIST if self.owner else 0

    def without(self, words: str) -> Facilities:
        """Return them less those that are named (see WITHOUT)."""
        missing = {word.strip(): False for word in words.split(",") if word.strip()}
        return replace(self, **missing)


class Tables:
    """One netlink socket, and the tables that it owns. Blocking; an answer takes microseconds.

    `facilities` None: what the kernel has, less what the environment says (WITHOUT). Raises
    PrivilegeError, MissingFacilityError, TunnelError.
    """

    def __init__(self, facilities: Facilities | None = None) -> None:
        try:
            self._socket = _netlink()
        except OSError as error:
            raise _explained(error) from error
        self._sequence = int(time.time()) & 0x3FFFFFFF
        self.port: int = self._socket.getsockname()[0]
        try:
            if facilities is None:
                facilities = self._probed().without(os.environ.get(WITHOUT, ""))
        except BaseException:
            self._socket.close()
            raise
        self.facilities = facilities

    def close(self) -> None:
        """Let go of the tables; they stay as they are."""
        self._socket.close()

    def read(self, name: str) -> list[found.FoundTable]:
        """Return the tables of this name with all that is in them."""
        for _ in range(_ATTEMPTS):
            messages: list[Message] = []
            for kind in (nfnl.GETTABLE, nfnl.GETCHAIN, nfnl.GETRULE):
                messages += self._dump(kind)
            if not any(message.flags & _FLAG_DUMP_INTR for message in messages):
                break
        return found.tables(messages, name)

    def closed(self, name: str) -> bool:
        """Whether tables of this name are there, and wait for no timer that has ended."""
        for table in self.read(name):
            for chain in table.chains.values():
                if any(rule.label == UNCONFIRMED for rule in chain.rules):
                    items = ((1, nfnl.text(name)), (2, nfnl.text(TIMERS)))
                    elements = self._dump(nfnl.GETSETELEM, table.family, items)
                    return TIMER_CONFIRM in found.timers(elements)
            return True
        return False

    def replace(
        self, ruleset: Ruleset, name: str, *, flags: int, counts: encode.Counts | None = None
    ) -> None:
        """Put the ruleset in place of the tables of this name, in one transaction.

        Raises TunnelError; then all is as it was.
        """
        self._commit(
            lambda there: encode.transaction(ruleset, flags=flags, remove=there, counts=counts),
            name,
        )

    def remove(self, name: str) -> None:
        """Remove the tables of this name."""
        self._commit(encode.removal, name)

    def _commit(
        self, steps: Callable[[Iterable[tuple[int, str]]], list[encode.Step]], name: str
    ) -> None:
        problem: OSError | None = None
        for _ in range(_ATTEMPTS):
            there = [(t.family, t.name) for t in found.tables(self._dump(nfnl.GETTABLE), name)]
            try:
                self.transact(steps(there))
                return
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EEXIST, errno.EAGAIN):
                    raise _explained(error) from error
                problem = error  # a device or a table came or went meanwhile
        if problem is not None:
            raise _explained(problem) from problem

    def needs_control_groups(self) -> None:
        """Raise MissingFacilityError where a rule cannot ask for a socket's control group."""
        group = match.control_group(1, 1, "")
        if not (self.facilities.cgroup and self._takes(rule=group)):
            raise MissingFacilityError(
                "the kernel's firewall cannot tell control groups (CONFIG_NFT_SOCKET); open it for "
                "a user instead"
            )

    # ---- netlink ----

    def transact(self, steps: Sequence[encode.Step]) -> None:
        """Carry out a transaction. Raises OSError with what the kernel refused."""
        if not steps:
            return
        for _ in self._queued():
            pass  # what is left of an exchange that failed
        first = self._next(len(steps) + 2)
        data = nfnl.batch(steps, first)
        self._socket.setsockopt(
            socket.SOL_SOCKET, _SO_SNDBUFFORCE, max(_BUFFER_BYTES, 2 * len(data))
        )
        self._socket.send(data)
        acknowledged, refused = False, None
        for message in self._queued():
            if message.kind != nfnl.ERROR:
                continue
            code, about = nfnl.error_of(message.body)
            place = about - first - 1
            if code and refused is None:
                step = steps[place] if 0 <= place < len(steps) else None
                refused = OSError(code, f"{os.strerror(code)}{_about(step)}")
            acknowledged |= not code and place == len(steps) - 1
        if refused is not None:
            raise refused
        if not acknowledged:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def _dump(
        self, kind: int, family: int = nfnl.UNSPEC, items: Sequence[nfnl.Attribute] = ()
    ) -> list[Message]:
        sequence = self._next(1)
        self._socket.send(nfnl.message(kind, sequence, family, items, flags=nfnl.ROOT_AND_MATCH))
        messages = []
        for message in self._answers():
            if message.sequence != sequence:
                continue
            if message.kind == nfnl.DONE:
                break
            if message.kind == nfnl.ERROR:
                code, _ = nfnl.error_of(message.body)
                raise _explained(OSError(code, os.strerror(code)))
            messages.append(message)
        return messages

    def _answers(self) -> Iterator[Message]:
        while True:
            if not select.select([self._socket], [], [], _ANSWER_SECONDS)[0]:
                raise TunnelError("the kill switch: the kernel did not answer; try again")
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except OSError as error:
                raise _explained(error) from error
            yield from nfnl.received(data)

    def _queued(self) -> Iterator[Message]:
        """Yield what the kernel answered to a transaction: it has done so when send() returns."""
        with contextlib.suppress(BlockingIOError):
            while True:
                yield from nfnl.received(self._socket.recv(_RECEIVE_BYTES))

    def _next(self, count: int) -> int:
        first = self._sequence
        self._sequence += count
        return first

    # ---- what this kernel can do ----

    def _probed(self) -> Facilities:
        """Try each facility on a table of its own, inside transactions that are taken back.

        A batch whose last step cannot be done changes nothing; which step was refused tells.
        """
        owner = self._takes(flags=nfnl.TABLE_OWNER | nfnl.TABLE_PERSIST)
        if not self._takes(device="lo"):
            raise MissingFacilityError(
                "the kernel has no egress hook for nf_tables (CONFIG_NETFILTER_EGRESS), without "
                "which packet sockets and bridges would leak; use a kernel that has it"
            )
        return Facilities(
            owner=owner,
            absent=self._takes(device="tunneld-none"),
        )

    def _takes(self, *, flags: int = 0, device: str = "", rule: match.Match | None = None) -> bool:
        family = nfnl.NETDEV if rule is None else nfnl.INET
        chains: tuple[Chain, ...] = ()
        if device:
            chains = (Chain("probe", (), Hook(nfnl.EGRESS, 0, drops=False, devices=(device,))),)
        elif rule is not None:
            some = Rule("probe", (rule,), match.ACCEPTED)
            chains = (Chain("probe", (some,), Hook(nfnl.LOCAL_OUT, 0, drops=False)),)
        name = f"{_PROBE}-{os.getpid()}"
        ruleset = Ruleset("", (Table(family, name, chains),))
        steps = encode.transaction(ruleset, flags=flags, remove=())
        # A chain that is not there cannot be removed: the kernel stops at this step at the latest.
        never = ((1, nfnl.text(name)), (3, nfnl.text("never")))
        steps.append((nfnl.DELCHAIN, family, never, 0))
        try:
            self.transact(steps)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                raise _explained(error) from error
            return "never" in str(error)
        return False


def _netlink() -> socket.socket:
    one = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, nfnl.NETLINK_NETFILTER
    )
    one.bind((0, 0))
    one.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
    with contextlib.suppress(PermissionError):
        one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    one.setblocking(False)
    return one


def _about(step: encode.Step | None) -> str:
    """Say in a few words which step it was."""
    if step is None:
        return ""
    words = {
        nfnl.NEWTABLE: "making a table",
        nfnl.DELTABLE: "removing a table",
        nfnl.NEWCHAIN: "making a chain",
        nfnl.DELCHAIN: "never",
        nfnl.NEWRULE: "making a rule",
        nfnl.NEWSET: "making the timers",
        nfnl.NEWSETELEM: "setting a timer",
    }
    label = next((v for k, v in step[2] if k == 7 and isinstance(v, bytes)), b"")
    what = encode.commented(label) if step[0] == nfnl.NEWRULE else ""
    return f", {words.get(step[0], 'a step')}{f' {what!r}' if what else ''}"


def _explained(error: OSError) -> TunnelError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return PrivilegeError(
            "the kill switch: may not change the firewall's table; run as root, and see whether "
            "another tunneld has it"
        )
    if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
        return MissingFacilityError(
            "the kill switch: the kernel lacks nf_tables or a part of it; load the module nf_tables"
        )
    return TunnelError(f"the kill switch: the kernel refused it: {error.strerror}")
