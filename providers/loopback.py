"""The smallest complete provider: a network in which everything answers.

Pings get their reply; every other packet comes back to its sender with the addresses swapped.
Swapping leaves the Internet checksum as it is (RFC 1071: the order of words does not matter), and
an echo request becomes a reply by its type alone, whose difference is added (RFC 1624).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from tunnel import FlowClosed, PacketTunnelProvider, StopReason, TunnelStatus, tunnel_settings

#: IP version -> where both addresses are, and the number and types of its echo
_ADDRESSES = {4: (12, 16, 20), 6: (8, 24, 40)}
_ECHO = {4: (9, 1, 8, 0), 6: (6, 58, 128, 129)}


def answer(packet: memoryview) -> bytearray:
    """Return the packet that goes back to the sender."""
    reply = bytearray(packet)
    version = reply[0] >> 4
    source, destination, end = _ADDRESSES[version]
    reply[source:end] = reply[destination:end] + reply[source:destination]
    field, icmp, request, response = _ECHO[version]
    at = (reply[0] & 15) * 4 if version == 4 else end
    later_fragment = version == 4 and (reply[6] & 31 or reply[7])
    if reply[field] == icmp and reply[at] == request and not later_fragment:
        checksum = int.from_bytes(reply[at + 2 : at + 4]) + ((request - response) << 8)
        reply[at] = response
        reply[at + 2 : at + 4] = (checksum % 0xFFFF).to_bytes(2)
    return reply


class LoopbackProvider(PacketTunnelProvider):
    """Answers everything on the tunnel interface."""

    async def start_tunnel(self, options: Mapping[str, Any]) -> None:
        """Apply the configuration's addresses and begin to answer."""
        await self.context.apply(tunnel_settings(self.context.config))
        self._answering = asyncio.create_task(self._answer())
        self.context.status_changed(TunnelStatus.CONNECTED, "everything answers")

    async def stop_tunnel(self, reason: StopReason) -> None:
        """Stop answering."""
        self._answering.cancel()

    async def _answer(self) -> None:
        try:
            while True:
                packets = await self.packet_flow.read_packets()
                await self.packet_flow.write_packets([answer(packet) for packet in packets])
        except FlowClosed:
            pass
        except Exception as error:
            self.context.cancel(error)
