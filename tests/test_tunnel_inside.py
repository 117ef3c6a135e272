"""A session's own connections through a real WireGuard tunnel, without root.

near: a stack in place of a TUN <-UDP-> far: a stack beside a TUN, whose packets the test sees
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import select
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv6Interface, ip_network
from typing import Any

import pytest

from providers.wireguard import WireGuardProvider
from tests.engine_lab import udp
from tests.fake_machine import NO_PATH, ON_LO, FakeMachine
from tests.loops import Runner, until
from tests.wireguard_world import key_pair
from tunnel import (
    Config,
    HostPort,
    InterfaceConfig,
    PeerConfig,
    TunnelError,
    TunnelSession,
    TunnelStatus,
)
from tunnel.netstack.aio import reserved
from tunnel.stacklink import LinkTun

NEAR, FAR = ("192.168.7.1", "fd77::1"), ("192.168.7.2", "fd77::2")
KEYS = {NEAR: key_pair(1), FAR: key_pair(2)}
DATA = bytes(range(256)) * 4000


class Rootless(FakeMachine):
    """A machine whose tunnel has no TUN."""

    def create_tun(self, name: str, workers: int) -> Any:
        return LinkTun(workers)


def config(own: tuple[str, str], other: tuple[str, str], endpoint: HostPort | None) -> Config:
    networks = tuple(ip_network(address) for address in other)
    peer = PeerConfig(KEYS[other][1], endpoint=endpoint, allowed_ips=networks)
    addresses = (IPv4Interface(f"{own[0]}/24"), IPv6Interface(f"{own[1]}/64"))
    interface = InterfaceConfig(private_key=KEYS[own][0].copy(), addresses=addresses)
    return Config(interface=interface, peers=(peer,))


def session(
    name: str, configuration: Config, machine: FakeMachine, workers: int = 1
) -> TunnelSession:
    return TunnelSession(
        WireGuardProvider(), config=configuration, name=name, machine=machine,
        options={"uapi": False}, workers=workers,
    )  # fmt: skip


@dataclass
class World:
    near: TunnelSession
    far: TunnelSession
    near_machine: FakeMachine
    far_machine: FakeMachine


@contextlib.asynccontextmanager
async def world(workers: int = 1) -> AsyncIterator[World]:
    far_machine, near_machine = FakeMachine(), Rootless()
    far = session("far", config(FAR, NEAR, None), far_machine, workers)
    async with far:
        endpoint = HostPort("127.0.0.1", far_machine.outer.port)
        near = session("near", config(NEAR, FAR, endpoint), near_machine, workers)
        async with near:
            await near.wait(TunnelStatus.CONNECTED)
            yield World(near, far, near_machine, far_machine)


async def digest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(hashlib.sha256(await reader.read()).digest())
    writer.close()


@pytest.mark.parametrize("family", [0, 1])
def test_both_ends_connect_and_listen(run: Runner, family: int) -> None:
    async def work() -> None:
        async with world() as w:
            beside = await w.far.start_server(digest)
            alone = await w.near.start_server(digest, None, 80)
            for one, host, port in (
                (w.near, FAR[family], beside.addresses[0][1]),
                (w.far, NEAR[family], 80),
            ):
                reader, writer = await one.open_connection(host, port)
                writer.write(DATA)
                await writer.drain()
                writer.write_eof()
                assert await reader.read() == hashlib.sha256(DATA).digest()
                writer.close()
            assert 0 < await w.far.ping(NEAR[family]) < 30
            alone.close()

    run(work())


def test_beside_a_tun_all_else_goes_to_the_kernel(run: Runner) -> None:
    async def work() -> None:
        async with world() as w:
            assert w.far_machine.tun is not None
            kernel = w.far_machine.tun.pairs[0][1]
            server = await w.far.start_server(digest)
            port = server.addresses[0][1]
            await w.near.open_connection(FAR[0], port)
            assert not select.select([kernel], [], [], 0)[0]
            opening = asyncio.create_task(w.near.open_connection(FAR[0], port ^ 1))
            packet = await asyncio.get_running_loop().sock_recv(kernel, 70_000)
            assert packet[22:24] == (port ^ 1).to_bytes(2, "big")
            opening.cancel()
            kernel.send(udp(FAR[0], NEAR[0], b"from the kernel"))  # and it still sends, too
            await until(lambda: w.near.net().stack.counters.get("udp_no_socket") == 1)

    run(work())


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_that_the_kernel_uses_is_an_error(run: Runner, kind: int) -> None:
    async def work() -> None:
        async with world() as w:
            with socket.socket(socket.AF_INET, kind) as taken:
                taken.bind(("", 0))
                port = taken.getsockname()[1]
                if kind == socket.SOCK_STREAM:
                    opening = w.far.start_server(digest, None, port)
                else:
                    opening = w.far.create_datagram_endpoint(
                        asyncio.DatagramProtocol, (FAR[0], port)
                    )
                with pytest.raises(OSError, match="in use by another program") as error:
                    await opening
                assert error.value.errno == errno.EADDRINUSE

    run(work())


def may_bind(port: int, host: str = "", kind: int = socket.SOCK_STREAM) -> bool:
    with socket.socket(socket.AF_INET, kind) as late:
        try:
            late.bind((host, port))
        except OSError:
            return False
    return True


def test_a_claimed_port_is_the_stacks_until_it_is_closed(run: Runner) -> None:
    async def work() -> None:
        async with world() as w:
            server = await w.far.start_server(digest)
            port = server.addresses[0][1]
            assert not may_bind(port)
            assert may_bind(port, "127.0.0.1"), "what is exposed there may listen here"
            server.close()
            assert may_bind(port)

    run(work())


def test_a_port_is_given_back_when_nothing_uses_it_any_more(run: Runner) -> None:
    async def work() -> None:
        async with world() as w:
            net = w.far.net()
            transport, _ = await net.create_datagram_endpoint(asyncio.DatagramProtocol)
            port = transport.get_extra_info("sockname")[1]
            assert not may_bind(port, kind=socket.SOCK_DGRAM)
            transport.close()
            assert may_bind(port, kind=socket.SOCK_DGRAM)
            with pytest.raises(OSError, match="Cannot assign"):
                await net.start_server(digest, "10.9.9.9", port)
            server = await net.start_server(digest)
            served = server.addresses[0][1]
            _, writer = await w.near.open_connection(FAR[0], served)
            server.close()
            net.tidy()
            assert may_bind(port)
            assert not may_bind(served), "a connection lives on it"
            writer.transport.abort()
            await until(lambda: served not in net.stack.tcp.local_ports())
            net.tidy()
            assert may_bind(served)

    run(work())


def test_ports_of_connections_that_left_are_kept_within_reason(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reserved, "SPARE", 1)

    async def work() -> None:
        async with world() as w:
            server = await w.near.start_server(digest)
            where = server.addresses[0]
            opened = [await w.far.open_connection(*where) for _ in range(3)]
            net = w.far.net()
            ports = [writer.get_extra_info("sockname")[1] for _, writer in opened]
            net.tidy()
            assert not any(may_bind(one) for one in ports)
            for _, writer in opened:
                writer.transport.abort()
            await until(lambda: not net.stack.tcp.local_ports())
            net.tidy()
            assert [may_bind(one) for one in ports].count(False) == 1

    run(work())


def test_ports_follow_the_tunnels_addresses(run: Runner) -> None:
    async def work() -> None:
        async with world() as w:
            server = await w.far.start_server(digest)
            port = server.addresses[0][1]
            w.far.net().configure(["127.0.0.9"], 1420, [])
            assert not may_bind(port, "127.0.0.9")
            assert may_bind(port, "127.0.0.1")

    run(work())


def test_connections_survive_a_move_of_the_path(run: Runner) -> None:
    async def work() -> None:
        async with world() as w:
            server = await w.far.start_server(digest)
            reader, writer = await w.near.open_connection(FAR[0], server.addresses[0][1])
            writer.write(DATA[:1000])
            w.near_machine.fake_monitor.change(NO_PATH)
            await w.near.wait(TunnelStatus.REASSERTING)
            writer.write(DATA[1000:])
            w.near_machine.fake_monitor.change(ON_LO)
            await w.near.wait(TunnelStatus.CONNECTED)
            writer.write_eof()
            assert await reader.read() == hashlib.sha256(DATA).digest()

    run(work())


def test_connections_survive_a_restart_of_the_peer_that_kept_them(run: Runner) -> None:
    """The far tunnel starts anew, with new keys and another port; the connection is in between."""

    async def work() -> None:
        async with world() as w:
            server = await w.far.start_server(digest)
            reader, writer = await w.near.open_connection(FAR[0], server.addresses[0][1])
            writer.write(DATA[:1000])
            await writer.drain()
            provider: Any = w.far.provider
            (peer,) = provider.device.peers
            provider.engine.erase_keys(peer.id)
            writer.write(DATA[1000:])
            writer.write_eof()
            w.near.net().nudge()
            near: Any = w.near.provider
            (far_peer,) = near.device.peers
            near.engine.erase_keys(far_peer.id)  # as it learns that its keys are dead
            assert await reader.read() == hashlib.sha256(DATA).digest()

    run(work())


def test_the_end_of_the_tunnel_is_told_at_once(run: Runner) -> None:
    async def work() -> None:
        async with world() as w:
            server = await w.far.start_server(digest)
            reader, _ = await w.near.open_connection(FAR[0], server.addresses[0][1])
            await w.near.stop()
            with pytest.raises(ConnectionAbortedError):
                await reader.read()
            with pytest.raises(TunnelError, match="not up"):
                await w.near.open_connection(FAR[0], 80)

    run(work())


@pytest.mark.parametrize("what", ["a move", "its return"])
def test_a_peer_that_forgot_the_connection_is_told_at(run: Runner, what: str) -> None:
    async def work() -> None:
        async with world() as w:
            server = await w.far.start_server(digest)
            reader, _ = await w.near.open_connection(FAR[0], server.addresses[0][1])
            table = w.far.net().stack.tcp
            await until(lambda: bool(table.sockets))
            for lost in list(table.sockets.values()):
                table.timers.set(lost, None)
            table.sockets.clear()  # it lost its memory
            if what == "a move":
                w.near_machine.fake_monitor.change(replace(ON_LO, reason="moved"))
            else:
                w.near.peer_returned()
            with pytest.raises(ConnectionResetError):
                await reader.read()

    run(work())


def test_a_connection_of_an_address_that_goes_is_told(run: Runner) -> None:
    async def work() -> None:
        async with world() as w:
            server = await w.far.start_server(digest)
            reader, _ = await w.near.open_connection(FAR[0], server.addresses[0][1])
            kept, other = await w.near.open_connection(FAR[1], server.addresses[0][1])
            now = w.near.config
            interface = replace(now.interface, addresses=now.interface.addresses[1:])
            await w.near.reload(replace(now, interface=interface))
            with pytest.raises(OSError, match="assign"):
                await reader.read()
            other.write(DATA)
            other.write_eof()
            assert await kept.read() == hashlib.sha256(DATA).digest()

    run(work())


def test_before_the_start_there_is_no_inside() -> None:
    idle = session("idle", config(NEAR, FAR, None), Rootless())
    with pytest.raises(TunnelError, match="not up; start it first"):
        idle.net()


def test_an_address_that_no_peer_has_is_an_error_at_once(run: Runner) -> None:
    async def work() -> None:
        async with world() as w:
            for end in (w.near, w.far):
                with pytest.raises(OSError, match="cannot connect to 203") as error:
                    await end.open_connection("203.0.113.1", 80)
                assert error.value.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)

    run(work())


def test_several_workers_share_the_stacks_link(run: Runner) -> None:
    async def work() -> None:
        async with world(workers=3) as w:
            server = await w.far.start_server(digest)
            for _ in range(5):
                reader, writer = await w.near.open_connection(FAR[0], server.addresses[0][1])
                writer.write(DATA)
                writer.write_eof()
                assert await reader.read() == hashlib.sha256(DATA).digest()

    run(work())
