"""Forwards of TCP and UDP between two networks, and how their places are written."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.loops import Runner, until
from tests.proxy_world import HOST, LOG, Network, echo, exchange, free_port, port_of
from tunnel.daemon.options import parse
from tunnel.errors import ConfigError, UsageError
from tunnel.places import Place, expose, forward, place
from tunnel.proxy import udpforward
from tunnel.proxy.credentials import read_credentials
from tunnel.proxy.dialer import Patience
from tunnel.proxy.tcpforward import TcpForward
from tunnel.proxy.udpforward import UdpForward
from tunnel.values import BadValue

DATA = os.urandom(2 << 20)


def test_tcp(run: Runner) -> None:
    async def work() -> None:
        network = Network()
        async with echo() as port:
            clients = TcpForward(network, Place("echo.test", port), LOG).clients
            await clients.listen(network, HOST, 0)
            streams = [await asyncio.open_connection(HOST, port_of(clients)) for _ in range(5)]
            answers = await asyncio.gather(*(exchange(one, DATA) for one in streams))
            assert answers == [DATA] * 5
            await until(lambda: not clients.capacity.taken)
            await clients.aclose()

    run(work())


def test_an_urgent_byte_stays_in_the_stream(run: Runner) -> None:
    """Of the client's, and of who is called: on a plain socket the kernel takes it out."""

    async def work() -> None:
        loop, network = asyncio.get_running_loop(), Network()
        with socket.create_server((HOST, 0)) as origin:
            origin.setblocking(False)
            clients = TcpForward(network, Place(HOST, origin.getsockname()[1]), LOG).clients
            await clients.listen(network, HOST, 0)
            with socket.create_connection((HOST, port_of(clients))) as near:
                far, _ = await loop.sock_accept(origin)
                with far:
                    for one, other in ((near, far), (far, near)):
                        one.send(b"plain")
                        one.send(b"!", socket.MSG_OOB)
                        one.shutdown(socket.SHUT_WR)
                        other.setblocking(False)
                        came = b""
                        while data := await loop.sock_recv(other, 100):
                            came += data
                        assert came == b"plain!"
        await until(lambda: not clients.capacity.taken)
        await clients.aclose()

    run(work())


def test_a_client_that_does_not_read_cannot_hold_up_the_end(run: Runner) -> None:
    async def work() -> None:
        network, flooded = Network(), asyncio.Event()

        async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while not writer.transport.is_closing():
                writer.write(DATA)
                if writer.transport.get_write_buffer_size():
                    flooded.set()
                await writer.drain()

        source = await asyncio.start_server(flood, HOST, 0)
        clients = TcpForward(network, Place(HOST, port_of(source)), LOG).clients
        await clients.listen(network, HOST, 0)
        _, writer = await asyncio.open_connection(HOST, port_of(clients))
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await flooded.wait()
        await clients.aclose()
        source.close()
        writer.transport.abort()

    run(work())


def test_a_refusal_is_carried_as_a_reset(run: Runner) -> None:
    async def work() -> None:
        network = Network()
        clients = TcpForward(network, Place(HOST, free_port()), LOG).clients
        await clients.listen(network, HOST, 0)
        reader, writer = await asyncio.open_connection(HOST, port_of(clients))
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        await clients.aclose()

    run(work())


class Patient(Network):
    """Notes how long acknowledgments may wait for what clients say."""

    def __init__(self) -> None:
        self.patience: list[float] = []

    def begin_connection(self, opened: Any, host: str, port: int, patience: Patience) -> None:
        self.patience.append(patience.acknowledge)


@pytest.mark.parametrize("server_speaks", [True, False])
def test_where_servers_speak_first_nothing_waits_for_the_client(
    run: Runner, *, server_speaks: bool
) -> None:
    async def work() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"" if server_speaks else await reader.readexactly(5))
            writer.write(b"ready")
            writer.close()

        server = await asyncio.start_server(serve, HOST, 0)
        network = Patient()
        clients = TcpForward(network, Place(HOST, port_of(server)), LOG).clients
        await clients.listen(network, HOST, 0)
        for _ in range(2):
            reader, writer = await asyncio.open_connection(HOST, port_of(clients))
            if not server_speaks:
                writer.write(b"hello")
            assert (await reader.read()).endswith(b"ready")
            writer.close()
        first, second = network.patience
        assert 0 < first < 0.001
        assert second == (0 if server_speaks else first)
        await clients.aclose()
        server.close()

    run(work())


class Far(asyncio.DatagramProtocol):
    """Answers each datagram with the same, in capitals."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.transport.sendto(data.upper(), address)


class Near(asyncio.DatagramProtocol):
    """Keeps what comes."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[bytes] = asyncio.Queue()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.received.put_nowait(data)


def test_udp_answers_go_to_who_asked(run: Runner) -> None:
    async def work() -> None:
        network, loop = Network(), asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Far, (HOST, 0))
        carried = UdpForward(network, HOST, transport.get_extra_info("sockname")[1], most=2)
        await carried.listen(network, HOST, 0)
        at = carried._transport
        assert at is not None
        senders = [
            (await loop.create_datagram_endpoint(Near, None, at.get_extra_info("sockname")))[1]
            for _ in range(3)
        ]
        for number, sender in enumerate(senders):
            sender.transport.sendto(b"from %d" % number)
            assert await sender.received.get() == b"FROM %d" % number
        assert len(carried._flows) == 2, "the one that was quiet for longest made room"
        senders[0].transport.sendto(b"again")
        assert await senders[0].received.get() == b"AGAIN"
        await carried.aclose()
        for sender in senders:
            sender.transport.close()
        transport.close()

    run(work())


def test_who_only_hears_is_not_the_quiet_one(run: Runner) -> None:
    async def work() -> None:
        network, loop = Network(), asyncio.get_running_loop()
        far, _ = await loop.create_datagram_endpoint(Far, (HOST, 0))
        carried = UdpForward(network, HOST, far.get_extra_info("sockname")[1], most=2)
        await carried.listen(network, HOST, 0)
        place = carried._transport.get_extra_info("sockname")  # type: ignore[union-attr]
        senders = [(await loop.create_datagram_endpoint(Near, None, place))[1] for _ in range(3)]
        for number, sender in enumerate(senders):
            sender.transport.sendto(b"%d" % number)
            assert await sender.received.get() == b"%d" % number
            if number == 1:  # the first hears something
                (first, _) = carried._flows.values()
                assert first.transport is not None
                far.sendto(b"news", first.transport.get_extra_info("sockname"))
                assert await senders[0].received.get() == b"news"
        assert first in carried._flows.values()
        await carried.aclose()
        for sender in senders:
            sender.transport.close()
        far.close()

    run(work())


def test_quiet_udp_is_forgotten_and_the_end_leaves_nothing(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        loop, clock = asyncio.get_running_loop(), [1000.0]
        far, _ = await loop.create_datagram_endpoint(Far, (HOST, 0))
        carried = UdpForward(Network(), HOST, far.get_extra_info("sockname")[1])
        monkeypatch.setattr(carried, "now", lambda: clock[0])
        await carried.listen(Network(), HOST, 0)
        place = carried._transport.get_extra_info("sockname")  # type: ignore[union-attr]
        _, sender = await loop.create_datagram_endpoint(Near, None, place)
        for text in (b"first", b"after it was forgotten"):
            sender.transport.sendto(text)
            assert await sender.received.get() == text.upper()
            for passed, left in ((udpforward.IDLE_SECONDS - 1, 1), (1, 0)):
                clock[0] += passed
                carried._sweep()
                assert len(carried._flows) == left
        await carried.aclose()
        assert carried._timer is not None
        assert carried._timer.cancelled()
        await asyncio.sleep(0)  # asyncio closes a socket in its next turn
        again, _ = await loop.create_datagram_endpoint(Far, place)  # the port is free
        for one in (again, sender.transport, far):
            one.close()

    run(work())


def test_udp_empty_datagrams_pass_too(run: Runner) -> None:
    async def work() -> None:
        with (
            socket.socket(type=socket.SOCK_DGRAM) as far,
            socket.socket(type=socket.SOCK_DGRAM) as near,
        ):
            far.bind((HOST, 0))
            for one in (far, near):
                one.settimeout(20)
            carried = UdpForward(Network(), HOST, far.getsockname()[1])
            await carried.listen(Network(), HOST, 0)
            assert carried._transport is not None
            near.connect(carried._transport.get_extra_info("sockname"))
            for data in (b"", b"", b"more"):
                near.send(data)
                got, sender = await asyncio.to_thread(far.recvfrom, 99)
                far.sendto(got, sender)
                assert (got, await asyncio.to_thread(near.recv, 99)) == (data, data)
            await carried.aclose()

    run(work())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tcp:8080=10.0.0.1:80", "tcp 127.0.0.1:8080 to 10.0.0.1:80"),
        ("udp:0.0.0.0:53=name.test:53", "udp 0.0.0.0:53 to name.test:53"),
        ("tcp:[::1]:1=[fd00::1]:2", "tcp [::1]:1 to [fd00::1]:2"),
    ],
)
def test_forwards_as_they_are_written(text: str, shown: str) -> None:
    assert str(forward(text)) == shown


def test_what_is_exposed_listens_on_the_tunnel() -> None:
    one = expose("udp:53=5353")
    assert (one.listen.host, one.listen.port, str(one.to)) == ("", 53, "127.0.0.1:5353")


@pytest.mark.parametrize(
    "text",
    ["", "80", "sctp:1=a:2", "tcp:1", "tcp:=a:2", "tcp:1=a", "tcp:0=a:1", "tcp:1=a:65536",
     "tcp:::1:80=a:1", "tcp:1=a b:1", "tcp:1=a..b:1", "udp:1=10.0.0.300:1",
     f"udp:1={'a' * 64}.test:1"],
)  # fmt: skip
def test_forwards_that_cannot_be_read(text: str) -> None:
    with pytest.raises(BadValue):
        forward(text)


@pytest.mark.parametrize("text", ["", ":1", "a", "a:", "a:x", "::1:80", "a:-1", " :80"])
def test_places_that_cannot_be_read(text: str) -> None:
    with pytest.raises(BadValue):
        place(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--socks5", "127.0.0.1:1080"], "--socks5 needs --config"),
        (["--userspace"], "--userspace needs --config"),
        (["--config", "x.conf", "--socks5", "1080"], "'1080' is not ADDR:PORT"),
        (["--config", "x.conf", "--forward", "tcp:1"], "is not PROTO:LISTEN=DEST"),
        (["--config", "x.conf", "--forward", "tcp:1=a..b:1"], "'a..b' is neither an address nor"),
        (
            ["--config", "x.conf", "--expose", "80"],
            "is not PROTO:PORT=LOCAL; write it as in tcp:80",
        ),
        (["--config", "x.conf", "--expose", "tcp:1.2.3.4:1=2"], "only a port can be exposed"),
        (["--config", "x.conf", "--userspace", "--include-all-networks"], "about a firewall"),
        (["--config", "x.conf", "--userspace", "--lockdown-on-exit"], "about a firewall"),
    ],
)
def test_what_the_command_line_refuses(arguments: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("[", r"\[")):
        parse(arguments)


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("ann:secret\n", 0o644, "other users may read"),
        ("secret\n", 0o600, "line 1 is not NAME:PASSWORD"),
        ("# nobody\n\n", 0o600, "no credentials are in it"),
        (None, 0o600, "cannot be read"),
    ],
)
def test_credentials_that_cannot_be_used(
    tmp_path: Path, text: str | None, mode: int, words: str
) -> None:
    file = tmp_path / "credentials"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(ConfigError, match=words) as found:
        read_credentials(file)
    assert "secret" not in str(found.value)


def test_credentials_show_nothing(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("ann:secret\n")
    file.chmod(0o600)
    assert repr(read_credentials(file)) == "<1 credentials>"
