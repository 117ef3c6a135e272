"""A policy of another package, whose faults must not become the tunnel's.

What it raises, what is no answer, and what does not come in time mean that nothing is permitted:
the tunnel waits, and the path's reason names the policy. It is asked again at the next change.

It is asked in a thread: the event loop waits for a moment, and no longer. A thread cannot be
ended, so one that never answers stays, and until it does nothing else is asked. What holds the
interpreter's lock for ever, which takes a C extension, still stops all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Thread
from typing import Any, Final

from tunnel.policy.binding import PathPolicy
from tunnel.policy.interface import Interface
from tunnel.policy.path import Path, PathStatus

PATIENCE: Final = 2.0
"""Seconds that a policy may take for an answer: it has nothing to do but to compare values."""


@dataclass(frozen=True, slots=True)
class Shielded:
    """The policy that was installed under a name."""

    name: str
    policy: PathPolicy
    patience: float = PATIENCE
    _late: list[Thread] = field(default_factory=list, init=False, repr=False, compare=False)

    def decide(self, interfaces: Sequence[Interface]) -> Path:
        """Return its path, or one that permits nothing and says what is wrong with it."""
        path, fault = self._ask(lambda: self.policy.decide(interfaces))
        if fault:
            return self._nothing(fault)
        if not isinstance(path, Path):
            return self._nothing(f"answered {path!r:.60}, which is no Path")
        if unknown := [i for i in path.interfaces if i not in interfaces]:
            name = getattr(unknown[0], "name", unknown[0])
            return self._nothing(f"chose {name!r:.60}, which is not there as it says")
        return path

    def refusal(self, interface: Interface) -> str:
        """Return its words on an interface that it does not use."""
        words, fault = self._ask(lambda: str(self.policy.refusal(interface) or ""))
        return f"policy {self.name} {fault}" if fault else words

    def __str__(self) -> str:
        words, fault = self._ask(lambda: str(self.policy))
        return f"policy {self.name}" if fault else words

    def _ask(self, question: Callable[[], Any]) -> tuple[Any, str]:
        """Return its answer, or what is wrong with it."""
        answers: list[tuple[Any, str]] = []

        def ask() -> None:
            try:
                answers.append((question(), ""))
            except BaseException as error:  # SystemExit as well: who ends tunneld is not it
                answers.append((None, f"failed: {error!r}"))

        if not any(thread.is_alive() for thread in self._late):
            self._late[:] = [Thread(target=ask, name=f"policy-{self.name}", daemon=True)]
            self._late[0].start()
            self._late[0].join(self.patience)
        return answers[0] if answers else (None, f"gave no answer for {self.patience:g} s")

    def _nothing(self, why: str) -> Path:
        reason = f"no permitted interface: policy {self.name} {why}"
        return Path(PathStatus.UNSATISFIED, reason, (), True)
