"""Moving bytes between two namespaces, with what went in and what came out told apart."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from dataclasses import dataclass

from tools.netlab import Namespace

CHUNK = 1 << 16
PATIENCE = 60.0  # seconds without any progress


@dataclass(frozen=True)
class Moved:
    """SHA-256 of what one side sent and the other received."""

    size: int
    sent: str
    received: str


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def tcp(sender: Namespace, receiver: Namespace, address: str, size: int, seed: int = 1) -> Moved:
    """Send `size` random bytes to the receiver's `address`."""
    with receiver.entered():
        listener = socket.create_server((address, 0), family=_family(address))
    with sender.entered():
        client = socket.socket(_family(address), socket.SOCK_STREAM)
    numbers = random.Random(seed)
    block = numbers.randbytes(1 << 20)
    sent = hashlib.sha256()

    def send() -> None:
        left = size
        while left:
            part = block[: min(len(block), left)]
            sent.update(part)
            client.sendall(part)
            left -= len(part)
        client.shutdown(socket.SHUT_WR)

    with listener, client:
        for one in (listener, client):
            one.settimeout(PATIENCE)
        client.connect(listener.getsockname()[:2])
        server, _ = listener.accept()
        server.settimeout(PATIENCE)
        thread = threading.Thread(target=send)
        thread.start()
        received = hashlib.sha256()
        total = 0
        with server:
            while part := server.recv(CHUNK):
                received.update(part)
                total += len(part)
        thread.join()
    return Moved(total, sent.hexdigest(), received.hexdigest())


def udp(sender: Namespace, receiver: Namespace, address: str, sizes: list[int]) -> tuple[int, int]:
    """Echo one datagram of each size, one after another; return how many came back, and intact.

    One that is lost is sent again twice.
    """
    numbers = random.Random(2)
    with receiver.entered():
        echo = socket.socket(_family(address), socket.SOCK_DGRAM)
    with sender.entered():
        client = socket.socket(_family(address), socket.SOCK_DGRAM)
    back = intact = 0
    with echo, client:
        echo.bind((address, 0))
        client.connect(echo.getsockname()[:2])
        for one in (echo, client):
            one.settimeout(1.0)
        for size in sizes:
            payload = numbers.randbytes(size)
            for _ in range(3):
                try:
                    client.send(payload)
                    data, where = echo.recvfrom(1 << 16)
                    echo.sendto(data, where)
                    answer = client.recv(1 << 16)
                except TimeoutError:
                    continue
                back += 1
                intact += answer == payload
                break
    return back, intact
