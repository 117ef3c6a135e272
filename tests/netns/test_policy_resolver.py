"""Names over the permitted interface only, watched on every interface."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path as FilePath

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from tests.netns.conftest import FAR, FAR6, TwoNetworks
from tools.netlab import Namespace
from tunnel.errors import TunnelError
from tunnel.policy import resolver
from tunnel.policy.apply import MachineRoutes
from tunnel.policy.binding import BindingPolicy, Term
from tunnel.policy.interface import Interface
from tunnel.policy.monitor import PathMonitor
from tunnel.policy.resolver import resolve
from tunnel.settings import Address, TunnelSettings

pytestmark = pytest.mark.root

SERVERS = [ip_address(FAR)]
Answer = Callable[[dns.message.Message, str], list[bytes]]
ZONE = {
    ("vpn.example.", "A"): "198.51.100.7",
    ("vpn.example.", "AAAA"): "2001:db8:7::1",
    ("four.example.", "A"): "198.51.100.4",
    ("six.example.", "AAAA"): "2001:db8:6::1",
}
ALIASES = {"alias.example.": "vpn.example.", "loop.example.": "loop.example."}


def reply(query: dns.message.Message) -> dns.message.Message:
    answer = dns.message.make_response(query)
    question = query.question[0]
    name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
    if name in ALIASES:
        # Without the target's address: whoever asks must ask again.
        answer.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", ALIASES[name]))
    elif (name, kind) in ZONE:
        answer.answer.append(dns.rrset.from_text(name, 60, "IN", kind, ZONE[name, kind]))
    elif not any(known == name for known, _ in ZONE):
        answer.set_rcode(dns.rcode.NXDOMAIN)
    return answer


def honest(query: dns.message.Message, transport: str) -> list[bytes]:
    return [reply(query).to_wire()]


def truncating(query: dns.message.Message, transport: str) -> list[bytes]:
    if transport == "tcp":
        return honest(query, transport)
    answer = dns.message.make_response(query)
    answer.flags |= dns.flags.TC
    return [answer.to_wire()]


def forging(query: dns.message.Message, transport: str) -> list[bytes]:
    """What an attacker who hits the port might send, then the true answer."""
    forged = reply(query)
    forged.answer = [dns.rrset.from_text("vpn.example.", 60, "IN", "A", "203.0.113.66")]
    forged.id ^= 1
    other = dns.message.make_response(dns.message.make_query("evil.example.", "A"))
    other.id = query.id
    return [
        b"",
        b"nonsense",
        forged.to_wire(),
        other.to_wire(),
        query.to_wire(),
        *honest(query, ""),
    ]


def refusing(query: dns.message.Message, transport: str) -> list[bytes]:
    answer = dns.message.make_response(query)
    answer.set_rcode(dns.rcode.REFUSED)
    return [answer.to_wire()]


def silent(query: dns.message.Message, transport: str) -> list[bytes]:
    return []


@dataclass
class Server:
    """A DNS server on port 53 of a namespace; `questions` is what it was asked."""

    answer: Answer
    questions: list[tuple[str, str]] = field(default_factory=list)

    def heard(self, data: bytes, transport: str) -> list[bytes]:
        query = dns.message.from_wire(data)
        self.questions.append((transport, query.question[0].to_text()))
        return self.answer(query, transport)


@contextlib.contextmanager
def serving(space: Namespace, answer: Answer = honest, address: str = FAR) -> Iterator[Server]:
    server = Server(answer)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with space.entered():
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        stream = socket.socket(family, socket.SOCK_STREAM)
    for one in (datagrams, stream):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((address, 53))
    stream.listen()

    def serve_datagrams() -> None:
        while True:
            data, sender = datagrams.recvfrom(4096)
            if data == b"stop":
                return
            for wire in server.heard(data, "udp"):
                datagrams.sendto(wire, sender)

    def serve_stream() -> None:
        while True:
            connection, _ = stream.accept()
            with connection, connection.makefile("rb") as reader:
                (length,) = struct.unpack("!H", reader.read(2))
                if not length:
                    return
                for wire in server.heard(reader.read(length), "tcp"):
                    connection.sendall(struct.pack("!H", len(wire)) + wire)

    threads = [threading.Thread(target=work) for work in (serve_datagrams, serve_stream)]
    for thread in threads:
        thread.start()
    try:
        yield server
    finally:
        with space.entered():
            with socket.socket(family, socket.SOCK_DGRAM) as one:
                one.sendto(b"stop", (address, 53))
            with socket.create_connection((address, 53)) as one:
                one.sendall(b"\0\0")
        for thread in threads:
            thread.join()
        datagrams.close()
        stream.close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "ANSWER_TIMEOUT", 0.3)


def ask(
    networks: TwoNetworks,
    host: str,
    *,
    servers: list[Address] = SERVERS,
    bound: str = "wwan0",
    hosts: FilePath = FilePath("/nonexistent"),
) -> list[str]:
    async def main() -> list[str]:
        async with PathMonitor(BindingPolicy((Term(bound),))) as monitor:
            routes = MachineRoutes()
            await routes.apply(None, TunnelSettings(), monitor.path)
            try:
                found = monitor.path.interface
                assert found is not None
                return [str(a) for a in await resolve(host, found, servers, mark=5, hosts=hosts)]
            finally:
                await routes.clear()

    with networks.client.entered():
        return asyncio.run(main())


def test_only_the_permitted_interface_is_asked(networks: TwoNetworks) -> None:
    with serving(networks.wifi) as at_wifi, serving(networks.cell) as at_cell:
        assert ask(networks, "vpn.example") == ["198.51.100.7", "2001:db8:7::1"]
        assert sorted(at_cell.questions) == [
            ("udp", "vpn.example. IN A"),
            ("udp", "vpn.example. IN AAAA"),
        ]
        assert at_wifi.questions == []
        # The control: bound to the other interface the same question arrives there.
        ask(networks, "vpn.example", bound="wlan0")
        assert len(at_wifi.questions) == 2
        assert len(at_cell.questions) == 2


@pytest.mark.parametrize("answer", [silent, refusing], ids=["silent", "refusing"])
def test_failure_names_everything_and_asks_nobody_else(
    networks: TwoNetworks, answer: Answer
) -> None:
    with serving(networks.wifi) as at_wifi, serving(networks.cell, answer) as at_cell:
        with pytest.raises(TunnelError) as failed:
            ask(networks, "vpn.example")
        for word in ("vpn.example", "wwan0", FAR):
            assert word in str(failed.value)
        assert len(at_cell.questions) == 4
        assert at_wifi.questions == []


def test_the_next_server_is_asked(networks: TwoNetworks) -> None:
    networks.cell.ip("addr add 192.0.2.2/32 dev lo")
    with serving(networks.cell, refusing), serving(networks.cell, address="192.0.2.2") as second:
        servers = [ip_address(FAR), ip_address("192.0.2.2")]
        assert ask(networks, "four.example", servers=servers) == ["198.51.100.4"]
        assert second.questions


def test_a_server_over_ipv6(networks: TwoNetworks) -> None:
    with serving(networks.cell, address=FAR6) as server:
        assert ask(networks, "six.example", servers=[ip_address(FAR6)]) == ["2001:db8:6::1"]
        assert server.questions


def test_truncated_answers_are_asked_for_over_tcp(networks: TwoNetworks) -> None:
    with serving(networks.wifi) as at_wifi, serving(networks.cell, truncating) as at_cell:
        assert ask(networks, "vpn.example") == ["198.51.100.7", "2001:db8:7::1"]
        assert {transport for transport, _ in at_cell.questions} == {"udp", "tcp"}
        assert at_wifi.questions == []


def test_forged_answers_do_not_count(networks: TwoNetworks) -> None:
    with serving(networks.cell, forging):
        assert ask(networks, "vpn.example") == ["198.51.100.7", "2001:db8:7::1"]


def test_an_alias_without_its_target_is_followed(networks: TwoNetworks) -> None:
    with serving(networks.cell):
        assert ask(networks, "alias.example") == ["198.51.100.7", "2001:db8:7::1"]
        with pytest.raises(TunnelError, match=r"loop\.example over wwan0"):
            ask(networks, "loop.example")


def test_only_versions_that_the_interface_routes(networks: TwoNetworks) -> None:
    networks.client.ip("-6 route del default dev wwan0")
    with serving(networks.cell) as server:
        assert ask(networks, "vpn.example") == ["198.51.100.7"]
        assert [question for _, question in server.questions] == ["vpn.example. IN A"]
        with pytest.raises(TunnelError, match=r"six\.example over wwan0.*no address"):
            ask(networks, "six.example")


def test_unknown_names(networks: TwoNetworks) -> None:
    with serving(networks.cell), pytest.raises(TunnelError, match=r"no\.example.*no address"):
        ask(networks, "no.example")


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "y." * 200])
def test_impossible_names(networks: TwoNetworks, host: str) -> None:
    with pytest.raises(TunnelError, match="cannot resolve"):
        ask(networks, host)


def test_literals_and_hosts_ask_nobody(networks: TwoNetworks, tmp_path: FilePath) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("# vpn.example 1.1.1.1\n198.51.100.99 other VPN.example # mine\nbad x\n")
    with serving(networks.cell) as server:
        assert ask(networks, "192.0.2.9") == ["192.0.2.9"]
        assert ask(networks, "fe80::1%wwan0") == ["fe80::1%wwan0"]
        assert ask(networks, "vpn.EXAMPLE", hosts=hosts) == ["198.51.100.99"]
        assert server.questions == []


def test_without_servers_it_says_the_mend(networks: TwoNetworks) -> None:
    async def main() -> None:
        async with PathMonitor(BindingPolicy((Term("wwan0"),))) as monitor:
            found = monitor.path.interface
            assert isinstance(found, Interface)
            bare = Interface(found.index, found.name, found.classification, routed=found.routed)
            await resolve("vpn.example", bare, hosts=FilePath("/nonexistent"))

    with networks.client.entered(), pytest.raises(TunnelError, match=r"interfaces\.wwan0"):
        asyncio.run(main())


def test_a_vanished_interface_ends_it_at_once(networks: TwoNetworks) -> None:
    async def main() -> None:
        async with PathMonitor(BindingPolicy((Term("wwan0"),))) as monitor:
            found = monitor.path.interface
            assert found is not None
            networks.client.ip("link del wwan0")
            await resolve("vpn.example", found, SERVERS, hosts=FilePath("/nonexistent"))

    with (
        serving(networks.wifi) as at_wifi,
        networks.client.entered(),
        pytest.raises(TunnelError, match="wwan0: No such device"),
    ):
        asyncio.run(main())
    assert at_wifi.questions == []


def test_unbound_uses_the_machine(networks: TwoNetworks) -> None:
    async def main() -> list[Address]:
        return await resolve("127.1", None)  # a name to us, an address to the C library

    assert ip_address("127.0.0.1") in asyncio.run(main())
