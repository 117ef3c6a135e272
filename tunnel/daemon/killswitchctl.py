"""`tunnelctl killswitch`: shows, closes and opens the kill switch, with a tunneld or without one.

A running tunneld is asked, and does it: `on` makes it include all networks, `off` ends that. Where
none runs this command works on the firewall itself. It then closes without any tunnel, so that
nothing leaves until a tunneld takes over, and opens what a crash or an earlier `on` left closed.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tunnel.daemon import client
from tunnel.daemon.report import SCHEMA
from tunnel.daemon.rundir import run_directory
from tunnel.errors import TunnelError, UsageError
from tunnel.settings import Inbound, Portal, RoutingPolicy
from tunnel.values import BadValue, inbound, interface_name, number

if TYPE_CHECKING:
    from tunnel.daemon.session import TunnelSession

ACTIONS: Final = ("show", "on", "off", "confirm", "portal")
CONFIRM_MAX: Final = 86_400  # seconds
PORTAL_MAX: Final = 3600  # seconds
_PEERCRED: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


def ask(
    words: Sequence[str],
    allow_inbound: Sequence[str],
    confirm: str | None,
    user: str | None = None,
    seconds_open: str | None = None,
    cgroup: str | None = None,
) -> Any:
    """Carry out the command and return its report. Raises TunnelError's kinds."""
    action = words[0] if words and words[0] in ACTIONS else "show"
    rest = words[1:] if words and words[0] in ACTIONS else words
    if action == "portal":
        return _portal(rest, user, cgroup, seconds_open)
    if any(given is not None for given in (user, cgroup, seconds_open)):
        raise UsageError(
            "--user, --cgroup and --seconds go with `killswitch portal`; leave them out"
        )
    if len(rest) > 1:
        raise UsageError(f"{rest[0]!r} is none of {', '.join(ACTIONS)}; see tunnelctl --help")
    allowed, seconds = _parsed(allow_inbound, confirm)
    if (allowed or seconds) and action != "on":
        raise UsageError("--allow-inbound and --confirm go with `killswitch on`; leave them out")
    name = rest[0] if rest else _daemon(action)
    if name is None:
        return _alone(action, allowed, seconds)
    if action == "on":
        _say_what_ends(allowed, seconds)
    services = [str(one) for one in allowed]
    return client.ask(name, "killswitch", action=action, allow_inbound=services, confirm=seconds)


def _portal(words: Sequence[str], user: str | None, cgroup: str | None, seconds: str | None) -> Any:
    if not 1 <= len(words) <= 2 or (user is None) is (cgroup is None) or seconds is None:
        raise UsageError(
            "an opening for a captive portal is for one interface, one user or control group, and "
            "a time; write killswitch portal IF --user NAME|--cgroup PATH --seconds SECONDS "
            "[IFNAME]"
        )
    try:
        time_open = number(seconds, 1, PORTAL_MAX, what="seconds")
        interface = interface_name(words[0])
        uid = None if user is None else _user(user)
    except BadValue as error:
        raise UsageError(f"portal: {error}") from error
    name = words[1] if len(words) == 2 else _daemon("portal")
    if name is None:
        raise TunnelError("no tunneld has closed the kill switch here; start one first")
    fields = {"interface": interface, "user": uid, "cgroup": cgroup, "seconds_open": time_open}
    return client.ask(name, "killswitch", action="portal", opening=fields)


def _user(user: str) -> int:
    import pwd

    try:
        uid = number(user, 0, 2**32 - 2) if user.isdigit() else pwd.getpwnam(user).pw_uid
    except KeyError as error:
        raise UsageError(f"--user: there is no user {user!r}; name another") from error
    if uid == 0:
        raise UsageError("--user: root's services would all get out; name an ordinary user")
    return int(uid)


def _parsed(words: Sequence[str], confirm: str | None) -> tuple[tuple[Inbound, ...], float | None]:
    try:
        allowed = tuple(dict.fromkeys(inbound(word) for word in words))
    except BadValue as error:
        raise UsageError(f"--allow-inbound: {error}") from error
    try:
        seconds = None if confirm is None else number(confirm, 1, CONFIRM_MAX, what="seconds")
    except BadValue as error:
        raise UsageError(f"--confirm: {error}") from error
    return allowed, None if seconds is None else float(seconds)


def _daemon(action: str) -> str | None:
    """Return the tunneld to ask, None where there is none: the one that holds the kill switch,
    or, for `on`, the only one of this network namespace.
    """
    from tunnel.policy.killswitch.note import NoteFile

    file = NoteFile()
    holder = file.holder()
    if holder is not None:
        return holder
    running = [name for name in client.running() if _is_here(name)] if action == "on" else []
    if len(running) > 1:
        raise UsageError(f"several tunnels run: {', '.join(running)}; name one")
    return running[0] if running else None


def _is_here(name: str) -> bool:
    """Whether the tunneld behind a control socket lives in this network namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        try:
            one.connect(str(run_directory() / f"{name}.sock"))
            raw = one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
            theirs = Path(f"/proc/{_PEERCRED.unpack(raw)[0]}/ns/net")
            return theirs.stat().st_ino == Path("/proc/self/ns/net").stat().st_ino
        except OSError:
            return False


def _alone(action: str, allowed: tuple[Inbound, ...], seconds: float | None) -> dict[str, Any]:
    """Work on the firewall without a tunneld."""
    from tunnel.policy.apply import remove_left
    from tunnel.policy.killswitch.state import Desired
    from tunnel.policy.killswitch.switch import KillSwitch, standing_rules

    switch = KillSwitch(log=_warn)
    closed = switch.is_closed()
    if action == "on":
        if not closed:
            _say_what_ends(allowed, seconds)
        end = None if seconds is None else time.monotonic() + seconds
        switch.close(Desired(inbound=allowed, confirm=end), watch=False)
        switch.leave()
        if seconds is not None:
            remove_left()  # or what a crash left would stay closed past that time
            _warn(f"it opens again in {seconds:g} s unless `tunnelctl killswitch confirm`")
    elif action == "confirm":
        if not closed:
            raise TunnelError("the kill switch is open; there is nothing to confirm")
        switch.close(Desired(inbound=switch.inbound_left()), watch=False)
        switch.leave()
    elif action == "off":
        if switch.is_there() or switch.was_left():
            switch.close(Desired(), watch=False)
            switch.open()
        remove_left()
    rules = standing_rules()
    return {
        "schema": SCHEMA,
        "interface": None,
        "kill_switch": "blocked" if switch.is_closed() else "off",
        "opening": None,
        "lockdown_on_exit": False,
        "confirm": seconds if action == "on" else None,
        "rules": rules,
    }


def _say_what_ends(allowed: tuple[Inbound, ...], seconds: float | None) -> None:
    from tunnel.policy.killswitch.sessions import ended_by_closing

    ssh = os.environ.get("SSH_CONNECTION", "")
    for session in ended_by_closing(allowed, ssh, confirmed_later=seconds is not None):
        _warn(f"closing the kill switch ends a session from outside: {session}")


def _warn(line: str) -> None:
    print(f"tunnelctl: {line}", file=sys.stderr)


# ---- tunneld's side ----


async def serve(
    session: TunnelSession, request: Mapping[str, Any], *, managed: bool
) -> dict[str, Any]:
    """Answer tunnelctl's request in a tunneld."""
    action = request.get("action", "show")
    barrier, routing = session.barrier, session.config.routing
    if action == "confirm" and not await barrier.confirm():
        raise TunnelError(f"{session.interface}: there is nothing to confirm")
    if action == "off" and barrier.state != "off":
        await session.set_routing(
            replace(
                routing,
                include_all_networks=False,
                exclude_local_networks=False,
                allow_inbound=(),
                confirm=None,
                lockdown_on_exit=False,
            )
        )
    elif action == "on":
        if not managed:
            raise UsageError("without --config the routes are not tunneld's; start it with one")
        await session.set_routing(_closing(routing, request))
    elif action == "portal":
        portal, seconds = _opening(request.get("opening"))
        if portal.interface in ("lo", barrier.tunnel):
            raise UsageError(f"portal: {portal.interface} leads to no network; name another")
        await barrier.open_portal(portal, seconds)
    elif action not in ACTIONS:
        raise UsageError(f"killswitch: {action!r} is none of {', '.join(ACTIONS)}")
    return {"schema": SCHEMA, **barrier.report()}


def _opening(fields: Any) -> tuple[Portal, float]:
    from tunnel.policy.cgroup import control_group
    from tunnel.policy.dns import dns_servers
    from tunnel.policy.numbers import Numbers

    name = ""
    try:
        name, user, seconds = (fields[key] for key in ("interface", "user", "seconds_open"))
        uid, group = (
            (None, control_group(str(fields["cgroup"]))) if user is None else (int(user), None)
        )
        servers = dns_servers(name, socket.if_nametoindex(name))
        portal = Portal(name, uid, group, servers, Numbers().portal_mark)
        return portal, min(float(seconds), PORTAL_MAX)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError("portal: send interface, user or cgroup, and seconds_open") from error
    except OSError as error:
        raise UsageError(f"portal: there is no interface {name}; name one that is there") from error


def _closing(routing: RoutingPolicy, request: Mapping[str, Any]) -> RoutingPolicy:
    allowed, confirm = request.get("allow_inbound", []), request.get("confirm")
    try:
        added = tuple(inbound(str(word)) for word in allowed)
    except BadValue as error:
        raise UsageError(f"--allow-inbound: {error}") from error
    return replace(
        routing,
        include_all_networks=True,
        enforce_routes=False,
        allow_inbound=tuple(dict.fromkeys((*routing.allow_inbound, *added))),
        confirm=float(confirm) if isinstance(confirm, int | float) else None,
    )
