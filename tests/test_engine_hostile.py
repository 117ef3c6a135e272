"""Hostile datagrams: nothing breaks, and each one is in exactly one counter."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator

import pytest

from tests.engine_lab import FarPeer, Lab, handshake, tcp, udp
from tunnel.engine import LINK_USO, LINK_VNET_HDR

pytestmark = pytest.mark.datapath

PUBLIC = bytes(range(32))
NEAR, FAR = "10.0.0.1", "10.0.0.2"
# Where a datagram may end. `rx_packets` and what follows it are ends of authenticated packets.
ENDS = (
    "rx_unknown_type", "rx_bad_size", "rx_truncated",
    "rx_mac1_invalid", "rx_handshakes", "rx_cookie_wanted", "rx_rate_limited", "rx_ring_full",
    "rx_unknown_index", "rx_key_expired", "rx_auth_failed", "rx_replayed",
    "rx_keepalives", "rx_inner_malformed", "rx_source_refused", "rx_ecn_dropped",
    "rx_packets", "rx_link_busy", "rx_link_failed", "rx_no_link",
)  # fmt: skip
TEMPLATES = (
    udp(FAR, NEAR, bytes(64)),
    tcp(FAR, NEAR, bytes(64), opts=bytes(8)),
    udp("fd00::2", "fd00::1", bytes(64)),
    tcp("fd00::2", "fd00::1", bytes(64)),
)


def mangled(random_: random.Random) -> bytes:
    """Return an inner packet with a few wrong bytes, lengths above all, or random ones."""
    if random_.random() < 0.1:
        return random_.randbytes(random_.randrange(200))
    packet = bytearray(random_.choice(TEMPLATES))
    for _ in range(random_.randrange(4)):
        packet[random_.randrange(len(packet))] = random_.randrange(256)
    if random_.random() < 0.3:
        at = random_.choice((2, 4))
        struct.pack_into("!H", packet, at, random_.choice((0, 19, 39, 40, 65495, 65496, 65535)))
    return bytes(packet[: random_.randrange(len(packet)) if random_.random() < 0.2 else None])


def hostile(random_: random.Random, peer: FarPeer, count: int) -> Iterator[tuple[bytes, int]]:
    for i in range(count):
        if i % 3 == 0:
            size = random_.choice((0, 1, 3, 4, 31, 32, 64, 92, 148, random_.randrange(2000)))
            data = random_.randbytes(size)
            if random_.random() < 0.5:
                data = (struct.pack("<I", random_.randrange(6)) + data)[: max(size, 4)]
            yield data, 0
        elif i % 3 == 1:
            yield handshake(random_.choice((1, 2)), PUBLIC), 0
        else:
            yield peer.message(mangled(random_), pad=random_.random() < 0.9), random_.randrange(4)


@pytest.mark.parametrize("link_flags", [0, LINK_VNET_HDR | LINK_USO])
@pytest.mark.parametrize("count", [3000, pytest.param(300_000, marks=pytest.mark.long)])
def test_hostile_datagrams_are_counted_by_reason(count: int, link_flags: int) -> None:
    random_ = random.Random(20)
    with Lab(link_flags=link_flags) as lab:
        lab.engine.set_identity(PUBLIC)
        lab.engine.set_cookie_secret(os.urandom(32))
        peer = lab.peer("10.0.0.2/32", "fd00::2/128")
        for sent, (datagram, ecn) in enumerate(hostile(random_, peer, count), start=1):
            peer.raw(datagram, ecn)
            if sent % 50 == 0 or sent == count:
                while lab.counters().get("rx_datagrams", 0) < sent:
                    pass  # nothing may be lost on the way
                while not lab.idle():
                    lab.read()
                if random_.random() < 0.2:
                    lab.engine.read_events()
        counters = lab.counters()
        assert counters["rx_datagrams"] == count
        ends = {name: counters.get(name, 0) for name in ENDS}
        assert sum(ends.values()) == count, ends
        for name in ("rx_packets", "rx_inner_malformed", "rx_source_refused", "rx_cookie_wanted"):
            assert ends[name] > 0, ends
        peer.send(TEMPLATES[0])
        while TEMPLATES[0] not in lab.read():
            pass  # it still works
