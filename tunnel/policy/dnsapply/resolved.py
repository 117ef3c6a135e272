"""systemd-resolved over D-Bus (org.freedesktop.resolve1): servers and domains of one link.

resolved forgets a link's settings with the link, so a crash leaves nothing behind. A domain with
the flag "route only" says which names the link's servers get; "~." (the root) takes all names that
no other link claims more closely, which is how one link gets everything, and split DNS otherwise.

resolved serves one network namespace: one that runs in another than ours is not asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from dbus_fast import BusType, Message, MessageFlag, MessageType
from dbus_fast.aio import MessageBus

from tunnel.errors import TunnelError
from tunnel.settings import DNSSettings

ANSWER_SECONDS: Final = 5.0
_NAME: Final = "org.freedesktop.resolve1"
_PATH: Final = "/org/freedesktop/resolve1"
_MANAGER: Final = "org.freedesktop.resolve1.Manager"
_LINK: Final = "org.freedesktop.resolve1.Link"
_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_BUS: Final = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
_FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


class Resolved:
    """A connection to a running systemd-resolved. Calls raise TunnelError."""

    def __init__(self, bus: MessageBus, changed: Callable[[], None]) -> None:
        self._bus = bus
        self._changed = changed
        self._indexes: dict[str, int] = {}  # remembered: a link may be renamed
        bus.add_message_handler(self._heard)

    @classmethod
    async def connect(cls, changed: Callable[[], None]) -> Resolved | None:
        """Return the machine's resolved, None where none runs for this network namespace.

        `changed` is called when resolved comes, goes, or says that its settings changed.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
        except Exception:  # no bus at all: no socket, no permission, no valid address
            return None
        resolved = cls(bus, changed)
        try:
            if await resolved._is_ours():
                for rule in (
                    f"type='signal',sender='{_BUS[0]}',member='NameOwnerChanged',arg0='{_NAME}'",
                    f"type='signal',sender='{_NAME}',interface='{_PROPERTIES}',path='{_PATH}'",
                ):
                    await resolved._call(*_BUS, "AddMatch", "s", rule)
                return resolved
        except TunnelError:
            pass
        await resolved.close()
        return None

    @property
    def connected(self) -> bool:
        """Whether the bus is still there."""
        return bool(self._bus.connected)

    async def close(self) -> None:
        """Close the connection; safe to call again."""
        self._changed = lambda: None
        if self._bus.connected:
            self._bus.disconnect()
            with contextlib.suppress(Exception):
                await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]

    async def set_link(self, interface: str, settings: DNSSettings) -> bool:
        """Give the link these servers and domains; tell whether it had others."""
        index = self._index(interface)
        servers = _servers(settings)
        domains = _domains(settings)
        if await self._link(index) == (servers, sorted(domains)):
            return False
        await self._manage("SetLinkDNS", "ia(iay)", index, servers)
        await self._manage("SetLinkDomains", "ia(sb)", index, domains)
        await self._manage("SetLinkDefaultRoute", "ib", index, settings.takes_all)
        # Names must not be called out on the tunnel, where nobody of the local network is.
        await self._manage("SetLinkLLMNR", "is", index, "no")
        await self._manage("SetLinkMulticastDNS", "is", index, "no")
        await self._manage("FlushCaches", "")
        return True

    async def revert(self, interface: str) -> None:
        """Take the link's settings back; one that is gone has none."""
        with contextlib.suppress(OSError):
            await self._manage("RevertLink", "i", self._index(interface))
            await self._manage("FlushCaches", "")

    def _index(self, interface: str) -> int:
        if interface not in self._indexes:
            self._indexes[interface] = socket.if_nametoindex(interface)
        return self._indexes[interface]

    async def has_stub(self) -> bool:
        """Tell whether it answers on 127.0.0.53."""
        answer = await self._call(
            _NAME, _PATH, _PROPERTIES, "Get", "ss", _MANAGER, "DNSStubListener"
        )
        return bool(answer[0].value != "no")

    # ---- the bus ----

    async def _is_ours(self) -> bool:
        if not (await self._call(*_BUS, "NameHasOwner", "s", _NAME))[0]:
            return False
        (pid,) = await self._call(*_BUS, "GetConnectionUnixProcessID", "s", _NAME)
        return _same_network(pid)

    async def _link(self, index: int) -> tuple[list[Any], list[Any]]:
        (path,) = await self._manage("GetLink", "i", index)
        found = []
        for name in ("DNS", "Domains"):
            answer = await self._call(_NAME, path, _PROPERTIES, "Get", "ss", _LINK, name)
            found.append([_plain(item) for item in answer[0].value])
        return found[0], sorted(found[1])

    async def _manage(self, member: str, signature: str, *body: Any) -> list[Any]:
        return await self._call(_NAME, _PATH, _MANAGER, member, signature, *body)

    async def _call(
        self, name: str, path: str, interface: str, member: str, signature: str, *body: Any
    ) -> list[Any]:
        message = Message(
            destination=name,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
            flags=MessageFlag.NO_AUTOSTART,
        )
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await self._bus.call(message)
        except TimeoutError:
            raise TunnelError(f"systemd-resolved: {member} was not answered in time") from None
        except Exception as error:  # the bus went away, in whichever words
            raise TunnelError(f"systemd-resolved: {member}: {error}") from error
        if answer is None or answer.message_type is MessageType.ERROR:
            why = answer.body[0] if answer is not None and answer.body else "no answer"
            raise TunnelError(f"systemd-resolved refused {member}: {why}")
        return list(answer.body)

    def _heard(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL and message.member in (
            "NameOwnerChanged",
            "PropertiesChanged",
        ):
            self._changed()


def _same_network(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/ns/net").samefile("/proc/thread-self/ns/net")
    except OSError:
        return True  # not for us to look at: the bus is all that we have to go by


def _servers(settings: DNSSettings) -> list[list[Any]]:
    return [[int(_FAMILY[one.version]), one.packed] for one in settings.servers]


def _domains(settings: DNSSettings) -> list[list[Any]]:
    """Return (domain, route only) pairs; a search domain routes its names too."""
    routed = [domain.strip("~.") or "." for domain in settings.match_domains]
    routed += [] if settings.match_domains else ["."]
    searched = [domain.rstrip(".") for domain in settings.search]
    pairs = [[domain, False] for domain in searched]
    return pairs + [[d, True] for d in dict.fromkeys(routed) if d not in searched]


def _plain(item: Any) -> list[Any]:
    first, second = item
    return [first, bytes(second) if isinstance(second, (bytes, bytearray, list)) else second]
