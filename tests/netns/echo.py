"""Services in a namespace that answer what they are told, and the question whether they do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tools.netlab import Namespace


@contextmanager
def listening(space: Namespace, port: int, address: str = "0.0.0.0") -> Iterator[None]:
    """Answer each TCP connection and each datagram with what it says."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with space.entered():
        tcp, udp = socket.socket(family), socket.socket(family, socket.SOCK_DGRAM)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind((address, port))
    udp.bind((address, port))
    tcp.listen()

    def serve_tcp() -> None:
        while True:
            try:
                one, _ = tcp.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(one,), daemon=True).start()

    def echo(one: socket.socket) -> None:
        with one:
            while data := one.recv(999):
                one.sendall(data)

    def serve_udp() -> None:
        while True:
            try:
                data, sender = udp.recvfrom(999)
                if sender is None:  # shut down
                    return
                udp.sendto(data, sender)
            except OSError:
                return

    for work in (serve_tcp, serve_udp):
        threading.Thread(target=work, daemon=True).start()
    try:
        yield
    finally:
        for one in (tcp, udp):
            with suppress(OSError):  # UDP's says that it has no peer, and ends the wait
                one.shutdown(socket.SHUT_RDWR)  # closing alone leaves a thread in its call
            one.close()


def asked(
    space: Namespace, address: str, port: int, kind: int = socket.SOCK_STREAM, wait: float = 1.0
) -> bool:
    """Whether an echo comes back."""
    with space.entered():
        one = socket.socket(socket.AF_INET, kind)
    with one:
        one.settimeout(wait)
        try:
            one.connect((address, port))
            one.send(b"hello")
            return one.recv(99) == b"hello"
        except OSError:
            return False
