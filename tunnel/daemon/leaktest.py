"""`tunnelctl leaktest`: tries to get out past the tunnel, and watches the links while it does.

A tap (a packet socket, which sees frames as they are given to a device, after every firewall hook)
listens on all links. What must not get out is tried (`leakprobes`); a probe that the tap sees on a
link, other than the tunnel, has leaked. That nothing was seen proves something only if the tap
would have seen it: so a permitted probe, sent like the tunnel's own packets to a peer's endpoint,
has to be seen before and after the others. Without that the result is "unproven".
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final

from tunnel.daemon import leakprobes
from tunnel.daemon.leakprobes import Probe
from tunnel.daemon.report import SCHEMA
from tunnel.errors import PrivilegeError

EXIT: Final = {"pass": 0, "fail": 1, "unproven": 5}
WATCH_SECONDS: Final = 1.2
"""How long the tap listens after the last probe: a handshake is sent again after one second."""
_CONTROL_SECONDS: Final = 1.0
_EVERY_PROTOCOL: Final = 0x0003  # ETH_P_ALL
_ARP: Final = b"\x08\x06"
_OUTGOING: Final = 4  # PACKET_OUTGOING
_BUFFER: Final = 8 << 20
_FRAME: Final = 1 << 16
_SO_RCVBUFFORCE: Final = 33


@dataclass(slots=True)
class Tap:
    """Frames that this machine gave to its devices, as (interface, frame)."""

    socket: socket.socket
    frames: list[tuple[str, bytes]] = field(default_factory=list)

    @classmethod
    def open(cls) -> Tap:
        """Listen on every link. Raises PrivilegeError."""
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            one = socket.socket(socket.AF_PACKET, kind, socket.htons(_EVERY_PROTOCOL))
        except PermissionError as error:
            raise PrivilegeError(
                "watching the links needs CAP_NET_RAW; run tunnelctl leaktest as root"
            ) from error
        one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        return cls(one)

    def watch(self, seconds: float, until: Probe | None = None) -> None:
        """Note what leaves for some time, or until a probe was seen."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not (until and self.where(until)):
            if select.select([self.socket], [], [], left)[0]:
                self._read()

    def where(self, probe: Probe) -> list[str]:
        """Return the interfaces on which a probe was seen."""
        if not probe.signs:
            return []
        return list(dict.fromkeys(n for n, frame in self.frames if _is(frame, n, probe)))

    def _read(self) -> None:
        try:
            while True:
                frame, (name, _, direction, *_) = self.socket.recvfrom(_FRAME)
                if direction == _OUTGOING and name != "lo":
                    self.frames.append((name, frame))
        except BlockingIOError:
            pass


def _is(frame: bytes, interface: str, probe: Probe) -> bool:
    """Tell whether a frame is the probe, or asks the link for the probe's target by ARP."""
    if frame[12:14] == _ARP:
        return interface == probe.interface and frame[38:42] == probe.target.packed
    return all(sign in frame for sign in probe.signs)


def leak_test(path: Mapping[str, Any]) -> dict[str, Any]:
    """Run the test for a tunnel, given tunneld's answer to `path`, and return the report.

    Raises PrivilegeError.
    """
    tunnel = path["link"]
    tap = Tap.open()
    probes = list(leakprobes.planned(path))
    controls: list[Probe] = []
    try:
        controls += _control(path, tap)
        for probe in probes:
            leakprobes.send(probe)
            tap.watch(0.0)
        tap.watch(WATCH_SECONDS)
        controls += _control(path, tap)
    finally:
        tap.socket.close()
        for probe in (*probes, *controls):
            probe.close()
    rows = [_row(probe, tap.where(probe), tunnel) for probe in probes]
    seen = [bool(tap.where(control)) for control in controls]
    result, reason = verdict(rows, controls, seen)
    return {
        "schema": SCHEMA,
        "interface": tunnel,
        "result": result,
        "reason": reason,
        "control": {
            "interface": controls[0].interface or None if controls else None,
            "target": f"{controls[0].target} port {controls[0].port}" if controls else None,
            "seen": len(seen) == 2 and all(seen),
        },
        "probes": rows,
    }


def _control(path: Mapping[str, Any], tap: Tap) -> Iterable[Probe]:
    """Send what is permitted, as the tunnel's outer sockets would, and wait until it is seen."""
    for address, port in path["endpoints"].items():
        device = path["path"]["interface"] if path["bound"] else ""
        probe = Probe("control", device or "", ip_address(address), port, mark=path["mark"])
        leakprobes.send(probe)
        tap.watch(_CONTROL_SECONDS, until=probe)
        return [probe]
    return []


def _row(probe: Probe, seen: list[str], tunnel: str) -> dict[str, Any]:
    leaks = [name for name in seen if name != tunnel]
    outcome, detail = "stopped", probe.error or "sent, and seen on no link"
    if leaks:
        outcome, detail = "leaked", f"seen on {', '.join(leaks)}"
    elif seen:
        detail = f"went into the tunnel ({tunnel})"
    return {
        "probe": f"{probe.kind}, {'TCP' if probe.tcp else 'UDP'}",
        "interface": probe.interface or None,
        "target": f"{probe.target} port {probe.port}",
        "outcome": outcome,
        "seen_on": leaks,
        "detail": detail,
    }


def verdict(rows: list[dict[str, Any]], controls: list[Probe], seen: list[bool]) -> tuple[str, str]:
    """Return pass, fail or unproven, and why. A leak that was seen needs no control."""
    leaks = [row for row in rows if row["outcome"] == "leaked"]
    if leaks:
        kinds = "; ".join(dict.fromkeys(row["probe"] for row in leaks))
        return "fail", f"{len(leaks)} of {len(rows)} probes got out: {kinds}"
    if not controls:
        return "unproven", "no peer has an endpoint, so that no permitted probe could be sent"
    if len(seen) < 2 or not all(seen):
        why = next((control.error for control in controls if control.error), "")
        return "unproven", "the permitted probe was not seen either" + (f": {why}" if why else "")
    return "pass", f"none of {len(rows)} probes got out, and the permitted one was seen"
