"""The machines that are drawn: the session's status, the kill switch, and which path is used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from ipaddress import ip_interface
from typing import Any

from tools.diagramlib.explore import Explorer, Transitions
from tunnel.daemon import status as states
from tunnel.daemon.barrier import Barrier
from tunnel.daemon.machine import Machine
from tunnel.errors import TunnelError
from tunnel.policy.binding import BindingPolicy, Term
from tunnel.policy.damping import DWELL
from tunnel.policy.interface import Classification, Confidence, Interface, InterfaceType
from tunnel.policy.killswitch.state import Desired, Phase
from tunnel.policy.mover import Mover
from tunnel.provider import StopReason, TunnelStatus
from tunnel.settings import RoutingPolicy


def session() -> tuple[str, Transitions]:
    """Return the transitions of a session's status, from its table."""
    found: Transitions = {}
    for now, steps in states.NEXT.items():
        for asked, then in steps.items():
            if then is not now:
                event = asked.value
                if now in states.ENDED:
                    event = "start"
                elif asked in states.REPORTABLE:
                    event = f"the provider reports {event}"
                found.setdefault((now.value, then.value), []).append(event)
    return TunnelStatus.DISCONNECTED.value, found


# ---- the path in use ----

WIFI, CELL = "wlan0", "wwan0"


def _interface(name: str, index: int) -> Interface:
    kind = InterfaceType.WIFI if name == WIFI else InterfaceType.CELLULAR
    return Interface(
        index,
        name,
        Classification(kind, "drawn", Confidence.CERTAIN),
        up=True,
        carrier=True,
        addresses=(ip_interface("192.0.2.1/24"),),
        routed=frozenset({4}),
    )


class _Moves:
    """A Mover with Wi-Fi preferred to cellular, and a clock."""

    def __init__(self) -> None:
        self.policy = BindingPolicy((Term(InterfaceType.WIFI), Term(InterfaceType.CELLULAR)))
        self.present = {WIFI: 2, CELL: 3}
        self.now = 0
        self.mover = Mover(self.policy.decide(()))
        self.update()

    def update(self) -> None:
        there = [_interface(name, index) for name, index in sorted(self.present.items())]
        self.mover.update(self.policy.decide(there), self.now)

    def toggle(self, name: str, *, there: bool) -> None:
        if there is (name in self.present):
            raise LookupError(name)
        if there:
            self.present[name] = 10 + self.now  # another device under the name
        else:
            del self.present[name]
        self.now += 1
        self.update()

    def wait(self) -> None:
        if self.mover.next_deadline() is None:
            raise LookupError("nothing to wait for")
        self.now = max(self.now + DWELL, self.mover.next_deadline() or 0)
        self.update()

    def answer(self, *, came: bool) -> None:
        if self.mover.candidate is None:
            raise LookupError("nothing is being proven")
        (self.mover.proven if came else self.mover.refuted)(self.now)

    def silence(self) -> None:
        if self.mover.candidate is not None or self.mover.path.interface is None:
            raise LookupError("nothing to notice it")
        self.mover.silent(self.now)

    def label(self) -> str:
        used, tried = self.mover.path.interface, self.mover.candidate
        if used is None:
            return "no path"
        if tried is not None:
            return f"on {used.name}, proving {tried.name}"
        waiting = WIFI in self.present and used.name == CELL
        return f"on {used.name}, {WIFI} waits" if waiting else f"on {used.name}"


def moves() -> tuple[str, Transitions]:
    """Return how the path in use changes: damping, and make before break."""
    events: dict[str, Callable[[_Moves], None]] = {
        f"{WIFI} dies": lambda m: m.toggle(WIFI, there=False),
        f"{WIFI} returns": lambda m: m.toggle(WIFI, there=True),
        f"{CELL} dies": lambda m: m.toggle(CELL, there=False),
        f"{CELL} returns": lambda m: m.toggle(CELL, there=True),
        "it has been steady for long enough": _Moves.wait,
        "the far end answers": lambda m: m.answer(came=True),
        "no answer": lambda m: m.answer(came=False),
        "nothing comes back": _Moves.silence,
    }
    return Explorer(_Moves, events, _Moves.label).run()


# ---- the kill switch ----


class _Firewall:
    """A firewall that is only remembered; it outlives its tunneld, as the real one does."""

    def __init__(self) -> None:
        self.phase = Phase.OFF

    def is_closed(self) -> bool:
        return True  # asks no questions about the sessions of the machine that draws

    def close(self, wanted: Desired) -> bool:
        self.phase = wanted.phase
        return False

    def set(self, wanted: Desired) -> None:
        self.phase = wanted.phase

    def leave(self) -> None:
        self.phase = Phase.BLOCKED

    def open(self) -> None:
        self.phase = Phase.OFF


class _Drawn(Machine):
    def __init__(self) -> None:
        self.firewall = _Firewall()

    def kill_switch(self, *_: Any, **__: Any) -> Any:
        return self.firewall


async def _no_routes(policy: RoutingPolicy) -> None:
    """Change nothing: there are no routes in a figure."""


class _Guarded:
    """A tunneld's Barrier with --include-all-networks --bind, over that firewall."""

    def __init__(self) -> None:
        self.machine = _Drawn()
        self.barrier: Barrier | None = None

    @property
    def running(self) -> Barrier:
        if self.barrier is None:
            raise LookupError("no tunneld runs")
        return self.barrier

    def start(self) -> None:
        if self.barrier is not None:
            raise LookupError("it runs")
        log = logging.getLogger("tools.diagrams")
        log.disabled = True
        policy = RoutingPolicy(include_all_networks=True)
        self.barrier = Barrier("wg0", policy, self.machine, log)
        self.barrier.start(lambda ending: None, _no_routes)

    def see(self, *there: Interface) -> None:
        self.running.update(path=BindingPolicy((Term(InterfaceType.WIFI),)).decide(there))

    def end(self, ending: states.Ending) -> None:
        self.running.end(ending)
        self.barrier = None

    def label(self) -> str:
        return self.machine.firewall.phase.value


def kill_switch() -> tuple[str, Transitions]:
    """Return the states of the kill switch, which are those of the firewall."""
    failed = states.Ending(StopReason.PROVIDER_FAILED, TunnelError("it failed"))
    events: dict[str, Callable[[_Guarded], None]] = {
        "tunneld starts": _Guarded.start,
        "a permitted interface is there": lambda g: g.see(_interface(WIFI, 2)),
        "no permitted interface": lambda g: g.see(),
        "the tunnel is connected": lambda g: g.running.show(TunnelStatus.CONNECTED),
        "the tunnel is reasserting": lambda g: g.running.show(TunnelStatus.REASSERTING),
        "orderly stop": lambda g: g.end(states.Ending(StopReason.USER_INITIATED)),
        "failure": lambda g: g.end(failed),
    }

    async def run() -> tuple[str, Transitions]:
        return Explorer(_Guarded, events, _Guarded.label).run()

    return asyncio.run(run())
