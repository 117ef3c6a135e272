"""Flap damping: which of the usable interfaces to be on, given how long each has been usable. Pure.

Leaving is at once, coming back is slow. An interface that dies is left in the same call, since a
tunnel on a dead path is of no use to anybody. But a better one that returns has to prove itself:

- dwell: a better interface is moved to once it has been usable for that long without a break.
  Wi-Fi that returns, fails for 2 s eight seconds later and comes back therefore costs one move.
- hold-down: where the interface in use died, one that has been usable for less than that is taken
  only if no steadier one is there. A forced move should not land on what is just flapping.

States, per interface: absent -> fresh -> steady (hold_down) -> trusted (dwell); any loss or a new
index starts again. An unbound path is the routing table's business and passes through unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tunnel.policy.interface import Interface
from tunnel.policy.path import Path

SECOND = 1_000_000_000
HOLD_DOWN = 3 * SECOND
DWELL = 15 * SECOND
"""Nanoseconds; the defaults of contract.md."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """An interface of the last path, by index, and when its unbroken usability began."""

    index: int
    since: int


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

    def next_deadline(self) -> int | None:
        """Return when a better interface will have proven itself; None when there is none."""
        return self._deadline

    def reset(self) -> None:
        """Forget which interface is in use: the user changed the policy, and that takes effect."""
        self._current = None
        self._seen = {name: replace(seen, since=0) for name, seen in self._seen.items()}

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
            else _Seen(i.index, now)
            for i in path.interfaces
        }
        chosen = self._choose(path.interfaces, known, now)
        self._current = chosen.name if chosen is not None else None
        if chosen is None or chosen is path.interfaces[0]:
            return path
        better = path.interfaces[: path.interfaces.index(chosen)]
        self._deadline = min(self._seen[i.name].since for i in better) + self.dwell
        first = better[0].name
        others = tuple(i for i in path.interfaces if i is not chosen)
        return replace(
            path,
            interfaces=(chosen, *others),
            reason=f"{chosen.name} stays in use until {first} has been usable for "
            f"{self.dwell / SECOND:g} s",
        )

    def _choose(
        self, usable: tuple[Interface, ...], known: dict[str, _Seen], now: int
    ) -> Interface | None:
        current = next((i for i in usable if i.name == self._current), None)
        # A link made again under its name lost everything that was on it: that is a death too.
        if current is not None and known.get(current.name) != self._seen[current.name]:
            current = None
        if current is None:
            steady = (i for i in usable if self._age(i, now) >= self.hold_down)
            return next(steady, next(iter(usable), None))
        better = usable[: usable.index(current)]
        return next((i for i in better if self._age(i, now) >= self.dwell), current)

    def _age(self, interface: Interface, now: int) -> int:
        return now - self._seen[interface.name].since
