"""The states that a state machine of the code gets into, found by running it.

A machine is made anew for each sequence of events; what it shows then is its state. Breadth first,
every event is tried in every state that was not seen before, so that the figure has exactly the
transitions that the code makes, and cannot say anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

Machine = TypeVar("Machine")

#: (from, to) -> the events that lead there
Transitions = dict[tuple[str, str], list[str]]


class Explorer(Generic[Machine]):
    """`make` gives a machine in its first state, `events` what can happen to it, `label` its state.

    An event that raises LookupError cannot happen in that state.
    """

    def __init__(
        self,
        make: Callable[[], Machine],
        events: Mapping[str, Callable[[Machine], None]],
        label: Callable[[Machine], str],
    ) -> None:
        self._make = make
        self._events = events
        self._label = label

    def run(self) -> tuple[str, Transitions]:
        """Return the first state and every transition between two different states."""
        first = self._label(self._after(()))
        found: Transitions = {}
        reached: dict[str, tuple[str, ...]] = {first: ()}
        queue = [first]
        while queue:
            here = queue.pop(0)
            for event in self._events:
                sequence = (*reached[here], event)
                try:
                    there = self._label(self._after(sequence))
                except LookupError:
                    continue
                if there == here:
                    continue
                found.setdefault((here, there), []).append(event)
                if there not in reached:
                    reached[there] = sequence
                    queue.append(there)
        return first, found

    def _after(self, sequence: Sequence[str]) -> Machine:
        machine = self._make()
        for event in sequence:
            self._events[event](machine)
        return machine
