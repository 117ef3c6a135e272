"""A UDP socket of the stack as an asyncio datagram transport."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tunnel.netstack.aio.names import failure, literal, spelt
from tunnel.netstack.tcpsocket import Place
from tunnel.netstack.udp import UdpSocket

if TYPE_CHECKING:
    from tunnel.netstack.aio.loop import StackLoop


class UdpTransport(asyncio.DatagramTransport):
    """What `create_datagram_endpoint` gives. Nothing waits here: what is sent leaves, or is lost
    where the link is full for long, as on any network.
    """

    def __init__(
        self, net: StackLoop, socket: UdpSocket, protocol: asyncio.DatagramProtocol
    ) -> None:
        self._net = net  # nothing of asyncio's own constructor, as TcpTransport has it
        self._socket = socket
        self._protocol: Any = protocol
        self._closing = False
        socket.owner = self

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return `sockname`, `peername`."""
        socket = self._socket
        if name == "peername" and socket.remote is not None:
            return spelt(socket.remote)
        if name == "sockname":
            version = None if socket.remote is None else len(socket.remote.address)
            ours = socket.address or self._net.any_address(version)
            return spelt(Place(ours, socket.port))
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give what comes to another protocol."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def arrived(self, data: bytes, source: Place, error: int) -> None:
        """Take a datagram, or an error about one that was sent."""
        if self._closing:
            return
        if error:
            self._protocol.error_received(failure(error, source, "datagram to"))
        else:
            self._protocol.datagram_received(data, spelt(source))

    def sendto(self, data: bytes | bytearray | memoryview[Any], addr: Any = None) -> None:
        """Send a datagram; `addr` is (host, port) with an address, no name.

        Raises ValueError for a wrong `addr`; what the stack cannot send is told to
        `error_received`.
        """
        if self._closing:
            return
        place = None
        if addr is not None:
            address = literal(addr[0])
            if address is None:
                raise ValueError(f"{addr[0]!r} is not an address; resolve the name first")
            place = Place(address, addr[1])
            if self._socket.remote not in (None, place):
                raise ValueError(f"the endpoint is connected to {self._socket.remote}, not {addr}")
        try:
            self._socket.send(data, place)
        except OSError as error:
            self._protocol.error_received(error)
        else:
            self._net.wake()

    def is_closing(self) -> bool:
        """Whether it is closed."""
        return self._closing

    def get_write_buffer_size(self) -> int:
        """Nothing waits here."""
        return 0

    def close(self) -> None:
        """Give the port back."""
        self.fail(None)

    def abort(self) -> None:
        """The same as close."""
        self.fail(None)

    def fail(self, error: BaseException | None) -> None:
        """Close, and tell the protocol why."""
        if not self._closing:
            self._closing = True
            self._socket.owner = None
            self._socket.close()
            self._net.forget_datagrams(self, self._socket.port)
            self._net.loop.call_soon(self._protocol.connection_lost, error)
