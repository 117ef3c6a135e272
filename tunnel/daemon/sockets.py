"""Sockets: the outer sockets of the path in use and, for a while, those of a second path.

The second set is that of a path under proof, or that of the path just left, where packets may
still arrive. Both have the tunnel's one port: bound to different devices they do not collide, and
the kernel gives each what arrives on its device. `OuterSockets.path` tells the two apart.
"""

from __future__ import annotations

from collections.abc import Callable

from tunnel.bind import OuterSockets


class Sockets:
    """`current` carries the traffic; `other` is the second set, None when there is none.

    Whatever is given up is only withdrawn: `release` closes it, once nobody uses it any more.
    """

    def __init__(self, make: Callable[[], OuterSockets]) -> None:
        self._make = make
        self.current = make()
        self.other: OuterSockets | None = None
        self._given_up: list[OuterSockets] = []

    @property
    def interfaces(self) -> frozenset[str]:
        """The interfaces that outer packets may leave on now."""
        sets = [one for one in (self.current, self.other) if one is not None and one.pairs]
        return frozenset(one.interface for one in sets if one.interface is not None)

    def open_other(self, interface: str) -> OuterSockets:
        """Open a second set on another interface. Raises what `OuterSockets.open` raises."""
        self.drop_other()
        other = self._make()
        other.path = 1 - self.current.path
        other.open(port=self.current.port, mark=self.current.mark, interface=interface)
        self.other = other
        return other

    def drop_other(self) -> None:
        """Give up the second set, if there is one."""
        if self.other is not None:
            self.other.withdraw()
            self._given_up.append(self.other)
            self.other = None

    def swap(self) -> None:
        """Let the second set carry the traffic; the first becomes the second."""
        if self.other is not None:
            self.current, self.other = self.other, self.current

    def move(self, interface: str | None) -> None:
        """Go over to an interface (None: unbound) and give up all else.

        Raises what `OuterSockets.open` and `rebind` raise; then nothing is open.
        """
        if self.other is not None and self.other.interface == interface is not None:
            self.swap()
        self.drop_other()
        current = self.current
        if current.pairs:
            current.rebind(interface)
        else:
            current.open(port=current.port, mark=current.mark, interface=interface)

    def set_mark(self, mark: int) -> None:
        """Mark the packets of both sets. Raises as `OuterSockets.set_mark` does."""
        for one in (self.current, self.other):
            if one is not None and one.mark != mark:
                one.set_mark(mark)

    def withdraw(self) -> None:
        """Give up everything."""
        self.drop_other()
        self.current.withdraw()

    def release(self) -> None:
        """Close what was given up; safe to call again."""
        self.current.release()
        for one in self._given_up:
            one.release()
        self._given_up.clear()

    def close(self) -> None:
        """Close everything; safe to call again."""
        self.withdraw()
        self.release()
