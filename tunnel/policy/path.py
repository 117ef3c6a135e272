"""A Path: what the permitted interfaces offer the tunnel at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tunnel.policy.interface import Interface


class PathStatus(Enum):
    """Apple's words: satisfied, unsatisfied, or satisfiable once something connects."""

    SATISFIED = "satisfied"
    UNSATISFIED = "unsatisfied"
    SATISFIABLE = "satisfiable"


@dataclass(frozen=True, slots=True)
class Path:
    """The decision of a binding policy over the interfaces of the moment.

    `interfaces` are the permitted and usable ones in order of preference; the first is the one
    in use. `bound` is False when no binding was asked for: then the routes of the machine decide
    and `interfaces` is only what they prefer.
    """

    status: PathStatus
    reason: str
    interfaces: tuple[Interface, ...] = ()
    bound: bool = False

    @property
    def interface(self) -> Interface | None:
        """The interface in use, None when there is none."""
        return self.interfaces[0] if self.interfaces else None

    def supports(self, version: int) -> bool:
        """Whether the interface in use has an address and a route of IP version 4 or 6."""
        first = self.interface
        return first is not None and version in first.routed

    @property
    def supports_dns(self) -> bool:
        """Whether the interface in use has DNS servers of its own."""
        return self.interface is not None and bool(self.interface.dns)
