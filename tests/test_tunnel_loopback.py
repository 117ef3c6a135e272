"""Two whole WireGuard tunnels, real engines and sockets, over loopback and without root.

test <-seqpacket-> near: session, provider, engine <-UDP-> far: the same <-seqpacket-> test
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path as FilePath

import pytest

from providers.wireguard import WireGuardProvider
from providers.wireguard.change import DeviceChange, PeerChange
from tests.engine_lab import udp
from tests.fake_machine import NO_PATH, ON_LO, FakeMachine
from tests.loops import Runner, until
from tests.wireguard_world import key_pair
from tunnel import (
    Config,
    HostPort,
    InterfaceConfig,
    PeerConfig,
    Secret,
    StopReason,
    TunnelError,
    TunnelSession,
    TunnelStatus,
)

SECOND = 1_000_000_000
NEAR, FAR = "192.168.7.1", "192.168.7.2"
KEYS = {NEAR: key_pair(1), FAR: key_pair(2)}


class NamingMachine(FakeMachine):
    """Resolves `names`, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, str] = {}
        self.asked = 0

    async def resolve(self, endpoint, path, mark):
        self.asked += 1
        if endpoint.host not in self.names:
            raise TunnelError(f"cannot resolve {endpoint.host}: no such name")
        return [ip_address(self.names[endpoint.host])]


@dataclass
class End:
    """One tunnel and the inside of its link."""

    session: TunnelSession
    machine: NamingMachine
    provider: WireGuardProvider

    @property
    def engine(self):
        return self.provider.engine

    @property
    def key_created(self) -> int:
        first = next(iter(self.provider.device.peers))
        return self.engine.peer_info(first.id).key_created

    async def send(self, packet: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._inside, packet)

    async def receive(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._inside, 65536)

    @property
    def _inside(self) -> socket.socket:
        return self.machine.tun.pairs[0][1]


def config(own: str, other: str, endpoint: HostPort | None, psk: bytes | None = None) -> Config:
    peer = PeerConfig(
        KEYS[other][1],
        preshared_key=None if psk is None else Secret(psk),
        endpoint=endpoint,
        allowed_ips=(ip_network(other),),
    )
    return Config(interface=InterfaceConfig(private_key=KEYS[own][0].copy()), peers=(peer,))


def make(name: str, configuration: Config, **options) -> End:
    provider, machine = WireGuardProvider(), NamingMachine()
    session = TunnelSession(
        provider,
        config=configuration,
        name=name,
        machine=machine,
        options={"uapi": False, **options},
    )
    return End(session, machine, provider)


@contextlib.asynccontextmanager
async def tunnels(
    host: str = "127.0.0.1", psk: bytes | None = None
) -> AsyncIterator[tuple[End, End]]:
    far = make("far", config(FAR, NEAR, None, psk))
    async with far.session:
        endpoint = HostPort(host, far.machine.outer.port)
        near = make("near", config(NEAR, FAR, endpoint, psk))
        async with near.session:
            yield near, far


def packet(number: int = 0, *, back: bool = False) -> bytes:
    source, destination = (FAR, NEAR) if back else (NEAR, FAR)
    return udp(source, destination, number.to_bytes(8))


async def exchange(near: End, far: End, number: int = 0) -> None:
    """Send a packet each way and see it arrive."""
    await near.send(packet(number))
    assert await far.receive() == packet(number)
    await far.send(packet(number, back=True))
    assert await near.receive() == packet(number, back=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("psk", [None, bytes(range(32))], ids=["no psk", "psk"])
def test_packets_flow_both_ways(run: Runner, host: str, psk: bytes | None) -> None:
    async def main() -> None:
        async with tunnels(host, psk) as (near, far):
            await near.session.wait(TunnelStatus.CONNECTED)
            for number in range(20):
                await exchange(near, far, number)
            await far.session.wait(TunnelStatus.CONNECTED)
            (report,) = near.provider.peers()
            assert report["reason"] is None
            assert 0 < report["rtt"] < 5
            assert 0 <= report["handshake_age"] < 5
            assert report["endpoint"].endswith(f":{far.machine.outer.port}")
            # A worker counts what it gave to the link once it has.
            await until(lambda: near.provider.counters()["rx_packets"] == 20)
            counters = near.provider.counters()
            assert counters["tx_packets"] == 20
            assert counters["handshake_invalid"] == 0

    run(main())


def test_an_hour_with_rekeys_under_an_injected_clock(run: Runner) -> None:
    async def main() -> None:
        async with tunnels() as (near, far):
            await exchange(near, far)
            for number in range(1, 30):
                created = near.key_created
                for end in (near, far):
                    end.engine.advance_clock(121 * SECOND)
                await exchange(near, far, number)  # with the old key, and asks for a new one
                await until(lambda created=created: near.key_created > created)
            await exchange(near, far, 30)
            for end in (near, far):
                await until(lambda end=end: end.provider.counters()["rx_packets"] == 31)
                counters = end.provider.counters()
                assert counters["rx_auth_failed"] == counters["rx_replayed"] == 0
                assert counters["handshake_invalid"] == counters["handshake_replayed"] == 0

    run(main())


def test_keys_are_erased_after_a_long_sleep(run: Runner) -> None:
    async def main() -> None:
        async with tunnels() as (near, far):
            await exchange(near, far)
            near.engine.advance_clock(541 * SECOND)
            near.provider.device.handle_timeout(near.engine.now())
            (peer,) = near.provider.device.peers
            assert near.engine.peer_info(peer.id).keys == 0
            far.engine.advance_clock(541 * SECOND)
            await exchange(near, far, 1)

    run(main())


def test_without_a_path_nothing_leaves_and_with_one_it_goes_on(run: Runner) -> None:
    async def main() -> None:
        async with tunnels() as (near, far):
            await exchange(near, far)
            near.machine.fake_monitor.change(NO_PATH)
            await near.session.wait(TunnelStatus.REASSERTING)
            sent = near.provider.counters()["tx_messages"]
            await near.send(packet(1))
            near.machine.fake_monitor.change(ON_LO)
            await near.session.wait(TunnelStatus.CONNECTED)
            await near.send(packet(2))
            while await far.receive() != packet(2):
                pass
            assert near.provider.counters()["tx_messages"] >= sent
            (peer,) = far.provider.device.peers
            assert far.engine.peer_info(peer.id).endpoint.port == near.machine.outer.port

    run(main())


def test_a_peer_that_lost_its_keys_is_found_again(run: Runner) -> None:
    async def main() -> None:
        async with tunnels() as (near, far):
            await exchange(near, far)
            created = near.key_created
            far.engine.erase_keys(next(iter(far.provider.device.peers)).id)
            await near.send(packet(1))
            await until(lambda: far.provider.counters()["rx_unknown_index"] == 1)
            for end in (near, far):
                end.engine.advance_clock(16 * SECOND)
                end.provider.device.handle_timeout(end.engine.now())
            await until(lambda: near.key_created > created)
            await exchange(near, far, 2)

    run(main())


def test_a_name_is_looked_up_until_it_resolves(run: Runner, monkeypatch) -> None:
    monkeypatch.setattr("providers.wireguard.names.FIRST_PAUSE", 0.01)

    async def main() -> None:
        far = make("far", config(FAR, NEAR, None))
        async with far.session:
            endpoint = HostPort("vpn.example", far.machine.outer.port)
            near = make("near", config(NEAR, FAR, endpoint))
            async with near.session:
                await until(lambda: near.machine.asked >= 3)
                (report,) = near.provider.peers()
                assert report["reason"] == "cannot resolve vpn.example: no such name"
                assert near.session.status is TunnelStatus.CONNECTING
                near.machine.names["vpn.example"] = "127.0.0.1"
                await near.session.wait(TunnelStatus.CONNECTED)
                await exchange(near, far)

    run(main())


def test_a_name_that_never_resolves_does_not_hold_up_the_end(run: Runner) -> None:
    async def main() -> None:
        near = make("near", config(NEAR, FAR, HostPort("vpn.example", 1)))
        async with near.session:
            await asyncio.sleep(0)

    run(main())


def test_changes_of_port_mark_and_peers(run: Runner) -> None:
    async def main() -> None:
        async with tunnels() as (near, far):
            await exchange(near, far)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
                taken.bind(("0.0.0.0", 0))
                port = taken.getsockname()[1]
                before = near.provider.get_snapshot().listen_port
                with pytest.raises(OSError, match=r"\S") as caught:
                    await near.provider.configure(DeviceChange(listen_port=port))
                assert caught.value.errno == errno.EADDRINUSE
                assert near.provider.get_snapshot().listen_port == before
            await exchange(near, far, 1)
            await near.provider.configure(DeviceChange(listen_port=port))
            assert near.provider.get_snapshot().listen_port == port
            await exchange(near, far, 2)
            (peer,) = far.provider.device.peers
            assert far.engine.peer_info(peer.id).endpoint.port == port
            bad = DeviceChange(listen_port=0, peers=(PeerChange(bytes(3)),))
            with pytest.raises(ValueError, match="public key"):
                await near.provider.configure(bad)
            assert near.provider.get_snapshot().listen_port == port

    run(main())


def test_a_reload_keeps_the_sessions_of_peers_that_stay(run: Runner) -> None:
    async def main() -> None:
        async with tunnels() as (near, far):
            await exchange(near, far)
            created = near.key_created
            old = near.session.config
            other = PeerConfig(key_pair(9)[1], allowed_ips=(ip_network("10.0.0.0/8"),))
            await near.session.reload(replace(old, peers=(*old.peers, other)))
            assert len(near.provider.device.peers) == 2
            await exchange(near, far, 1)
            assert near.key_created == created
            await near.session.reload(old)
            assert len(near.provider.device.peers) == 1
            await exchange(near, far, 2)
            assert near.key_created == created

    run(main())


def test_a_reload_that_fails_changes_nothing(run: Runner) -> None:
    async def main() -> None:
        async with tunnels() as (near, far):
            await exchange(near, far)
            before = near.provider.get_snapshot()
            near.machine.fake_routes.failures.append(TunnelError("no routes today"))
            with pytest.raises(TunnelError, match="no routes today"):
                await near.session.reload(replace(near.session.config, peers=()))
            after = near.provider.get_snapshot()
            assert [p.public_key for p in after.peers] == [p.public_key for p in before.peers]
            assert after.listen_port == before.listen_port
            await exchange(near, far, 1)

    run(main())


def test_without_configuration_it_waits_for_wg_set(run: Runner, tmp_path: FilePath) -> None:
    async def main() -> None:
        near = make("near", Config(), uapi=tmp_path)
        async with near.session:
            assert near.session.status is TunnelStatus.CONNECTING
            assert "no private key" in near.session.status_reason
            reader, writer = await asyncio.open_unix_connection(tmp_path / "near.sock")
            key = bytes(KEYS[NEAR][0].reveal()).hex()
            peer = KEYS[FAR][1].hex()
            writer.write(f"set=1\nprivate_key={key}\npublic_key={peer}\n\nget=1\n\n".encode())
            assert (await reader.readuntil(b"\n\n")) == b"errno=0\n\n"
            shown = (await reader.readuntil(b"\n\n")).decode()
            assert f"private_key={key}" in shown
            assert f"public_key={peer}" in shown
            assert f"listen_port={near.machine.outer.port}" in shown
            writer.close()
            assert "no endpoint" in near.session.status_reason

    run(main())


def test_the_end_wipes_and_releases_everything(run: Runner) -> None:
    async def main() -> None:
        async with tunnels() as (near, far):
            await exchange(near, far)
            device, provider = near.provider.device, near.provider
            (peer,) = device.peers
            secrets = device.identity.private.reveal(), peer.handshake.static_static
        assert not any(map(any, secrets))
        assert provider.peers() == []
        assert provider.counters() == {}
        with pytest.raises(TunnelError, match="not running"):
            _ = provider.device

    run(main())


def test_a_start_that_fails_leaves_nothing(run: Runner) -> None:
    async def main() -> None:
        near = make("near", config(NEAR, FAR, None))
        near.machine.fake_routes.failures = [TunnelError("first"), TunnelError("no routes")]
        near.machine.fake_routes.failures.pop(0)
        near.machine.fake_monitor.path = NO_PATH
        with pytest.raises(TunnelError, match="no routes"):
            await near.session.start()
        assert near.provider.counters() == {}
        assert near.session.failure is not None
        await near.session.stop(StopReason.USER_INITIATED)

    run(main())
