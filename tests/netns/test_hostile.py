"""300,000 hostile datagrams: tunneld goes on, and says where each of them went.

    host 1: tunneld ----- host 2: wireguard-go (honest, pings all the time)
                          and the attacker, from many addresses behind host 2

The attacker knows tunneld's public key and has a session of its own as one of the peers. Every
datagram that reaches tunneld's socket must be found again in exactly one counter.
"""

from __future__ import annotations

import random
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.interop.hosts import PORT, REFERENCE, Host, connect, eventually, star
from tests.interop.speaker import Speaker
from tests.netns.burst import Burst
from tests.netns.flood import Handshakes, Inner, noise

pytestmark = [pytest.mark.root, pytest.mark.alone, pytest.mark.datapath]

THIRD = 100_000
CHUNK = 200  # of each kind, between two looks at the socket's queue
ADDRESSES = 100  # that the attacker sends from, 10.99.66.N
GROWTH = 48.0  # MiB that tunneld may grow by meanwhile

#: Each datagram that arrives ends in one of these.
FATES = (
    "rx_unknown_type", "rx_bad_size", "rx_mac1_invalid", "rx_cookie_wanted", "rx_rate_limited",
    "rx_ring_full", "rx_handshakes", "rx_unknown_index", "rx_key_expired", "rx_auth_failed",
    "rx_replayed", "rx_keepalives", "rx_inner_malformed", "rx_source_refused", "rx_ecn_dropped",
    "rx_packets", "rx_no_link", "rx_link_busy", "rx_link_failed",
)  # fmt: skip
#: Each handshake message that Python was given, while no new session is agreed on, in one of these.
REFUSALS = (
    "handshake_invalid", "handshake_unknown_peer", "handshake_low_order_peer",
    "handshake_replayed", "handshake_flooded", "handshake_unsolicited", "cookie_refused",
)  # fmt: skip
#: What the flood must have met, or it was not the flood that it is said to be.
EXPECTED = (
    "rx_unknown_type", "rx_bad_size", "rx_mac1_invalid", "rx_unknown_index", "rx_key_expired",
    "rx_auth_failed", "rx_replayed", "rx_keepalives", "rx_inner_malformed", "rx_source_refused",
    "rx_packets", "rx_handshakes", "handshake_invalid", "handshake_unknown_peer",
    "handshake_unsolicited", "cookie_refused",
)  # fmt: skip


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with star("tunneld", REFERENCE) as (ours, honest):
        connect(honest, ours)
        honest.reaches(ours)
        yield ours, honest


class Attacker:
    """Sockets at many addresses behind the honest host, and a session as peer 10.77.0.9."""

    def __init__(self, ours: Host, space_of: Host, stack: ExitStack) -> None:
        space, address = space_of.space, ours.outer(space_of)
        ours.space.ip(f"route add 10.99.66.0/24 via {space_of.outer(ours)}")
        space.ip("route add local 10.99.66.0/24 dev lo")
        self.sockets = []
        with space.entered():
            for number in range(ADDRESSES):
                one = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                one.bind((f"10.99.66.{number + 1}", 0))
                one.connect((address, PORT))
                self.sockets.append(one)
        self.speaker = Speaker(b"\x09" * 32, ours.public)
        ours.set(f"peer {self.speaker.public} allowed-ips 10.77.0.9/32,fd77::9/128")
        self.initiation = self.speaker.initiation()
        first = self.sockets[0]
        first.settimeout(10)
        first.send(self.initiation)
        self.speaker.accept(first.recv(2048))
        first.send(self.speaker.seal(b""))


def udp_queue(host: Host) -> tuple[int, int]:
    """Return the bytes that wait in tunneld's UDP sockets, and the datagrams they dropped."""
    waiting = drops = 0
    for name in ("udp", "udp6"):
        table = Path(f"/proc/{host.daemon.process.pid}/net/{name}").read_text()
        for line in table.splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(f":{PORT:04X}"):
                waiting += int(fields[4].split(":")[1], 16)
                drops += int(fields[-1])
    return waiting, drops


def arrived(host: Host) -> int:
    """Return the datagrams for tunneld's port that came as far as its socket."""
    shown = host.space.run("nft list counter inet seen arrived").stdout
    found = re.search(r"packets (\d+)", shown)
    assert found
    return int(found[1])


def settled(host: Host) -> dict[str, int]:
    """Return the counters once nothing is under way any more."""
    last: dict[str, int] = {}

    def still() -> bool:
        nonlocal last
        before, last = last, host.counters()
        handed = last["rx_handshakes"] + last["rx_cookie_wanted"]
        same = before.get("rx_datagrams") == last["rx_datagrams"]
        return same and before["rx_handshakes"] + before["rx_cookie_wanted"] == handed

    eventually("tunneld comes to rest", still, within=30, every=0.2)
    return last


class Data:
    """Data messages of the attacker's session: authentic with a hostile packet in, or nearly so."""

    def __init__(self, numbers: random.Random, speaker: Speaker, inner: Inner) -> None:
        self.numbers, self.speaker, self.inner = numbers, speaker, inner
        self.seen = b""

    def make(self) -> bytes:
        """Return one message."""
        message = self.speaker.seal(self.inner.make())
        match self.numbers.randrange(50):
            case 0:  # a bit of the ciphertext is wrong
                place = self.numbers.randrange(16, len(message))
                return message[:place] + bytes([message[place] ^ 1]) + message[place + 1 :]
            case 1:  # a counter past the end of any session
                counter = (1 << 64) - self.numbers.randint(1, 8192)
                return message[:8] + counter.to_bytes(8, "little") + message[16:]
            case 2:  # nobody's session
                return message[:4] + self.numbers.randbytes(4) + message[8:]
            case 3 if self.seen:  # sent once more
                return self.seen
            case 4:
                self.seen = message
        return message


def memory(host: Host) -> float:
    """Return tunneld's resident memory in MiB."""
    return host.daemon.memory()["VmRSS"]


def test_flood(hosts: tuple[Host, Host]) -> None:
    ours, honest = hosts
    numbers = random.Random(5)
    ours.space.run(
        ["nft", "table inet seen { counter arrived { }; chain input {"
         f" type filter hook input priority 0; udp dport {PORT} counter name arrived; }}; }}"]
    )  # fmt: skip
    with ExitStack() as stack:
        attacker = Attacker(ours, honest, stack)
        strangers = [Speaker(numbers.randbytes(32), ours.public) for _ in range(50)]
        handshakes = Handshakes(numbers, attacker.speaker.peer.remote_static, strangers)
        handshakes.ready.append(attacker.initiation)
        inner = Inner(numbers, "10.77.0.9", "fd77::9", ours.inner, ours.inner6, honest.inner)
        data = Data(numbers, attacker.speaker, inner)
        before, base = settled(ours), memory(ours)
        came, (_, dropped) = arrived(ours), udp_queue(ours)
        pings = honest.space.start(
            ["ping", "-n", "-i", "0.05", ours.inner], stdout=subprocess.PIPE, text=True
        )
        burst, sent = Burst(), 0
        while sent < 3 * THIRD:
            chunk = [make() for make in (lambda: noise(numbers), handshakes.make, data.make)
                     for _ in range(CHUNK)]  # fmt: skip
            numbers.shuffle(chunk)
            burst.send(numbers.choice(attacker.sockets), chunk)
            sent += len(chunk)
            eventually("the queue empties", lambda: not udp_queue(ours)[0], within=30, every=0.001)
            assert ours.daemon.process.poll() is None, ours.daemon.output()
        pings.send_signal(2)
        answers, _ = pings.communicate(timeout=10)
        after, grown = settled(ours), memory(ours) - base

    counted = {name: after[name] - before[name] for name in after}
    came, dropped = arrived(ours) - came, udp_queue(ours)[1] - dropped
    shown = {name: count for name, count in counted.items() if count}
    assert came >= sent, "the kernel lost some on the way, before any counter of ours"
    assert counted["rx_datagrams"] == came - dropped, shown
    assert sum(counted[name] for name in FATES) == counted["rx_datagrams"], shown
    assert counted["rx_cookie_wanted"] == counted["cookie_replies"], shown
    assert sum(counted[name] for name in REFUSALS) == counted["rx_handshakes"], shown
    assert not [name for name in EXPECTED if not counted[name]], shown
    # Each third was what it should be: types that nobody knows are in the noise alone.
    assert counted["rx_unknown_type"] < THIRD, shown
    assert counted["rx_packets"] + counted["rx_inner_malformed"] > THIRD / 2, shown
    assert dropped < sent / 10, "hardly a test of tunneld"
    assert grown < GROWTH

    found = re.search(r"(\d+) packets transmitted, (\d+) received", answers)
    assert found, answers[-500:]
    assert int(found[2]) > int(found[1]) * 0.8, found[0]
    # The honest peer can make a new session at once, and the attacker's own peer is as it was.
    honest.remove(ours)
    honest.add(ours, family=4)
    honest.reaches(ours, within=15)
    assert len(ours.show("peers").split()) == 2
