"""What the network said of the MTU towards some addresses; it is forgotten after ten minutes."""

from __future__ import annotations

from typing import Final

from tunnel.netstack.rtt import SECOND

KEPT: Final = 600 * SECOND  # RFC 1191, section 6.3
MOST: Final = 1024


class PathMtu:
    """Path MTUs by destination, at most MOST of them."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[int, int]] = {}

    def get(self, destination: bytes, mtu: int, now: int) -> int:
        """Return the MTU towards an address, where the link's is `mtu`."""
        if not self._known:
            return mtu
        found, until = self._known.get(destination, (mtu, now + 1))
        if until <= now:
            del self._known[destination]
            return mtu
        return min(found, mtu)

    def learn(self, destination: bytes, mtu: int, now: int) -> None:
        """Note a smaller MTU."""
        self._known.pop(destination, None)
        self._known[destination] = mtu, now + KEPT
        if len(self._known) > MOST:
            del self._known[next(iter(self._known))]
