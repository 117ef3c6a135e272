"""A policy of another package, whose faults must not become the tunnel's.

What it raises, and what is no answer, means that nothing is permitted: the tunnel waits, and the
path's reason names the policy. It is asked again at the next change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunnel.policy.binding import PathPolicy
from tunnel.policy.interface import Interface
from tunnel.policy.path import Path, PathStatus


@dataclass(frozen=True, slots=True)
class Shielded:
    """The policy that was installed under a name."""

    name: str
    policy: PathPolicy

    def decide(self, interfaces: Sequence[Interface]) -> Path:
        """Return its path, or one that permits nothing and says what is wrong with it."""
        try:
            path = self.policy.decide(interfaces)
        except Exception as error:
            return self._nothing(f"failed: {error!r}")
        if not isinstance(path, Path):
            return self._nothing(f"answered {path!r:.60}, which is no Path")
        if unknown := [i for i in path.interfaces if i not in interfaces]:
            name = getattr(unknown[0], "name", unknown[0])
            return self._nothing(f"chose {name!r:.60}, which is not there as it says")
        return path

    def refusal(self, interface: Interface) -> str:
        """Return its words on an interface that it does not use."""
        try:
            return str(self.policy.refusal(interface) or "")
        except Exception as error:
            return f"policy {self.name} failed: {error!r}"

    def __str__(self) -> str:
        try:
            return str(self.policy)
        except Exception:
            return f"policy {self.name}"

    def _nothing(self, why: str) -> Path:
        reason = f"no permitted interface: policy {self.name} {why}"
        return Path(PathStatus.UNSATISFIED, reason, (), True)
