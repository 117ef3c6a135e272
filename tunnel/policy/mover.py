"""Mover: which interface to be on, and which one to prove before moving to it. Pure.

It stands between the policy, which says what may be used and what is liked best, and the sockets.
Damping says when a better interface has earned a move; what becomes of that depends on the one in
use:

    in use and dead (carrier, address or permission gone)  -> move at once, there is nothing to lose
    in use and alive, a better one has proven steady       -> `candidate`: prove it, then move
    in use and silent (nothing comes back)                 -> `candidate`: prove the next in order

While a candidate is being proven the path stays what it is. `proven` moves, `refuted` stays and
puts the candidate off for a while. Of an interface that was left because it was silent, the far
end has to answer a proof again before it is returned to.
"""

from __future__ import annotations

from dataclasses import replace

from tunnel.policy.damping import SECOND, Damping, with_first
from tunnel.policy.interface import Interface
from tunnel.policy.path import Path


class Mover:
    """Follows the policy's path of the moment (`update`). `now` is in nanoseconds.

    `path` has the interface in use first; `candidate` is what is to be proven now, None for
    nothing. Both are to be looked at after each call, and after an `update` at `next_deadline`.
    """

    def __init__(self, first: Path, damping: Damping | None = None) -> None:
        self.damping = damping or Damping()
        self.path = first
        self.candidate: Interface | None = None
        self._asked = first
        self._silent = False  # the candidate is tried because the one in use is silent

    def next_deadline(self) -> int | None:
        """Return when `update` is to be called again though nothing changed; None for never."""
        return self.damping.next_deadline()

    def update(self, path: Path, now: int) -> None:
        """Take the policy's path of this moment."""
        self._asked = path
        before, tried = self.path.interface, self.candidate
        self.candidate = None
        wanted = self.damping.update(path, now)
        chosen = wanted.interface
        current = _same(path, before) if self.path.bound else None
        if not path.bound or chosen is None or current is None:
            self.path = wanted
            return
        if chosen.name == current.name:
            self.path = wanted
            if self._silent:
                self._try(_same(path, tried))
            return
        # Damping moved; whether we do is for the proof to say.
        self.damping.stay(current.name)
        self.candidate, self._silent = chosen, False
        waiting = f"{current.name} stays in use until the far end answers over {chosen.name}"
        self.path = with_first(path, current, waiting)

    def silent(self, now: int) -> None:
        """Note that nothing comes back over the interface in use: prove the next one."""
        if self.candidate is None and self.path.bound and self.path.interface is not None:
            self._try(self.damping.standby(self.path, now))

    def proven(self, now: int) -> None:
        """Move to the candidate: the far end answered over it."""
        chosen, left = self.candidate, self.path.interface
        if chosen is None:
            return
        self.damping.stay(chosen.name)
        self.damping.answered(chosen.name)
        if self._silent and left is not None:
            self.damping.refuse(left.name, now)
        self.candidate, self._silent = None, False
        self.path = with_first(self.path, chosen, "")
        self.update(self._asked, now)

    def refuted(self, now: int) -> float:
        """Stay: there was no answer over the candidate. Return seconds until it is tried again."""
        if self.candidate is None:
            return 0
        until = self.damping.refuse(self.candidate.name, now)
        self.candidate, self._silent = None, False
        self.update(self._asked, now)
        return (until - now) / SECOND

    def reset(self) -> None:
        """The user changed the policy: nothing has to wait, and all is worth another try."""
        self.damping.reset()
        self.candidate, self._silent = None, False
        if self.path.bound and self.path.interface is not None:
            self.damping.stay(self.path.interface.name)

    def _try(self, other: Interface | None) -> None:
        """Let another one be proven because the one in use is silent; None for no other."""
        self.candidate, self._silent = other, other is not None
        if other is not None and self.path.interface is not None:
            name = self.path.interface.name
            said = f"{name} is in use, but nothing comes back over it; trying {other.name}"
            self.path = replace(self.path, reason=said)


def _same(path: Path, interface: Interface | None) -> Interface | None:
    """Return the interface as the path has it now; None when it is gone or another device."""
    if interface is None:
        return None
    known = (interface.name, interface.index)
    return next((i for i in path.interfaces if (i.name, i.index) == known), None)
