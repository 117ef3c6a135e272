"""The configuration protocol as text: what is taken, what is refused with which number."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, strategies as st

from providers.wireguard import uapi
from providers.wireguard.change import DeviceChange, DeviceSnapshot, PeerChange, PeerSnapshot
from providers.wireguard.uapi import Get, Refusal, RequestParser, Set
from tunnel.errors import ConfigError, TunnelError
from tunnel.secret import Secret

SECRET = bytes([0x48]) * 31 + b"\x41"
PUBLIC, OTHER = bytes([0x21]) * 32, bytes([0x22]) * 32
P, O = f"public_key={PUBLIC.hex()}", f"public_key={OTHER.hex()}"  # noqa: E741
N8, N6 = ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")


def parse(*lines: str) -> list[uapi.Request]:
    return uapi.parse("".join(f"{line}\n" for line in lines).encode())


def change(*lines: str) -> DeviceChange:
    (request,) = parse("set=1", *lines, "")
    assert isinstance(request, Set), request
    return request.change


def test_a_whole_change() -> None:
    assert change(
        f"private_key={SECRET.hex()}",
        "listen_port=51820",
        "fwmark=4294967295",
        "replace_peers=true",
        P,
        f"preshared_key={SECRET.hex().upper()}",
        "endpoint=192.0.2.1:1",
        "persistent_keepalive_interval=25",
        "replace_allowed_ips=true",
        "allowed_ip=10.1.2.3/8",
        "allowed_ip=2001:db8::/32",
        "protocol_version=1",
        O,
        "remove=true",
    ) == DeviceChange(
        private_key=Secret(SECRET),
        listen_port=51820,
        fwmark=2**32 - 1,
        replace_peers=True,
        peers=(
            PeerChange(
                PUBLIC,
                preshared_key=Secret(SECRET),
                endpoint=(ip_address("192.0.2.1"), 1),
                persistent_keepalive=25,
                replace_allowed_ips=True,
                allowed_ips=((True, N8), (True, N6)),
            ),
            PeerChange(OTHER, remove=True),
        ),
    )


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], DeviceChange()),
        ([f"private_key={'0' * 64}"], DeviceChange(private_key=Secret(bytes(32)))),
        (["listen_port=0", "fwmark=0"], DeviceChange(listen_port=0, fwmark=0)),
        (["listen_port=1", "listen_port=2"], DeviceChange(listen_port=2)),
        ([P], DeviceChange(peers=(PeerChange(PUBLIC),))),
        ([P, P], DeviceChange(peers=(PeerChange(PUBLIC), PeerChange(PUBLIC)))),
        ([P, "update_only=true"], DeviceChange(peers=(PeerChange(PUBLIC, update_only=True),))),
        (
            [P, f"preshared_key={'0' * 64}"],
            DeviceChange(peers=(PeerChange(PUBLIC, preshared_key=Secret(bytes(32))),)),
        ),
        (
            [P, "persistent_keepalive_interval=0"],
            DeviceChange(peers=(PeerChange(PUBLIC, persistent_keepalive=0),)),
        ),
        (
            [P, "allowed_ip=10.0.0.0/8", "allowed_ip=-10.0.0.0/8"],
            DeviceChange(peers=(PeerChange(PUBLIC, allowed_ips=((True, N8), (False, N8))),)),
        ),
        (  # carried out in order: what came before the replacement is gone
            [P, "allowed_ip=10.0.0.0/8", "replace_allowed_ips=true", "allowed_ip=2001:db8::/32"],
            DeviceChange(
                peers=(PeerChange(PUBLIC, replace_allowed_ips=True, allowed_ips=((True, N6),)),)
            ),
        ),
    ],
)
def test_changes(lines: Sequence[str], expected: DeviceChange) -> None:
    assert change(*lines) == expected


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("192.0.2.1:65535", "192.0.2.1", 65535),
        ("[2001:db8::1]:1", "2001:db8::1", 1),
        ("[fe80::1%wwan0]:1", "fe80::1%wwan0", 1),
        ("[fe80::1%2]:1", "fe80::1%2", 1),
        ("[::ffff:192.0.2.1]:1", "192.0.2.1", 1),
    ],
)
def test_endpoints(text: str, address: str, port: int) -> None:
    assert change(P, f"endpoint={text}").peers[0].endpoint == (ip_address(address), port)


def test_the_private_key_is_clamped() -> None:
    found = change(f"private_key={'f' * 64}").private_key
    assert found == Secret(b"\xf8" + b"\xff" * 30 + b"\x7f")


BAD_LINES = [
    # refused with -22: a value or a key that is not known
    ("listen_port=65536", -22, "listen_port: '65536' is not a port"),
    ("listen_port=-1", -22, "listen_port: '-1' is not a port"),
    ("listen_port=", -22, "listen_port: '' is not a port"),
    ("listen_port=1\r", -22, r"listen_port: '1\r' is not a port"),
    ("fwmark=4294967296", -22, "fwmark: '4294967296' is not a number"),
    ("fwmark=off", -22, "fwmark: 'off' is not a number"),
    ("replace_peers=false", -22, "replace_peers: is not 'true'"),
    ("private_key=00", -22, "private_key: has not 64 hex digits"),
    (f"private_key={'0' * 65}", -22, "private_key: has not 64 hex digits"),
    (f"private_key={'0' * 63}g", -22, "private_key: has not 64 hex digits"),
    ("public_key=", -22, "public_key: has not 64 hex digits"),
    ("allowed_ip=10.0.0.0/8", -22, "allowed_ip: is not a key of a device"),
    ("nonsense=1", -22, "nonsense: is not a key of a device"),
    ("get=1", -22, "get: is not a key of a device"),
    (f"{P}\nlisten_port=1", -22, "listen_port: is not a key of a peer"),
    (f"{P}\nremove=1", -22, "remove: is not 'true'"),
    (f"{P}\nupdate_only=false", -22, "update_only: is not 'true'"),
    (f"{P}\nreplace_allowed_ips=yes", -22, "replace_allowed_ips: is not 'true'"),
    (f"{P}\npreshared_key=", -22, "preshared_key: has not 64 hex digits"),
    (f"{P}\nendpoint=192.0.2.1", -22, "endpoint: '192.0.2.1' names no port"),
    (f"{P}\nendpoint=192.0.2.1:0", -22, "endpoint: '192.0.2.1:0' has no port from 1 to 65535"),
    (f"{P}\nendpoint=example.org:1", -22, "endpoint: 'example.org' is not an address"),
    (f"{P}\npersistent_keepalive_interval=65536", -22, None),
    (f"{P}\npersistent_keepalive_interval=off", -22, None),
    (f"{P}\nallowed_ip=10.0.0.0/33", -22, "allowed_ip: '10.0.0.0/33' is not a network"),
    (f"{P}\nallowed_ip=+10.0.0.0/8", -22, "allowed_ip: '+10.0.0.0/8' is not a network"),
    (f"{P}\nprotocol_version=2", -22, "protocol_version: is not 1"),
    (f"{P}\nrx_bytes=1", -22, "rx_bytes: is not a key of a peer"),
    # refused with -71: no '='
    ("listen_port", -71, "a line without '='"),
    (f"{P}\nx", -71, "a line without '='"),
]


@pytest.mark.parametrize(("line", "number", "reason"), BAD_LINES)
def test_bad_lines_refuse_the_whole_request_and_only_it(
    line: str, number: int, reason: str | None
) -> None:
    requests = parse("set=1", "listen_port=7", line, O, "", "get=1", "")
    assert len(requests) == 2, "nothing of the request but its refusal, and what follows it"
    assert isinstance(requests[0], Refusal)
    assert requests[0].number == number
    assert reason is None or requests[0].reason == reason
    assert requests[1] == Get()


@pytest.mark.parametrize(
    ("text", "number"), [("hello\n", -71), ("get=2\n", -22), ("listen_port=1\n", -22)]
)
def test_what_is_no_operation_ends_the_conversation(text: str, number: int) -> None:
    (refusal,) = uapi.parse(f"{text}get=1\n\n".encode())
    assert isinstance(refusal, Refusal)
    assert (refusal.number, refusal.final) == (number, True)


def test_a_get_takes_no_keys() -> None:
    assert parse("get=1", "x=1", "", "get=1", "") == [Refusal(-22, "get=1 takes no keys"), Get()]


def test_requests_may_follow_one_another_in_one_write() -> None:
    requests = parse("get=1", "", "", "set=1", "fwmark=1", "", "set=1", "", "get=1", "")
    first, second = DeviceChange(fwmark=1), DeviceChange()
    assert requests == [Get(), Set(first), Set(second), Get()]


def test_a_request_that_does_not_end_does_nothing() -> None:
    assert parse("set=1", "listen_port=1") == []
    assert uapi.parse(b"get=1\n") == []
    assert uapi.parse(b"get=1") == []


@given(st.lists(st.integers(1, 40), max_size=40))
def test_the_cut_of_the_bytes_does_not_matter(cuts: list[int]) -> None:
    lines = ["get=1", "", "set=1", P, "allowed_ip=10.0.0.0/8", "", "set=1", "x", "", "bad"]
    data = "".join(f"{line}\n" for line in lines).encode()
    parser = RequestParser()
    requests = []
    at = 0
    for cut in (*cuts, len(data)):
        requests += list(parser.feed(data[at : at + cut]))
        at += cut
    assert requests == parse(*lines)


@pytest.mark.parametrize("newline", [b"", b"\n"])
def test_a_line_has_its_limit(newline: bytes) -> None:
    parser = RequestParser()
    assert list(parser.feed(b"set=1\nx=" + b"0" * (uapi.LINE_MAX - 2))) == []
    (refusal,) = parser.feed(b"0" + newline)
    assert refusal == Refusal(-22, "a line of more than 1024 bytes", final=True)
    assert list(parser.feed(b"get=1\n\n")) == [], "nothing is read after it"


@pytest.mark.parametrize("start", [f"set=1\n{P}\n", "set=1\nbad\n"])
def test_a_request_has_its_limit(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uapi, "REQUEST_MAX", 1 << 16)
    parser = RequestParser()
    assert list(parser.feed(start.encode())) == []
    block = b"endpoint=192.0.2.1:1\n" * 64
    sent = len(start)
    refusals: list[uapi.Request] = []
    while not refusals:
        assert sent <= uapi.REQUEST_MAX
        refusals = list(parser.feed(block))
        sent += len(block)
    assert refusals == [Refusal(-22, f"more than {uapi.REQUEST_MAX} bytes", final=True)]
    assert sent > uapi.REQUEST_MAX


@given(st.binary() | st.lists(st.sampled_from(
    [b"set=1\n", b"get=1\n", b"\n", b"=", P.encode(), b"\n", b"private_key=", SECRET.hex().encode(),
     b"allowed_ip=", b"10.0.0.0/8", b"endpoint=", b"[::1]:1", b"\0", b"\xff", b"listen_port=9\n"]
)).map(b"".join))  # fmt: skip
def test_any_bytes_are_taken_or_refused_and_no_key_is_named(data: bytes) -> None:
    for request in uapi.parse(data):
        if isinstance(request, Refusal):
            assert request.number in (-22, -71)
            assert len(request.reason.splitlines()) == 1
            assert SECRET.hex() not in request.reason
        assert SECRET.hex() not in repr(request)


@pytest.mark.parametrize("line", ["{}", "{}=1", "listen_port={}", "private_key=x{}", "x={}"])
@pytest.mark.parametrize("peer", ["", f"{P}\n"])
def test_a_key_in_any_place_is_never_named(line: str, peer: str) -> None:
    for key in (SECRET.hex(), Secret(SECRET).base64()):
        (refusal,) = parse("set=1", peer + line.replace("{}", key), "")
        assert isinstance(refusal, Refusal)
        assert key.rstrip("=") not in refusal.reason


def test_buffers_and_refused_keys_are_wiped() -> None:
    parser = RequestParser()
    list(parser.feed(f"set=1\nprivate_key={SECRET.hex()}\n{P}\npreshared_key=".encode()))
    kept = parser._device["private_key"].reveal()
    rest = parser._rest
    assert kept == SECRET
    list(parser.feed(f"{SECRET.hex()}\nbad\n".encode()))
    assert kept == bytes(32), "the refusal of a later line wipes the keys before it"
    list(parser.feed(b"private_key=12"))
    parser.close()
    assert set(rest) <= {0}


def test_rendering() -> None:
    snapshot = DeviceSnapshot(
        Secret(SECRET),
        51820,
        7,
        (
            PeerSnapshot(
                PUBLIC,
                Secret(SECRET),
                (ip_address("fe80::1%wwan0"), 9),
                25,
                (N8, N6),
                1_700_000_000_123_456_789,
                5,
                6,
            ),
            PeerSnapshot(OTHER, endpoint=(ip_address("192.0.2.1"), 8)),
        ),
    )
    assert uapi.render(snapshot).decode() == (
        f"private_key={SECRET.hex()}\n"
        "listen_port=51820\n"
        "fwmark=7\n"
        f"public_key={PUBLIC.hex()}\n"
        f"preshared_key={SECRET.hex()}\n"
        "protocol_version=1\n"
        "endpoint=[fe80::1%wwan0]:9\n"
        "last_handshake_time_sec=1700000000\n"
        "last_handshake_time_nsec=123456789\n"
        "tx_bytes=6\n"
        "rx_bytes=5\n"
        "persistent_keepalive_interval=25\n"
        "allowed_ip=10.0.0.0/8\n"
        "allowed_ip=2001:db8::/32\n"
        f"public_key={OTHER.hex()}\n"
        "protocol_version=1\n"
        "endpoint=192.0.2.1:8\n"
        "last_handshake_time_sec=0\n"
        "last_handshake_time_nsec=0\n"
        "tx_bytes=0\n"
        "rx_bytes=0\n"
        "persistent_keepalive_interval=0\n"
    )
    assert uapi.render(DeviceSnapshot()) == b""


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.EADDRINUSE, "in use"), -98),
        (OSError(errno.EMFILE, "too many"), -5),
        (PermissionError(errno.EPERM, "no"), -5),
        (ConfigError("no", where=None, key=None, mend="so"), -22),
        (ValueError("no"), -22),
        (TunnelError("no"), -55),
        (RuntimeError("no"), -55),
    ],
)
def test_numbers_of_failures(error: Exception, number: int) -> None:
    assert uapi.errno_of(error) == number
