from __future__ import annotations

import asyncio
from ipaddress import IPv4Interface
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.packet import Packet, Raw

from providers.loopback import LoopbackProvider
from tests.fake_machine import FakeMachine
from tunnel import Config, InterfaceConfig, TunnelSession, TunnelStatus

HERE, THERE = "10.0.0.1", "10.9.9.9"
HERE6, THERE6 = "fd00::1", "fd00:9::9"

# (what is sent, what must come back), built by scapy, checksums included
EXCHANGES: dict[str, tuple[Packet, Packet]] = {
    "ping": (
        IP(src=HERE, dst=THERE) / ICMP(type=8, id=7, seq=1) / Raw(b"x" * 56),
        IP(src=THERE, dst=HERE) / ICMP(type=0, id=7, seq=1) / Raw(b"x" * 56),
    ),
    "ping with options": (
        IP(src=HERE, dst=THERE, options=[b"\x94\x04\x00\x00"]) / ICMP(type=8) / Raw(b"x"),
        IP(src=THERE, dst=HERE, options=[b"\x94\x04\x00\x00"]) / ICMP(type=0) / Raw(b"x"),
    ),
    "ping, IPv6": (
        IPv6(src=HERE6, dst=THERE6) / ICMPv6EchoRequest(id=7, seq=2, data=b"y" * 1000),
        IPv6(src=THERE6, dst=HERE6) / ICMPv6EchoReply(id=7, seq=2, data=b"y" * 1000),
    ),
    "UDP": (
        IP(src=HERE, dst=THERE) / UDP(sport=4000, dport=53) / Raw(b"question"),
        IP(src=THERE, dst=HERE) / UDP(sport=4000, dport=53) / Raw(b"question"),
    ),
    "TCP, IPv6": (
        IPv6(src=HERE6, dst=THERE6) / TCP(sport=4000, dport=80, flags="S"),
        IPv6(src=THERE6, dst=HERE6) / TCP(sport=4000, dport=80, flags="S"),
    ),
    "an echo reply is not answered again": (
        IP(src=HERE, dst=THERE) / ICMP(type=0, id=7) / Raw(b"z"),
        IP(src=THERE, dst=HERE) / ICMP(type=0, id=7) / Raw(b"z"),
    ),
    "a later fragment that looks like a ping": (
        IP(src=HERE, dst=THERE, proto=1, frag=185) / Raw(b"\x08\x00" + bytes(30)),
        IP(src=THERE, dst=HERE, proto=1, frag=185) / Raw(b"\x08\x00" + bytes(30)),
    ),
}


async def exchange(sent: list[bytes]) -> list[bytes]:
    """Send packets into a session's link and return as many that come out."""
    machine = FakeMachine()
    async with TunnelSession(LoopbackProvider(), name="loop0", machine=machine) as session:
        await session.wait(TunnelStatus.CONNECTED)
        assert machine.tun is not None
        far = machine.tun.pairs[0][1]
        loop = asyncio.get_running_loop()
        for packet in sent:
            await loop.sock_sendall(far, packet)
        return [await loop.sock_recv(far, 65536) for _ in sent]


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


@pytest.mark.parametrize("name", EXCHANGES)
def test_what_goes_in_comes_back(name: str) -> None:
    sent, expected = (bytes(packet) for packet in EXCHANGES[name])
    assert run(exchange([sent])) == [expected]


def test_every_checksum_of_a_ping_comes_out_right() -> None:
    pings = [
        bytes(IP(src=HERE, dst=THERE) / ICMP(type=8, id=number * 257, seq=number))
        for number in range(256)
    ]
    for reply in run(exchange(pings)):
        given = IP(reply)
        assert given[ICMP].type == 0
        rebuilt = given.copy()
        del rebuilt[ICMP].chksum
        # 0 and 0xFFFF are the same number in ones' complement.
        assert (given[ICMP].chksum - IP(bytes(rebuilt))[ICMP].chksum) % 0xFFFF == 0


def test_many_packets_come_back_in_order() -> None:
    packets = [bytes(IP(src=HERE, dst=THERE) / UDP() / Raw(bytes([n]))) for n in range(200)]
    assert [packet[-1] for packet in run(exchange(packets))] == list(range(200))


def test_the_configuration_is_applied() -> None:
    async def main() -> None:
        machine = FakeMachine()
        config = Config(interface=InterfaceConfig(addresses=(IPv4Interface("10.0.0.1/24"),)))
        session = TunnelSession(LoopbackProvider(), name="loop0", config=config, machine=machine)
        async with session:
            assert ("apply", "loop0", "lo") in machine.journal
            assert session.report()["status_reason"] == "everything answers"

    run(main())
