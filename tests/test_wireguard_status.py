"""The tunnel's status and reason, and the report of a peer, as the device goes along."""

from __future__ import annotations

import base64
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest

from providers.wireguard.change import PeerChange
from providers.wireguard.fromconfig import change_between, first_change
from providers.wireguard.status import peer_report, shown, tunnel_status
from tests.wireguard_world import World, key_pair
from tunnel import Config, Endpoint, HostPort, InterfaceConfig, PeerConfig, Secret, TunnelStatus


def test_from_nothing_to_connected_and_lost() -> None:
    world = World()
    a = world.node("10.0.0.1")
    a.configure(private_key=Secret(bytes(32)))
    assert tunnel_status(a.device) == (
        TunnelStatus.CONNECTING, "no private key: waiting for `wg set`",
    )  # fmt: skip
    a.configure(private_key=a.private)
    assert tunnel_status(a.device)[1] == "no peers: waiting for `wg set`"
    b = world.node("10.0.0.2")
    b.add(a)
    a.add(b, endpoint=False)
    assert tunnel_status(a.device)[1] == "no endpoint: waiting for the peer"
    a.peer(b).note = "cannot resolve vpn.example: no such name"
    assert tunnel_status(a.device)[1] == "cannot resolve vpn.example: no such name"
    a.add(b)
    assert "waiting for traffic" in tunnel_status(a.device)[1]

    b.online = False
    a.send(b)
    world.run(1)
    assert tunnel_status(a.device, "Network is unreachable") == (
        TunnelStatus.CONNECTING,
        "waiting for an answer from 10.0.0.2:51820; sending fails: Network is unreachable",
    )
    world.run(200)
    assert "trying again at the next packet" in tunnel_status(a.device)[1]

    b.online = True
    a.send(b)
    world.run(1)
    assert tunnel_status(a.device) == (TunnelStatus.CONNECTED, "handshake complete")
    world.run(600)  # its keys are erased, which is no loss
    assert tunnel_status(a.device)[0] is TunnelStatus.CONNECTED
    b.online = False
    a.send(b)
    world.run(1)
    assert tunnel_status(a.device)[0] is TunnelStatus.REASSERTING


def test_one_of_several_is_connected() -> None:
    world = World()
    a, b = world.pair()
    a.configure(PeerChange(key_pair(50)[1]))
    assert "and 1 more peers" in tunnel_status(a.device)[1]
    a.send(b)
    world.run(1)
    assert tunnel_status(a.device) == (TunnelStatus.CONNECTED, "1 of 2 peers")


def test_a_single_lost_retry_is_no_loss_yet() -> None:
    world = World()
    a, b = world.pair()
    a.send(b)
    world.run(121)
    b.online = False
    a.send(b)  # asks for new keys, and the answer is lost
    world.run(1)
    assert tunnel_status(a.device)[0] is TunnelStatus.CONNECTED
    world.run(6)
    assert tunnel_status(a.device)[0] is TunnelStatus.REASSERTING


def test_a_peers_report() -> None:
    world = World()
    a, b = world.pair()
    a.send(b)
    world.run(3)
    assert peer_report(a.device, a.peer(b), world.clock.now) == {
        "public_key": base64.b64encode(b.public).decode(),
        "endpoint": "10.0.0.2:51820",
        "handshake_age": 2.98,
        "rtt": 0.02,
        "rx_bytes": 92,
        "tx_bytes": 148 + 64,
        "reason": None,
    }


@pytest.mark.parametrize(
    ("address", "scope", "text"),
    [("2001:db8::1", 0, "[2001:db8::1]:7"), ("fe80::1", 3, "[fe80::1%3]:7")],
)
def test_endpoints_as_people_write_them(address: str, scope: int, text: str) -> None:
    assert shown(Endpoint(IPv6Address(address), 7, scope=scope)) == text


# ---- from configuration ----


def config(*peers: PeerConfig) -> Config:
    return Config(interface=InterfaceConfig(private_key=key_pair(1)[0].copy()), peers=peers)


A, B = key_pair(2)[1], key_pair(3)[1]
NETS = [IPv4Network("10.0.0.0/8"), IPv4Network("10.1.0.0/16")]


def test_the_first_change_holds_everything_but_names() -> None:
    change = first_change(
        config(
            PeerConfig(A, endpoint=HostPort("192.0.2.1", 5), allowed_ips=(NETS[0],)),
            PeerConfig(B, endpoint=HostPort("vpn.example", 5), persistent_keepalive=25),
        )
    )
    assert change.private_key == key_pair(1)[0]
    first, second = change.peers
    assert str(first.endpoint[0]) == "192.0.2.1"
    assert first.allowed_ips == ((True, NETS[0]),)
    assert second.endpoint is None
    assert second.persistent_keepalive == 25


def test_a_reload_leaves_an_endpoint_alone_that_is_written_as_before() -> None:
    here, there = HostPort("192.0.2.1", 5), HostPort("192.0.2.2", 5)
    old = config(PeerConfig(A, endpoint=here, allowed_ips=tuple(NETS)), PeerConfig(B))
    change = change_between(old, config(PeerConfig(A, endpoint=here, allowed_ips=(NETS[1],))))
    gone, kept = change.peers
    assert (gone.public_key, gone.remove) == (B, True)
    assert kept.endpoint is None
    assert kept.allowed_ips == ((False, NETS[0]), (True, NETS[1]))
    moved = change_between(old, config(PeerConfig(A, endpoint=there)))
    assert moved.peers[1].endpoint == (IPv4Address("192.0.2.2"), 5)


def test_a_psk_that_is_gone_from_the_file_is_cleared() -> None:
    old = config(PeerConfig(A, preshared_key=Secret(bytes([1] * 32))))
    (kept,) = change_between(old, config(PeerConfig(A))).peers
    assert kept.preshared_key is not None
    assert not kept.preshared_key
