"""The engine's calls, events and sessions: what Python sees and decides."""

from __future__ import annotations

import ast
import errno
import os
import select
import socket
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.engine_lab import SECOND, Lab, tcp, udp
from tunnel import engine as engine_module
from tunnel._core import lib
from tunnel.engine import (
    KEY_CURRENT,
    KEY_NEXT,
    KEY_PREVIOUS,
    AuthenticationError,
    Endpoint,
    Engine,
    EngineError,
    EventKind,
    hchacha20,
    open_,
    parse,
    seal,
    wipe,
)

NEAR, FAR = "10.0.0.1", "10.0.0.2"
PACKET = udp(NEAR, FAR, b"out")
REPLY = udp(FAR, NEAR, b"back")


@pytest.mark.parametrize(
    "arguments",
    [
        {"workers": 0},
        {"workers": 17},
        {"ring_slots": 63},
        {"ring_slots": 100},
        {"ring_slots": 1 << 17},
    ],
)
def test_options_out_of_range(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="engine: new"):
        Engine(**arguments)


def test_lifecycle_may_be_repeated() -> None:
    engine = Engine(workers=2)
    engine.start()
    with pytest.raises(EngineError) as caught:
        engine.start()
    assert caught.value.errno == errno.EALREADY
    engine.stop()
    engine.stop()
    engine.start()
    engine.close()
    engine.close()


def test_unknown_peers_are_named() -> None:
    with Engine() as engine:
        for call in (engine.remove_peer, engine.peer_info, engine.flush, engine.idle):
            with pytest.raises(EngineError, match=r"engine: \w+: No such file") as caught:
                call(7)
            assert caught.value.errno == errno.ENOENT


def test_peer_identifiers_are_reused_late() -> None:
    with Engine() as engine:
        first = engine.add_peer()
        engine.remove_peer(first)
        assert engine.add_peer() != first


def test_endpoints_are_checked_and_read_back() -> None:
    with Engine() as engine:
        peer = engine.add_peer()
        assert engine.peer_info(peer).endpoint is None
        whole = Endpoint(
            ip_address("fe80::1"),
            51820,
            path=2,
            scope=3,
            source=ip_address("fe80::2"),
            source_interface=4,
        )
        engine.set_endpoint(peer, whole)
        assert engine.peer_info(peer).endpoint == whole
        for bad in (Endpoint(ip_address(NEAR), 0), Endpoint(ip_address(NEAR), 1, path=4)):
            with pytest.raises(ValueError, match="endpoint"):
                engine.set_endpoint(peer, bad)
        engine.set_endpoint(peer, None)
        assert engine.peer_info(peer).endpoint is None


def test_allowed_networks_move_to_the_newest_claimant() -> None:
    with Engine() as engine:
        one, two = engine.add_peer(), engine.add_peer()
        engine.allow(one, ip_network("10.0.0.0/8"))
        engine.allow(two, ip_network("10.1.0.0/16"))
        engine.allow(two, ip_network("::/0"))
        assert engine.find_allowed(ip_address("10.1.2.3")) == two
        assert engine.find_allowed(ip_address("10.2.2.3")) == one
        engine.allow(one, ip_network("10.1.0.0/16"))
        assert engine.find_allowed(ip_address("10.1.2.3")) == one
        with pytest.raises(EngineError):
            engine.disallow(two, ip_network("10.1.0.0/16"))
        engine.disallow(one, ip_network("10.1.0.0/16"))
        engine.clear_allowed(two)
        assert engine.find_allowed(ip_address("2001:db8::1")) is None
        engine.remove_peer(one)
        assert engine.find_allowed(ip_address("10.1.2.3")) is None


def test_counters_have_names() -> None:
    with Engine() as engine:
        names = list(engine.counters())
    assert len(names) == len(set(names)) <= lib.TC_COUNTERS
    assert "rx_mac1_invalid" in names


def test_the_stub_is_the_library() -> None:
    stub = Path(engine_module.__file__).with_name("_core.pyi")
    (library,) = (n for n in ast.parse(stub.read_text()).body if isinstance(n, ast.ClassDef))
    declared = {
        node.name if isinstance(node, ast.FunctionDef) else ast.unparse(node.target)
        for node in library.body
        if isinstance(node, ast.FunctionDef | ast.AnnAssign)
    }
    assert declared == {name for name in dir(lib) if not name.startswith("_")}


def test_an_index_serves_one_session() -> None:
    with Engine() as engine:
        peer = engine.add_peer()
        engine.install(peer, 5, 6, bytes(32), bytes(32), True)
        with pytest.raises(EngineError) as caught:
            engine.install(peer, 5, 7, bytes(32), bytes(32), True)
        assert caught.value.errno == errno.EEXIST
        with pytest.raises(ValueError, match="send key"):
            engine.install(peer, 8, 7, bytes(31), bytes(32), True)


# ---- sessions: previous, current, next ----


def test_initiator_keys_are_current_at_once() -> None:
    with Engine() as engine:
        peer = engine.add_peer()
        for index, keys in enumerate((KEY_CURRENT, KEY_CURRENT | KEY_PREVIOUS)):
            engine.install(peer, index, 1, bytes(32), bytes(32), True)
            assert engine.peer_info(peer).keys == keys


def test_responder_keys_wait_and_push_out_the_previous() -> None:
    with Engine() as engine:
        peer = engine.add_peer()
        for index, (initiator, keys) in enumerate(
            [
                (True, KEY_CURRENT),
                (True, KEY_CURRENT | KEY_PREVIOUS),
                (False, KEY_CURRENT | KEY_NEXT),
                (False, KEY_CURRENT | KEY_NEXT),
                (True, KEY_CURRENT | KEY_PREVIOUS),  # previous is what was next
            ]
        ):
            engine.install(peer, index, 1, bytes(32), bytes(32), initiator)
            assert engine.peer_info(peer).keys == keys
        engine.erase_keys(peer, KEY_PREVIOUS)
        assert engine.peer_info(peer).keys == KEY_CURRENT
        engine.erase_keys(peer)
        assert engine.peer_info(peer).keys == 0


@pytest.mark.datapath
def test_first_packet_confirms_the_next_key() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")
        old = peer.session
        assert old is not None
        new = peer.install(initiator=False)
        lab.link.send(PACKET)
        assert peer.receive().receiver == old.far
        peer.send(REPLY, session=old)
        lab.read()
        assert EventKind.KEY_CONFIRMED not in lab.events()
        peer.send(b"", session=new)  # a keepalive will do
        assert lab.wait_event(EventKind.KEY_CONFIRMED).peer == peer.id
        assert lab.engine.peer_info(peer.id).keys == KEY_CURRENT | KEY_PREVIOUS
        lab.link.send(PACKET)
        assert peer.receive().receiver == new.far
        peer.send(REPLY, session=old)  # late, and still good
        assert lab.read() == REPLY


@pytest.mark.datapath
def test_erased_keys_neither_send_nor_receive() -> None:
    with Lab() as lab:
        peer, other = lab.peer("10.0.0.2/32"), lab.peer("10.0.0.3/32")
        lab.engine.erase_keys(peer.id)
        peer.send(REPLY)
        lab.link.send(PACKET)
        other.send(udp("10.0.0.3", NEAR))
        lab.read()
        assert lab.wait_event(EventKind.HANDSHAKE_NEEDED).peer == peer.id
        counters = lab.counters()
        assert counters["rx_unknown_index"] == 1
        assert counters["tx_staged"] == 1
        assert not peer.waiting()


def test_single_operations() -> None:
    key = os.urandom(32)
    sealed = seal(key, 3, b"packet")
    assert len(sealed) == 6 + 16
    assert open_(key, 3, sealed) == b"packet"
    for counter, data in ((4, sealed), (3, sealed[:-1] + b"\0"), (3, b"short")):
        with pytest.raises(AuthenticationError):
            open_(key, counter, data)
    assert len(hchacha20(key, bytes(16))) == 32
    parsed = parse(tcp(NEAR, FAR, b"x", flags=0x18))
    assert (parsed.version, parsed.transport, parsed.tcp_flags) == (4, 6, 0x18)
    assert (parsed.source, parsed.destination) == (ip_address(NEAR), ip_address(FAR))
    assert (parsed.transport_offset, parsed.payload_offset, parsed.total) == (20, 40, 41)
    with pytest.raises(ValueError, match="not an IP packet"):
        parse(b"\x45")
    secret = bytearray(key)
    wipe(secret)
    assert secret == bytes(32)


# ---- events ----


@pytest.mark.datapath
def test_a_handshake_is_asked_for_once_until_python_acts() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32", install=False)
        for again in (
            lambda: lab.engine.send_to_peer(peer.id, bytes(148)),
            lambda: lab.engine.drop_staged(peer.id),
            lambda: lab.engine.set_endpoint(peer.id, peer.endpoint),
        ):
            for _ in range(3):
                lab.link.send(PACKET)
            assert lab.wait_event(EventKind.HANDSHAKE_NEEDED).peer == peer.id
            lab.settle()
            assert lab.events() == []
            again()


@pytest.mark.datapath
def test_idle_peers_report_their_next_packet() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")
        lab.engine.idle(peer.id)
        for _ in range(2):
            lab.link.send(PACKET)
            peer.receive()
        assert lab.wait_event(EventKind.ACTIVE).peer == peer.id
        assert EventKind.ACTIVE not in lab.events()
        lab.engine.idle(peer.id)
        peer.send(REPLY)
        lab.wait_event(EventKind.ACTIVE)


@pytest.mark.datapath
def test_a_dead_link_is_detached_and_reported() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")
        lab.link.close()
        assert lab.wait_event(EventKind.LINK_FAILED).value == errno.EPIPE
        peer.send(REPLY)
        lab.link, lab.inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lab.engine.attach_link(0, lab.inner.fileno(), 0, 1420)
        peer.send(REPLY)
        lab.link.settimeout(10)
        assert lab.read() == REPLY


def test_removed_peers_leave_no_events() -> None:
    with Lab() as lab:
        gone, kept = lab.peer("10.0.0.2/32", install=False), lab.peer("10.0.0.3/32", install=False)
        lab.link.send(PACKET)
        lab.link.send(udp(NEAR, "10.0.0.3"))
        assert select.select([lab.engine.event_fd], [], [], 10)[0]
        while not lab.engine.peer_info(kept.id).staged:
            lab.settle()
        lab.engine.remove_peer(gone.id)
        assert [event.peer for event in lab.engine.read_events()] == [kept.id]
        assert lab.counters()["tx_stage_dropped"] == 1


# ---- timestamps ----


@pytest.mark.datapath
def test_timestamps_tell_data_from_keepalives() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")

        def state() -> tuple[bool, bool]:
            lab.settle()
            info = lab.engine.peer_info(peer.id)
            return bool(info.unanswered_since), bool(info.unacked_since)

        assert lab.engine.flush(peer.id)
        assert peer.receive().size == 32
        assert state() == (False, False)
        lab.link.send(PACKET)
        peer.receive()
        assert state() == (True, False)
        before = lab.engine.peer_info(peer.id).unanswered_since
        lab.engine.advance_clock(SECOND)
        lab.link.send(PACKET)
        peer.receive()
        lab.settle()
        info = lab.engine.peer_info(peer.id)
        assert info.unanswered_since == before  # the oldest
        assert info.last_sent >= before + SECOND
        peer.send(REPLY)
        lab.read()
        assert state() == (False, True)
        assert lab.engine.flush(peer.id)
        assert state() == (False, False)
        lab.link.send(PACKET)
        peer.receive()
        peer.receive()
        lab.engine.touch(peer.id, 92)
        assert state() == (False, False)


@pytest.mark.datapath
def test_bytes_count_messages_whole() -> None:
    with Lab() as lab:
        peer = lab.peer("10.0.0.2/32")
        lab.link.send(PACKET)
        size = peer.receive().size
        peer.send(REPLY)
        lab.read()
        assert lab.engine.send_to_peer(peer.id, bytes(148))
        lab.engine.touch(peer.id, 92)
        lab.settle()
        info = lab.engine.peer_info(peer.id)
        assert (info.tx_bytes, info.tx_packets) == (size + 148, 2)
        assert (info.rx_bytes, info.rx_packets) == (len(peer.message(REPLY)) + 92, 2)
