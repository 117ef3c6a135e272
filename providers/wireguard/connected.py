"""The connected socket of a device's only peer: the shortest way through the kernel.

For an unconnected socket the kernel looks at its routes for every datagram that arrives and every
call that sends; a connected one remembers the route, and is told when that no longer holds. But it
hears one far end alone, and dies with its address. So it stands beside the others, never in their
place, for a peer that stays where it is:

    a handshake completes --> where the peer is, and which address of ours it speaks to, is noted
    the peer is there     --> connected
    it is elsewhere, or nowhere; the path moves or its sockets change; the keys are gone;
    there is another peer --> not connected: everything goes by the others at once

A peer that moves about has none until another handshake, so that nobody's packets make us open
sockets without end. The engine compares every packet's destination with what the socket is
connected to, and sends by the others whatever it refuses: nothing here has to be in time.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from tunnel import KEY_CURRENT, EngineError, TunnelError

if TYPE_CHECKING:
    from providers.wireguard.device import Device
    from tunnel import Endpoint, OuterSockets

_LOG: Final = logging.getLogger("tunnel.wireguard")


class Connected:
    """The connected socket of one device, or none; never one unless `allowed`."""

    def __init__(self, device: Device, allowed: bool = True) -> None:
        self._engine = device.engine
        self._device = device
        self._allowed = allowed and self._engine.workers == 1
        self._made: tuple[OuterSockets, Endpoint] | None = None
        self._key = 0  # when the newest key was made, and
        self._confirmed: Endpoint | None = None  # where the peer was then

    def look(self, outer: OuterSockets) -> None:
        """Connect or disconnect, as the peer has settled or not. `outer` is the path in use."""
        if not self._allowed:
            return
        wanted = self._wanted(outer)
        if (None if self._made is None else self._made[1]) == wanted:
            return
        self.drop()
        if wanted is None or wanted.source is None:
            return
        try:
            fd = outer.connect(wanted.source, wanted.address, wanted.port, wanted.scope)
            self._engine.connect_outer(wanted, fd)
        except (OSError, TunnelError, EngineError) as error:
            outer.disconnect()
            self._confirmed = None  # not again before the next handshake
            _LOG.debug("no connected socket for the peer: %s", error)
        else:
            self._made = outer, wanted

    def drop(self) -> None:
        """Do without, until `look` finds that the peer is settled."""
        made, self._made = self._made, None
        if made is not None:
            outer, endpoint = made
            self._engine.connect_outer(endpoint, -1)
            outer.disconnect()

    def _wanted(self, outer: OuterSockets) -> Endpoint | None:
        peers = self._device.peers
        if len(peers) != 1 or not outer.pairs:
            self._confirmed, self._key = None, 0
            return None
        (peer,) = peers
        info = self._engine.peer_info(peer.id)
        end = info.endpoint
        if not info.keys & KEY_CURRENT or end is None or end.source is None:
            return None
        if info.key_created != self._key:
            self._key, self._confirmed = info.key_created, end
        in_use = end.path == outer.path == self._device.moves.path
        return end if end == self._confirmed and in_use else None
