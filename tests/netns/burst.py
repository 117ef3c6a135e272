"""Sends many datagrams a system call: sendmmsg through ctypes, as the socket module has none."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
from collections.abc import Sequence

MOST = 1024  # datagrams a call


class _Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _Message(ctypes.Structure):
    """struct msghdr of sendmsg(2)."""

    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_Vector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _Header(ctypes.Structure):
    """struct mmsghdr of sendmmsg(2)."""

    _fields_ = [("message", _Message), ("sent", ctypes.c_uint32)]


_libc = ctypes.CDLL(None, use_errno=True)


class Burst:
    """Reusable memory for `send`."""

    def __init__(self) -> None:
        self._vectors = (_Vector * MOST)()
        self._headers = (_Header * MOST)()
        for header, vector in zip(self._headers, self._vectors, strict=True):
            header.message.vectors = ctypes.pointer(vector)
            header.message.vector_count = 1

    def send(self, sock: socket.socket, datagrams: Sequence[bytes]) -> None:
        """Send at most MOST datagrams on a connected socket, waiting while its buffer is full."""
        memory = bytearray(b"".join(datagrams))
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory)) if memory else 0
        for vector, datagram in zip(self._vectors, datagrams, strict=False):
            vector.base, vector.length = base, len(datagram)
            base += len(datagram)
        done, size = 0, ctypes.sizeof(_Header)
        while done < len(datagrams):
            start = ctypes.byref(self._headers, done * size)
            count = _libc.sendmmsg(sock.fileno(), start, len(datagrams) - done, 0)
            if count > 0:
                done += count
                continue
            code = ctypes.get_errno()
            if code in (errno.EAGAIN, errno.ENOBUFS):
                select.select([], [sock], [], 1)
            elif code not in (errno.ECONNREFUSED, errno.EINTR):  # ICMP answers to earlier ones
                raise OSError(code, os.strerror(code))
