"""The descriptors between an engine and a userspace stack.

A pair of sequenced-packet sockets, whose packets carry virtio_net_hdr as a TUN's do.
"""

from __future__ import annotations

import socket
from typing import Final

from tunnel._core import lib

_BUFFER: Final = 4 << 20
_SO_SNDBUFFORCE: Final = 32  # beyond wmem_max, with CAP_NET_ADMIN; Python has no name for it


class LinkTun:
    """In place of a TUN: a link whose far end is a userspace stack's, shared by all workers."""

    def __init__(self, workers: int = 1) -> None:
        self._engine_end, self._stack_end, self.link_flags = link_pair()
        self._workers = workers
        self._closed = False

    @property
    def fds(self) -> list[int]:
        """One descriptor a worker, all the same; [] when closed."""
        return [] if self._closed else [self._engine_end.fileno()] * self._workers

    @property
    def stack_link(self) -> tuple[int, int]:
        """The stack's descriptor and the link's flags."""
        return self._stack_end.fileno(), self.link_flags

    def close(self) -> None:
        """Close both ends; safe to call again."""
        self._closed = True
        self._engine_end.close()
        self._stack_end.close()


def link_pair() -> tuple[socket.socket, socket.socket, int]:
    """Return both ends of a new link and its TC_LINK_* flags: one for an engine, one for a stack.

    Buffers are as large as the machine allows, so that a busy loop loses nothing.
    """
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
        try:
            end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)
        except OSError:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    return *ends, lib.TC_LINK_VNET_HDR | lib.TC_LINK_USO
