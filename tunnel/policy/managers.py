"""Managers: what NetworkManager and ModemManager say, where they run, over the system's D-Bus.

A signal only means that something changed: all objects of the service are asked for again, and
made into `Said` values by networkmanager.py and modemmanager.py, which are pure. Services that
start later, or again, are noticed; a bus that goes away is tried again.

Only a tunnel that is bound waits for the first answer when it starts, for what they say decides
where it may be. The D-Bus library is imported only where there is a bus.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunnel.policy import modemmanager, networkmanager
from tunnel.policy.state import Said

if TYPE_CHECKING:
    from dbus_fast import Message
    from dbus_fast.aio import MessageBus

GATHER = 0.05
"""Seconds from a signal to the question: a connection that comes up sends dozens."""
RETRY_FIRST, RETRY_MOST = 5.0, 60.0
CALL_TIMEOUT = 5.0
_BUS_SOCKET = Path("/run/dbus/system_bus_socket")
_SERVICES = (networkmanager, modemmanager)
_DBUS, _DBUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_OBJECTS = "org.freedesktop.DBus.ObjectManager"


def machine_bus() -> str | None:
    """Return the address of the system bus; None where there is none that speaks of our network.

    In another network namespace than the first process's the managers mean other interfaces,
    which may have the same names; then only a bus that was named on purpose is asked.
    """
    if address := os.environ.get("DBUS_SYSTEM_BUS_ADDRESS"):
        return address
    with contextlib.suppress(OSError):
        ours, first = (Path(f"/proc/{who}/ns/net").stat() for who in ("self", "1"))
        if _BUS_SOCKET.is_socket() and ours.st_ino == first.st_ino:
            return f"unix:path={_BUS_SOCKET}"
    return None


class Managers:
    """Keeps `said`, by interface name, up to date; `changed` is called when it is another.

    `answered` is set when the services were asked for the first time, or there is no bus.
    """

    def __init__(self, address: str, changed: Callable[[], None]) -> None:
        self.said: Mapping[str, Said] = {}
        self.answered = asyncio.Event()
        self._address = address
        self._changed = changed
        self._of: dict[str, dict[str, Said]] = {}
        self._stirred = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to ask, on the running loop."""
        self._task = asyncio.create_task(self._run(), name="network-managers")

    async def aclose(self) -> None:
        """Stop asking; safe to call again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        from dbus_fast.aio import MessageBus
        from dbus_fast.errors import DBusError

        pause = RETRY_FIRST
        while True:
            bus = MessageBus(bus_address=self._address)
            try:
                await bus.connect()
                pause = RETRY_FIRST
                await self._follow(bus)
            except (OSError, EOFError, DBusError, TimeoutError):
                self.answered.set()
                await asyncio.sleep(pause)
                pause = min(RETRY_MOST, pause * 2)
            finally:
                bus.disconnect()
            self._take({})

    async def _follow(self, bus: MessageBus) -> None:
        """Ask, and ask again at each signal, until the bus goes away."""
        bus.add_message_handler(self._hear)
        for service in _SERVICES:
            await _call(bus, _DBUS, _DBUS_PATH, _DBUS, "AddMatch", "s",
                        [f"type='signal',sender='{service.SERVICE}'"])  # fmt: skip
            await _call(bus, _DBUS, _DBUS_PATH, _DBUS, "AddMatch", "s",
                        [f"type='signal',sender='{_DBUS}',member='NameOwnerChanged',"
                         f"arg0='{service.SERVICE}'"])  # fmt: skip
        gone = asyncio.ensure_future(bus.wait_for_disconnect())  # type: ignore[no-untyped-call]
        try:
            self._stirred.set()
            while not gone.done():
                stirred = asyncio.ensure_future(self._stirred.wait())
                await asyncio.wait({stirred, gone}, return_when=asyncio.FIRST_COMPLETED)
                stirred.cancel()
                if gone.done():
                    break
                if self.answered.is_set():
                    await asyncio.sleep(GATHER)
                self._stirred.clear()
                self._take({s.SERVICE: await self._ask(bus, s.SERVICE) for s in _SERVICES})
                self.answered.set()
        finally:
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)

    def _hear(self, message: Message) -> None:
        """Take a signal; one that changes nothing we look at is left alone."""
        if message.member == "PropertiesChanged" and message.interface == _PROPERTIES:
            interface, changed = message.body[0], set(message.body[1])
            known = next((s for s in _SERVICES if interface in s.TELLING), None)
            if known is None or (changed and changed <= known.TELLING_NOTHING):
                return
        elif message.member not in ("InterfacesAdded", "InterfacesRemoved", "NameOwnerChanged"):
            return
        self._stirred.set()

    def _take(self, of: dict[str, dict[str, Said]]) -> None:
        if of == self._of:
            return
        self._of = of
        merged: dict[str, Said] = {}
        # ModemManager knows more of modems, NetworkManager of what is to be paid for.
        for service in reversed(_SERVICES):
            for name, said in of.get(service.SERVICE, {}).items():
                merged[name] = merged[name].over(said) if name in merged else said
        self.said = merged
        self._changed()

    async def _ask(self, bus: MessageBus, service: str) -> dict[str, Said]:
        from dbus_fast.errors import DBusError

        if not await _call(bus, _DBUS, _DBUS_PATH, _DBUS, "NameHasOwner", "s", [service]):
            return {}
        try:
            if service == networkmanager.SERVICE:
                objects = await _objects(bus, service, networkmanager.ROOT)
                return networkmanager.said(objects)
            objects = await _objects(bus, service, modemmanager.ROOT)
            known = {}
            for path in modemmanager.bearers(objects):
                with contextlib.suppress(DBusError):
                    known[path] = await _call(
                        bus, service, path, _PROPERTIES, "GetAll", "s", [modemmanager.BEARER]
                    )
            return modemmanager.said(objects, known)
        except DBusError:  # it ended meanwhile, or says nothing to us
            return {}


async def _objects(bus: MessageBus, service: str, path: str) -> Any:
    return await _call(bus, service, path, _OBJECTS, "GetManagedObjects")


async def _call(
    bus: MessageBus,
    destination: str,
    path: str,
    interface: str,
    member: str,
    signature: str = "",
    body: list[Any] | None = None,
) -> Any:
    """Call a method and return its first value, unpacked. Raises DBusError, TimeoutError."""
    from dbus_fast import Message, MessageFlag, MessageType
    from dbus_fast.errors import DBusError
    from dbus_fast.unpack import unpack_variants

    message = Message(
        destination=destination,
        path=path,
        interface=interface,
        member=member,
        signature=signature,
        body=body or [],
        flags=MessageFlag.NO_AUTOSTART,
    )
    async with asyncio.timeout(CALL_TIMEOUT):
        reply = await bus.call(message)
    if reply is None or reply.message_type is MessageType.ERROR:
        name = reply.error_name if reply is not None else "org.freedesktop.DBus.Error.NoReply"
        raise DBusError(name or "", str(reply.body[0]) if reply and reply.body else member)
    return unpack_variants(reply.body[0]) if reply.body else None
