"""Flap damping: which of the usable interfaces to be on, given how long each has been usable. Pure.

Leaving is at once, coming back is slow. An interface that dies is left in the same call, since a
tunnel on a dead path is of no use to anybody. But a better one that returns has to prove itself:

- dwell: a better interface is moved to once it has been usable for that long without a break.
  Wi-Fi that returns, fails for 2 s eight seconds later and comes back therefore costs one move.
- hold-down: where the interface in use died, one that has been usable for less than that is taken
  only if no steadier one is there. A forced move should not land on what is just flapping.
- back-off: one over which the far end did not answer (`refuse`) is left alone for a while, longer
  each time, unless nothing else is there.

States, per interface: absent -> fresh -> steady (hold_down) -> trusted (dwell); any loss or a new
index starts again. An unbound path is the routing table's business and passes through unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from tunnel.policy.interface import Interface
from tunnel.policy.path import Path

SECOND: Final = 1_000_000_000
HOLD_DOWN: Final = 3 * SECOND
DWELL: Final = 15 * SECOND
"""Nanoseconds; the defaults of contract.md."""
RETRY_FIRST: Final = 15 * SECOND
RETRY_LAST: Final = 300 * SECOND
"""How long an interface that did not answer is left alone: doubled each time, up to the last."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """An interface of the last path, by index, and when its unbroken usability began.

    `failures` proofs in a row had no answer; the next one is not due before `held`.
    """

    index: int
    since: int
    failures: int = 0
    held: int = 0


class Damping:
    """Turns the policy's path of the moment into the path to use. `now` is in nanoseconds.

    Call `update` at each change of path, and again at `next_deadline`.
    """

    def __init__(self, *, hold_down: int = HOLD_DOWN, dwell: int = DWELL) -> None:
        self.hold_down = hold_down
        self.dwell = dwell
        self._seen: dict[str, _Seen] = {}
        self._current: str | None = None
        self._deadline: int | None = None
        self._trusting = False  # what the next path has that was not seen is as good as the rest

    def next_deadline(self) -> int | None:
        """Return when a better interface will have proven itself; None when there is none."""
        return self._deadline

    @property
    def current(self) -> str | None:
        """The interface that the last `update` chose, or that `stay` named."""
        return self._current

    def reset(self) -> None:
        """Forget which interface is in use: the user changed the policy, and that takes effect."""
        self._current = None
        self._seen = {name: _Seen(seen.index, 0) for name, seen in self._seen.items()}
        self._trusting = True

    def stay(self, name: str) -> None:
        """Note that this one is in use, whatever `update` chose."""
        self._current = name

    def refuse(self, name: str, now: int) -> int:
        """Note that the far end did not answer over it; return when to try it again."""
        seen = self._seen[name]
        pause = min(RETRY_FIRST << min(seen.failures, 8), RETRY_LAST)
        self._seen[name] = replace(seen, failures=seen.failures + 1, held=now + pause)
        return now + pause

    def answered(self, name: str) -> None:
        """Note that the far end answered over it."""
        self._seen[name] = replace(self._seen[name], failures=0, held=0)

    def standby(self, path: Path, now: int) -> Interface | None:
        """Return what to try when the one in use is silent, and needs no waiting for."""
        others = (i for i in path.interfaces if i.name != self._current)
        return next((i for i in others if not self._is_held(i, now)), None)

    def update(self, path: Path, now: int) -> Path:
        """Return the path with the interface to use first, the others in order of preference."""
        self._deadline = None
        if not path.bound:
            self._current, self._seen = None, {}
            return path
        known = self._seen
        self._seen = {
            i.name: known[i.name]
            if i.name in known and known[i.name].index == i.index
            else _Seen(i.index, 0 if self._trusting else now)
            for i in path.interfaces
        }
        self._trusting = False
        chosen = self._choose(path.interfaces, known, now)
        self._current = chosen.name if chosen is not None else None
        if chosen is None or chosen is path.interfaces[0]:
            return path
        better = path.interfaces[: path.interfaces.index(chosen)]
        self._deadline = min(self._ready(i) for i in better)
        first = better[0]
        until = f"has been usable for {self.dwell / SECOND:g} s"
        if self._is_held(first, now):
            until = "answers; it did not when it was tried"
        return with_first(path, chosen, f"{chosen.name} stays in use until {first.name} {until}")

    def _choose(
        self, usable: tuple[Interface, ...], known: dict[str, _Seen], now: int
    ) -> Interface | None:
        current = next((i for i in usable if i.name == self._current), None)
        # A link made again under its name lost everything that was on it: that is a death too.
        if current is not None and known.get(current.name) != self._seen[current.name]:
            current = None
        if current is None:
            willing = [i for i in usable if not self._is_held(i, now)] or list(usable)
            steady = (i for i in willing if now - self._seen[i.name].since >= self.hold_down)
            return next(steady, next(iter(willing), None))
        better = usable[: usable.index(current)]
        return next((i for i in better if self._ready(i) <= now), current)

    def _is_held(self, interface: Interface, now: int) -> bool:
        return self._seen[interface.name].held > now

    def _ready(self, interface: Interface) -> int:
        seen = self._seen[interface.name]
        return max(seen.since + self.dwell, seen.held)


def with_first(path: Path, first: Interface, reason: str) -> Path:
    """Return the path with another interface in use, and why."""
    others = tuple(i for i in path.interfaces if i.name != first.name)
    return replace(path, interfaces=(first, *others), reason=reason)
