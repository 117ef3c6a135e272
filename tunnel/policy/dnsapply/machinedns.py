"""MachineDNS: makes the machine ask the tunnel's resolvers, keeps it so, and takes it all back.

Three ways, the first that is there: systemd-resolved, the resolvconf command, resolv.conf itself.
The first two are told, and then resolv.conf is read: only if every server in it is one of ours
(resolved's stub counts as ours) do programs ask whom they should. Otherwise our text goes into the
file as well, under guard. The same check runs again whenever the file or resolved changes, so that
what another program writes is put back, and whatever it was that undid us is no matter.

The order of the servers is the configuration's and nothing else moves it: no probe, no lost packet.

A file cannot send some names here and others there. Without resolved, match domains therefore send
every name to the tunnel's servers, which is said: the other choice would show the tunnel's names to
the resolver of the network that one is on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tunnel.errors import TunnelError
from tunnel.policy.dnsapply import text as resolv
from tunnel.policy.dnsapply.guardedfile import RUN, STATE, GuardedFile
from tunnel.policy.dnsapply.leftover import RECORDS, RESOLV_CONF, belongs_to_another
from tunnel.settings import DNSMethod, DNSSettings

if TYPE_CHECKING:
    from tunnel.policy.dnsapply.command import Resolvconf
    from tunnel.policy.dnsapply.contentwatch import ContentWatch
    from tunnel.policy.dnsapply.resolved import Resolved

SETTLE_SECONDS: Final = 0.05
"""A change is looked at that long after its notification: it is mostly one of several."""
RETRY_SECONDS: Final = 1.0


class MachineDNS:
    """The resolvers of one tunnel on this machine. `log` gets lines for people.

    `path` is the resolv.conf to keep; `inotify` False forces the watch's fallback. `network` tells
    which network the machine is on, by any value that differs for another one: what programs write
    into resolv.conf there is what that network wants, and comes back when the tunnel stops, in
    place of the former network's.
    """

    def __init__(
        self,
        *,
        log: Callable[[str], None] = lambda line: None,
        path: Path = RESOLV_CONF,
        run: Path = RUN,
        state: Path = STATE,
        inotify: bool = True,
        network: Callable[[], object] = lambda: None,
    ) -> None:
        self._log = log
        self._network = network
        self._kept_on: object = None  # the network that the kept original belongs to
        self._inotify = inotify
        self._file = GuardedFile(path, run=run, state=state)
        self._told = ""  # what the resolvconf command was given last
        self._interface = ""
        self._wanted = DNSSettings()
        self._resolved: Resolved | None = None
        self._command: Resolvconf | None = None
        self._watch: ContentWatch | None = None
        self._tending: asyncio.Task[None] | None = None
        self._due = asyncio.Event()
        self._lock = asyncio.Lock()

    @property
    def in_force(self) -> DNSSettings:
        """What was applied; without servers when nothing was."""
        return self._wanted

    @property
    def method(self) -> str:
        """How it is applied, in words."""
        ways = [
            name
            for name, used in (
                ("systemd-resolved", self._resolved),
                ("resolvconf", self._command),
                (str(self._file.path), self._file.holds),
            )
            if used
        ]
        return " and ".join(ways) or "none"

    async def apply(self, interface: str, settings: DNSSettings) -> None:
        """Make the machine ask these servers; without any, make things as they were.

        Raises TunnelError, after which the former settings are in force again.
        """
        async with self._lock:
            if settings == self._wanted and interface == self._interface:
                return
            if not settings.servers:
                await self._clear()
                return
            if self._wanted.servers and settings.method is not self._wanted.method:
                await self._clear()
            former = self._interface, self._wanted
            self._interface, self._wanted = interface, settings
            try:
                if not former[1].servers:
                    await self._begin()
                await self._ensure()
            except BaseException:
                self._interface, self._wanted = former
                if former[1].servers:
                    self._due.set()
                else:
                    await self._clear()
                raise
            self._say()

    async def clear(self) -> None:
        """Take everything back; safe to call again. Raises TunnelError."""
        async with self._lock:
            await self._clear()

    # ---- the ways ----

    async def _begin(self) -> None:
        path, method = self._file.path, self._wanted.method
        if belongs_to_another(path):
            raise TunnelError(
                f"DNS: {path} is the machine's own, and this is another network namespace; make "
                "/etc/netns/NAMESPACE/resolv.conf, or remove DNS from the configuration"
            )
        self._kept_on = self._network()
        if self._file.recover():
            self._log(f"put {path} back as it was before a tunneld that crashed")
        if method in (DNSMethod.AUTO, DNSMethod.RESOLVED):
            self._resolved = await self._connect()
            if self._resolved is None and method is DNSMethod.RESOLVED:
                raise TunnelError("DNS: systemd-resolved does not run here; start it")
        if self._resolved is None and method in (DNSMethod.AUTO, DNSMethod.RESOLVCONF):
            from tunnel.policy.dnsapply.command import Resolvconf

            self._command = None if belongs_to_another(RECORDS) else await Resolvconf.find()
            if self._command is None and method is DNSMethod.RESOLVCONF:
                raise TunnelError("DNS: there is no resolvconf command here; install openresolv")
        from tunnel.policy.dnsapply.contentwatch import ContentWatch

        self._watch = ContentWatch(path, self._due.set, inotify=self._inotify)
        self._watch.start()
        self._tending = asyncio.create_task(self._tend(), name=f"{self._interface}-dns")

    async def _connect(self) -> Resolved | None:
        from tunnel.policy.dnsapply.resolved import Resolved

        return await Resolved.connect(self._due.set)

    async def _ensure(self) -> bool:
        """Make it so, wherever it is not; tell whether anything had to be done."""
        wanted, done = self._wanted, False
        servers: tuple[str, ...] = tuple(map(str, wanted.servers))
        allowed, search = servers, wanted.search
        if self._resolved is not None:
            done = await self._resolved.set_link(self._interface, wanted)
            if await self._resolved.has_stub():
                servers, allowed = resolv.STUB[:1], resolv.STUB
        text = resolv.render(self._interface, servers, search)
        if self._command is not None and self._told != text:
            await self._command.add(self._interface, text)
            self._told = text
        elif self._command is not None and not self._is_right(text, allowed):
            await self._command.update()
            done = True
        if self._is_right(text, allowed):
            return done
        network = self._network()
        if self._file.install(text, keep_newer=network != self._kept_on):
            self._kept_on = network
        return True

    def _is_right(self, text: str, allowed: tuple[str, ...]) -> bool:
        found = self._file.text()
        if self._file.holds:
            return found == text
        asked = resolv.nameservers(found)
        return bool(asked) and set(asked) <= set(allowed)

    async def _clear(self) -> None:
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
            self._tending = None
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        interface, self._interface, self._wanted = self._interface, "", DNSSettings()
        resolved, self._resolved = self._resolved, None
        command, self._command, self._told = self._command, None, ""
        try:
            self._file.restore()
        finally:
            try:
                if command is not None:
                    await command.remove(interface)
            finally:
                if resolved is not None:
                    with contextlib.suppress(TunnelError):  # gone, and its settings with it
                        await resolved.revert(interface)
                    await resolved.close()

    # ---- keeping it so ----

    async def _tend(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS if self._bus_is_lost() else None):
                    await self._due.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            self._due.clear()
            # Cancelled while it waits for the lock is how a clear ends this.
            async with self._lock:
                await self._mend()

    async def _mend(self) -> None:
        try:
            if self._resolved is not None and self._bus_is_lost():
                again = await self._connect()
                if again is None:
                    return
                self._resolved = again
            if await self._ensure():
                self._log(f"DNS: another program changed the resolvers; put back ({self.method})")
        except (OSError, TunnelError) as error:
            self._log(f"DNS: {error}")
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._due.set)

    def _bus_is_lost(self) -> bool:
        return self._resolved is not None and not self._resolved.connected

    def _say(self) -> None:
        wanted = self._wanted
        servers = ", ".join(map(str, wanted.servers))
        self._log(f"DNS: {servers} through {self.method}")
        if self._resolved is None and not wanted.takes_all:
            self._log(
                f"DNS: all names go to {servers}, not only those under "
                f"{', '.join(wanted.match_domains)}: that needs systemd-resolved"
            )
