"""Changes to a device: keys, peers, allowed IPs; checked whole before anything is done."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, ip_address, ip_network

import pytest

from providers.wireguard.change import DeviceChange, PeerChange
from providers.wireguard.cookie import CookieJar
from providers.wireguard.messages import parse
from providers.wireguard.peer import Phase
from tests.wireguard_world import PORT, World, key_pair
from tunnel import Endpoint, Secret

A, B = (key_pair(number)[1] for number in (101, 102))
NETS = [ip_network(text) for text in ("10.1.0.0/16", "10.1.2.0/24", "fd00::/64", "0.0.0.0/0")]


@pytest.fixture
def node():
    return World().node("10.0.0.1")


def nets(node, key) -> list:
    return list(node.device.peers.by_key[key].allowed_ips)


def in_step(node) -> bool:
    """Whether the engine's allowed IPs and ours are the same."""
    mirror = {network: peer.id for peer in node.device.peers for network in peer.allowed_ips}
    return mirror == node.engine.allowed


# ---- what is refused, and then changes nothing ----

GOOD = PeerChange(B, allowed_ips=((True, NETS[0]),))
BAD = {
    "a short key": DeviceChange(peers=(GOOD, PeerChange(bytes(31)))),
    "a long keepalive": DeviceChange(peers=(GOOD, PeerChange(A, persistent_keepalive=65536))),
    "a negative keepalive": DeviceChange(peers=(GOOD, PeerChange(A, persistent_keepalive=-1))),
    "port 0": DeviceChange(peers=(GOOD, PeerChange(A, endpoint=(ip_address("10.0.0.1"), 0)))),
    "port 65536": DeviceChange(
        peers=(GOOD, PeerChange(A, endpoint=(ip_address("10.0.0.1"), 65536)))
    ),
    "a scope by name": DeviceChange(
        peers=(GOOD, PeerChange(A, endpoint=(ip_address("fe80::1%wlan0"), 1)))
    ),
    "a listen port": DeviceChange(listen_port=65536, peers=(GOOD,)),
    "a mark": DeviceChange(fwmark=2**32, peers=(GOOD,)),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_a_bad_change_changes_nothing(node, change):
    node.configure(PeerChange(A))
    before = node.device.snapshot()
    with pytest.raises(ValueError, match=r"\S"):
        node.device.configure(change, node.world.clock.now)
    assert node.device.snapshot() == before
    assert node.engine.allowed == {}


# ---- peers ----


def test_peers_are_added_changed_and_removed(node):
    node.configure(PeerChange(A, endpoint=(ip_address("10.0.0.9"), PORT)), PeerChange(B))
    assert [peer.public_key for peer in node.device.snapshot().peers] == [A, B]
    node.configure(PeerChange(A, persistent_keepalive=30))
    first = node.device.snapshot().peers[0]
    assert (first.endpoint, first.persistent_keepalive) == ((ip_address("10.0.0.9"), PORT), 30)
    node.configure(PeerChange(A, remove=True))
    assert list(node.device.peers.by_key) == [B]
    assert len(node.engine.peers) == 1


def test_update_only_makes_no_peer(node):
    node.configure(PeerChange(A, update_only=True, persistent_keepalive=3))
    assert len(node.device.peers) == 0
    node.configure(PeerChange(A))
    node.configure(PeerChange(A, update_only=True, persistent_keepalive=3))
    assert node.device.snapshot().peers[0].persistent_keepalive == 3


def test_removing_a_peer_that_is_not_there_is_nothing(node):
    node.configure(PeerChange(A, remove=True))
    assert len(node.device.peers) == 0


def test_replace_peers(node):
    node.configure(PeerChange(A, allowed_ips=((True, NETS[0]),)))
    change = DeviceChange(
        replace_peers=True, peers=(PeerChange(B, allowed_ips=((True, NETS[1]),)),)
    )
    node.device.configure(change, node.world.clock.now)
    assert list(node.device.peers.by_key) == [B]
    assert in_step(node)


def test_a_peer_with_our_own_key_is_ignored(node):
    node.configure(PeerChange(node.public, allowed_ips=((True, NETS[0]),)))
    assert len(node.device.peers) == 0
    assert node.engine.allowed == {}


def test_taking_a_peers_key_for_our_own_removes_it(node):
    private, public = key_pair(55)
    node.configure(PeerChange(public), PeerChange(A))
    node.configure(private_key=private)
    assert list(node.device.peers.by_key) == [A]


def test_a_removed_peer_is_wiped_and_forgotten():
    world = World()
    a, b = world.pair(psk=bytes([7] * 32))
    a.send(b)
    world.run(0.015)
    peer = a.peer(b)
    secret, psk = peer.handshake.static_static, peer.handshake.preshared
    a.configure(PeerChange(b.public, remove=True))
    assert not any(secret)
    assert not psk
    assert peer.handshake.outstanding is None
    world.run(600)  # the response comes late, and finds nobody
    assert a.device.counts["handshake_unsolicited"] == 1
    assert a.device.next_deadline() is None


# ---- allowed IPs ----


def test_an_allowed_ip_moves_to_the_newest_that_claims_it(node):
    node.configure(PeerChange(A, allowed_ips=((True, NETS[0]), (True, NETS[1]))))
    node.configure(PeerChange(B, allowed_ips=((True, NETS[1]), (True, NETS[2]))))
    assert nets(node, A) == [NETS[0]]
    assert nets(node, B) == [NETS[1], NETS[2]]
    assert in_step(node)


def test_only_the_owner_can_give_an_allowed_ip_back(node):
    node.configure(PeerChange(A, allowed_ips=((True, NETS[0]),)), PeerChange(B))
    node.configure(PeerChange(B, allowed_ips=((False, NETS[0]), (False, NETS[3]))))
    assert nets(node, A) == [NETS[0]]
    node.configure(PeerChange(A, allowed_ips=((False, NETS[0]),)))
    assert nets(node, A) == []
    assert in_step(node)


def test_replacing_allowed_ips_comes_before_adding(node):
    node.configure(PeerChange(A, allowed_ips=((True, NETS[0]), (True, NETS[2]))))
    node.configure(PeerChange(A, replace_allowed_ips=True, allowed_ips=((True, NETS[3]),)))
    assert nets(node, A) == [NETS[3]]
    assert in_step(node)


def test_replacing_allowed_ips_leaves_those_that_stay_in_place(node, monkeypatch):
    node.configure(PeerChange(A, allowed_ips=((True, NETS[0]), (True, NETS[2]))))
    engine, taken = node.device.engine, []
    disallow = engine.disallow
    monkeypatch.setattr(engine, "clear_allowed", lambda peer: taken.append("all"))
    monkeypatch.setattr(
        engine, "disallow", lambda peer, network: (taken.append(network), disallow(peer, network))
    )
    kept = ((True, NETS[2]), (True, NETS[3]))
    node.configure(PeerChange(A, replace_allowed_ips=True, allowed_ips=kept))
    assert taken == [NETS[0]]
    assert nets(node, A) == [NETS[2], NETS[3]]
    assert in_step(node)


def test_allowed_ips_change_in_the_order_given(node):
    node.configure(PeerChange(A, allowed_ips=((True, NETS[0]), (False, NETS[0]))))
    assert nets(node, A) == []
    assert in_step(node)


def test_the_same_again_changes_nothing(node):
    change = PeerChange(A, allowed_ips=((True, NETS[0]),))
    node.configure(change)
    node.configure(change)
    assert nets(node, A) == [NETS[0]]
    assert in_step(node)


# ---- keys ----


def up(psk: bytes | None = None) -> tuple:
    world = World()
    a, b = world.pair(psk=psk)
    a.send(b)
    world.run(1)
    assert a.peer(b).phase is Phase.UP
    return world, a, b


def test_a_psk_change_drops_no_session_and_counts_from_the_next_handshake():
    world, a, b = up()
    a.add(b, psk=bytes([1] * 32))
    packet = a.send(b)
    world.run(1)
    assert b.received[-1] == packet  # the session lives
    world.run(120)
    a.send(b)
    world.run(1)
    assert len(a.sent(1)) == 2
    assert a.device.counts["handshake_invalid"] == 1  # the next handshake has another psk
    b.add(a, psk=bytes([1] * 32))
    world.run(6)
    assert len(a.sent(1)) == 3
    packet = a.send(b)
    world.run(1)
    assert b.received[-1] == packet


def test_a_psk_of_zeros_clears_it():
    _, a, b = up(psk=bytes([1] * 32))
    a.add(b, psk=bytes(32))
    assert not a.device.snapshot().peers[0].preshared_key


def test_a_new_private_key_ends_sessions_and_makes_new_secrets():
    world, a, b = up()
    old_secret = a.peer(b).handshake.static_static
    private, public = key_pair(77)
    a.configure(private_key=private)
    assert not a.info(b).keys
    assert not any(old_secret)
    assert a.peer(b).phase is Phase.NEW
    assert a.engine.calls.count(("set_identity", public)) == 1
    a.public = public
    b.add(a)
    packet = a.send(b)
    world.run(1)
    assert b.received[-1] == packet


def test_a_handshake_under_way_ends_with_the_private_key():
    world = World()
    a, b = world.pair()
    a.send(b)
    world.run(0.015)
    response = parse(b.sent(2)[0].data)
    a.configure(private_key=key_pair(77)[0])
    assert a.peer(b).handshake.outstanding is None
    # The response fails by its mac1; and where somebody makes a new one, by nothing waiting for it.
    world.run(1)
    assert a.engine.dropped == 1
    forged = CookieJar(a.device.identity.public).sign(response.pack(), world.clock.now)
    a.engine.deliver(forged, Endpoint(b.place[0], PORT))
    a.pump()
    assert a.device.counts["handshake_unsolicited"] == 1
    assert not a.info(b).keys


def test_the_same_private_key_again_changes_nothing():
    _, a, b = up()
    a.configure(private_key=a.private)
    assert a.info(b).keys
    unclamped = Secret(a.private.reveal())
    unclamped.reveal()[0] |= 7
    a.configure(private_key=unclamped)
    assert a.info(b).keys


def test_a_private_key_of_zeros_clears_it():
    world, a, b = up()
    a.configure(private_key=Secret(bytes(32)))
    assert a.device.snapshot().private_key is None
    assert a.engine.calls[-1] != ("set_identity", a.public)
    assert not a.info(b).keys
    a.send(b)
    world.run(30)
    assert len(a.sent(1)) == 1  # nothing more
    a.configure(private_key=a.private)
    packet = a.send(b)
    world.run(1)
    assert b.received[-1] == packet


def test_the_private_key_is_shown_clamped_and_the_change_may_be_wiped(node):
    key = Secret(bytes([255] * 32))
    change = DeviceChange(private_key=key, peers=(PeerChange(A, preshared_key=Secret(A)),))
    node.device.configure(change, 0)
    change.wipe()
    shown = node.device.snapshot()
    assert shown.private_key.reveal()[0] == 0xF8
    assert shown.private_key.reveal()[31] == 0x7F
    assert shown.peers[0].preshared_key == Secret(A)


def test_peers_may_come_before_the_private_key():
    world = World()
    a, b = world.pair()
    a.configure(private_key=Secret(bytes(32)))
    assert not a.peer(b).usable
    a.configure(private_key=a.private)
    assert a.peer(b).usable
    packet = a.send(b)
    world.run(1)
    assert b.received == [packet]


def test_closing_wipes_everything():
    _, a, b = up(psk=bytes([5] * 32))
    peer, identity = a.peer(b), a.device.identity
    secrets = peer.handshake.static_static, identity.private.reveal(), a.device._issuer.secret
    a.device.close()
    assert not any(map(any, secrets))
    assert a.engine.peers == {}
    assert a.engine.calls[-1] == ("set_identity", None)


# ---- snapshots ----


def test_a_scope_comes_back_in_the_address(node):
    node.configure(PeerChange(A, endpoint=(IPv6Address("fe80::1%7"), PORT)))
    assert node.engine.peer_info(node.device.peers.by_key[A].id).endpoint.scope == 7
    assert node.device.snapshot().peers[0].endpoint == (IPv6Address("fe80::1%7"), PORT)


def test_a_snapshot_tells_of_handshake_and_traffic():
    world, a, b = up()
    (peer,) = a.device.snapshot().peers
    assert world.clock.wall - 10**9 <= peer.last_handshake <= world.clock.wall
    assert peer.rx_bytes == sum(len(d.data) for d in b.sent(2) + b.sent(4))
    assert peer.tx_bytes == sum(len(d.data) for d in a.sent(1) + a.sent(4))
    assert peer.allowed_ips == (IPv4Network(b.inner),)


def test_reasons_in_words(node):
    node.configure(PeerChange(A))
    peer = node.device.peers.by_key[A]
    now = node.world.clock.now
    assert "no private key" in peer.reason(now, has_identity=False)
    assert "no endpoint" in peer.reason(now, has_identity=True)
    peer.note = "cannot resolve vpn.example"
    assert peer.reason(now, has_identity=True) == "cannot resolve vpn.example"
    node.configure(PeerChange(A, endpoint=(ip_address("10.0.0.9"), PORT)))
    assert "waiting for traffic" in peer.reason(now, has_identity=True)
    node.device.connect(now, A)
    node.world.run(7)
    assert peer.reason(node.world.clock.now, has_identity=True) == "no answer for 7 s"
