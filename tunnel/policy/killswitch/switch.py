"""KillSwitch: keeps the machine's firewall as it is desired, whoever changes it, and takes it over
from whoever crashed.

    close() --> every change: set(desired) --> open()             an orderly end
                                           \\-> leave()            any other end: it stays closed

There is one in a network namespace (note.py). What a crashed holder left closed is replaced in one
transaction, so there is no moment in between. After each change the tables are read back; after
each notification that another program changed some table they are compared, and put back where
they differ. Devices are judged on their way out by their names, whose list is renewed at every
change of a link; from 6.16 on the kernel also keeps the place of a device that is away.

All of this blocks, for a few milliseconds; times are of the monotonic clock.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tunnel.errors import MissingFacilityError, TunnelError
from tunnel.policy.killswitch import found, note
from tunnel.policy.killswitch.common import LOOPBACK
from tunnel.policy.killswitch.kernel import Facilities, Tables
from tunnel.policy.killswitch.render import TABLE, render
from tunnel.policy.killswitch.ruleset import FAMILIES, Ruleset
from tunnel.policy.killswitch.state import Desired, Phase
from tunnel.policy.killswitch.watch import Watch
from tunnel.settings import Inbound
from tunnel.values import BadValue, inbound

ATTEMPTS: Final = 3
GONE_MAX: Final = 64
"""How many devices that are gone are kept in mind."""
_MOMENT: Final = 0.01  # seconds


class KillSwitch:
    """The firewall of one tunnel's kill switch. `log` gets lines for people.

    `facilities` None: what the kernel has (see kernel.WITHOUT). Errors are TunnelError's kinds.
    """

    def __init__(
        self,
        *,
        log: Callable[[str], None] = lambda line: None,
        run: Path = note.RUN,
        facilities: Facilities | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.desired = Desired(Phase.OFF)
        self._log = log
        self._facilities = facilities
        self._clock = clock
        self._file = note.NoteFile(run)
        self._tables: Tables | None = None
        self._watch: Watch | None = None
        self._arp_ignore: str | None = None
        self._name = ""  # of the tunnel at first, whose interface may be renamed
        self._seen: dict[str, None] = {}
        self._devices: tuple[tuple[int, str], ...] = ()

    @property
    def phase(self) -> Phase:
        """The state that is in force."""
        return self.desired.phase

    def close(self, desired: Desired, *, watch: bool = True) -> bool:
        """Close it, or take over what is closed; return whether it was closed before.

        `watch` needs a running event loop, on which it is kept closed from now on. Raises
        TunnelError when another process holds it; then nothing was changed.
        """
        if not self._taken():
            holder = self._file.read().interface
            whose = f"the tunneld of {holder}" if holder else "another tunneld"
            raise TunnelError(
                f"the kill switch is held by {whose}; one tunnel at a time can include all networks"
            )
        before = self._file.read()
        self._name = desired.tunnel
        try:
            self._tables = Tables(self._facilities)
            was_closed = self._tables.closed(TABLE)
            former = note.set_arp_ignore()
            self._arp_ignore = before.arp_ignore or former
            self.set(desired)
            if watch:
                self._watch = Watch(self._tables.port, self._firewall_changed, self._links_changed)
                self._links_changed()  # what came while nobody watched
        except BaseException:
            self._let_go(keep=bool(before.interface or self.is_there()))
            raise
        return was_closed

    def set(self, desired: Desired) -> None:
        """Make it another state, in one transaction, and read it back.

        Raises TunnelError's kinds; then it is as it was.
        """
        portal = desired.portal
        if portal is not None and portal.cgroup is not None and portal != self.desired.portal:
            self._held().needs_control_groups()
        former, self.desired = self.desired, desired
        services = tuple(str(one) for one in desired.inbound)
        try:
            self._file.write(note.Note(self._name, self._arp_ignore, services))
            self._put()
        except BaseException:
            self.desired = former
            raise

    def open(self) -> None:
        """Open it, and put back all that was changed."""
        tables = self._held()
        self._unwatch()
        tables.remove(TABLE)
        note.restore_arp_ignore(self._arp_ignore)
        self._let_go(keep=False)

    def leave(self) -> None:
        """Let go of it closed: nothing leaves but what keeps the network alive."""
        if self._tables is None:
            return
        self._unwatch()
        with contextlib.suppress(TunnelError):  # else it stays closed as it is
            self.set(replace(self.desired, phase=Phase.BLOCKED, portal=None))
        self._let_go(keep=True)

    @staticmethod
    def is_there() -> bool:
        """Whether the kernel has such tables, whoever made them."""
        with contextlib.closing(Tables(Facilities())) as tables:
            return bool(tables.read(TABLE))

    @staticmethod
    def is_closed() -> bool:
        """Whether they are there, and have not opened because nobody confirmed them in time."""
        with contextlib.closing(Tables(Facilities())) as tables:
            return tables.closed(TABLE)

    def was_left(self) -> bool:
        """Whether somebody who is gone has left something to be put back."""
        return self._file.read() != note.Note()

    def inbound_left(self) -> tuple[Inbound, ...]:
        """Return the services that whoever closed it has left reachable."""
        found = []
        for word in self._file.read().inbound:
            with contextlib.suppress(BadValue):
                found.append(inbound(word))
        return tuple(found)

    def report(self) -> list[dict[str, Any]]:
        """Return every rule with its counters, in the order in which they are asked."""
        return rules(self._held().read(TABLE), self._ruleset())

    # ---- keeping it so ----

    def _put(self) -> None:
        tables = self._held()
        flags = tables.facilities.flags
        for _ in range(ATTEMPTS):
            self._devices = tuple(socket.if_nameindex())
            ruleset = self._ruleset()
            counts = found.counts(tables.read(TABLE))
            tables.replace(ruleset, TABLE, flags=flags, counts=counts)
            wrong = found.differences(ruleset, tables.read(TABLE), flags)
            if not wrong:
                return
        raise TunnelError(f"the kill switch: {wrong[0]}; see what else changes the firewall")

    def _ruleset(self) -> Ruleset:
        facilities = self._held().facilities
        skipped = (LOOPBACK, self.desired.tunnel)
        names = [name for _, name in self._devices if name not in skipped]
        if facilities.absent:  # a device that goes keeps its place, and may come back to it
            self._seen = dict.fromkeys((*self._seen, *names, *(self.desired.interfaces or ())))
            gone = [name for name in self._seen if name not in names]
            for name in gone[:-GONE_MAX]:
                del self._seen[name]
            names += gone[-GONE_MAX:]
        return render(self.desired, self._clock(), names or [LOOPBACK])

    def _firewall_changed(self, who: str) -> None:
        tables = self._held()
        try:
            wrong = found.differences(self._ruleset(), tables.read(TABLE), tables.facilities.flags)
            if wrong:
                self._put()
                self._log(f"the kill switch was changed by {who}: {wrong[0]}; it is restored")
        except TunnelError as error:
            self._log(f"the kill switch was changed by {who} and cannot be restored: {error}")

    def _links_changed(self) -> None:
        if tuple(socket.if_nameindex()) == self._devices:
            return
        try:
            self._put()
        except TunnelError as error:
            self._log(f"the kill switch cannot follow a change of interfaces: {error}")

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _let_go(self, *, keep: bool) -> None:
        self._unwatch()
        if self._tables is not None:
            self._tables.close()
            self._tables = None
        self._file.release(keep=keep)
        self.desired = Desired(Phase.OFF)

    def _taken(self) -> bool:
        """Take the file; who only looks at its lock has that for a moment, too."""
        for _ in range(ATTEMPTS):
            if self._file.take():
                return True
            time.sleep(_MOMENT)
        return False

    def _held(self) -> Tables:
        if self._tables is None:
            raise MissingFacilityError("the kill switch is open; start with --include-all-networks")
        return self._tables


def standing_rules() -> list[dict[str, Any]]:
    """Return the rules in the kernel, whoever made them; none where it is open."""
    with contextlib.closing(Tables(Facilities())) as tables:
        return rules(tables.read(TABLE))


def rules(there: list[found.FoundTable], ruleset: Ruleset | None = None) -> list[dict[str, Any]]:
    """Return what is in the kernel, rule by rule, with each rule's text where `ruleset` has it."""
    texts = {
        (table.family, chain.name, rule.label): str(rule)
        for table in (ruleset.tables if ruleset else ())
        for chain in table.chains
        for rule in chain.rules
    }
    return [
        {
            "table": FAMILIES[table.family],
            "chain": name,
            "rule": rule.label,
            "text": texts.get((table.family, name, rule.label)),
            "packets": rule.packets,
            "bytes": rule.size,
        }
        for table in there
        for name, chain in table.chains.items()
        for rule in chain.rules
    ]
