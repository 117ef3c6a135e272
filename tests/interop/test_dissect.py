"""tshark and scapy read captured handshakes and packets of ours, and agree with them.

With the keys of the far end tshark does the whole handshake over again: it says "known" about a
static key and a MAC only after it has decrypted and checked them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.hosts import Host, connect, eventually
from tests.interop.speaker import Speaker, key64
from tests.netns.flood import checksum

pytestmark = pytest.mark.root


@contextlib.contextmanager
def captured(host: Host, file: Path) -> Iterator[None]:
    """Capture the UDP packets on a host's outer interface while the block runs."""
    tcpdump = host.space.start(
        ["tcpdump", "-i", "e0" if host.number > 1 else "any", "-U", "-s0", "-w", str(file), "udp"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tcpdump.stderr
    for line in tcpdump.stderr:
        if "listening" in line:
            break
    try:
        yield
    finally:
        tcpdump.terminate()
        tcpdump.wait()


def packets_in(file: Path) -> list[bytes]:
    """Return the UDP payloads of a capture, as scapy finds them."""
    from scapy.layers.inet import UDP
    from scapy.utils import rdpcap

    return [bytes(packet[UDP].payload) for packet in rdpcap(str(file)) if UDP in packet]


def tshark(file: Path, keys: Path, port: int) -> list[dict[str, list[str]]]:
    """Return the WireGuard fields of each packet; all values are lists of text."""
    if not shutil.which("tshark"):
        pytest.skip("tshark is not installed")
    done = subprocess.run(
        ["tshark", "-r", str(file), "-d", f"udp.port=={port},wg", "-o", f"wg.keylog_file:{keys}",
         "-o", "wg.dissect_packet:TRUE", "-T", "json", "--no-duplicate-keys"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = []
    for one in json.loads(done.stdout):
        flat: dict[str, list[str]] = {"layers": list(one["_source"]["layers"])}
        _flatten(one["_source"]["layers"], flat)
        found.append(flat)
    return found


def _flatten(tree: Any, into: dict[str, list[str]]) -> None:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if isinstance(value, dict | list):
                _flatten(value, into)
                if isinstance(value, list):
                    into.setdefault(key, []).extend(v for v in value if isinstance(v, str))
            else:
                into.setdefault(key, []).append(str(value))
    elif isinstance(tree, list):
        for value in tree:
            _flatten(value, into)


@pytest.mark.parametrize("role", ["initiator", "responder"])
def test_between_daemons(pair: tuple[Host, Host], tmp_path: Path, role: str) -> None:
    ours, theirs = pair
    caller, called = (ours, theirs) if role == "initiator" else (theirs, ours)
    with captured(theirs, tmp_path / "wire.pcap"):
        connect(caller, called)
        caller.reaches(called)
        assert caller.pings(called.inner, 3) == 3
        eventually("captured", lambda: len(packets_in(tmp_path / "wire.pcap")) >= 8)
    # The responder's own key opens the initiation; the initiator's needs its ephemeral too.
    keys = tmp_path / "keys"
    keys.write_text(
        f"LOCAL_STATIC_PRIVATE_KEY = {called.private}\nREMOTE_STATIC_PUBLIC_KEY = {caller.public}\n"
    )
    first, second, *rest = tshark(tmp_path / "wire.pcap", keys, ours.port)
    assert first["wg.type"] == ["1"]
    assert first["wg.receiver_pubkey"] == [called.public], "mac1 is for the responder's key"
    assert first["wg.static"] == [caller.public], "decrypted with the responder's key"
    assert first["wg.timestamp.value"]
    assert second["wg.type"] == ["2"]
    assert second["wg.receiver_pubkey"] == [caller.public]
    assert second["wg.receiver"] == first["wg.sender"]
    assert all(one["wg.type"] == ["4"] for one in rest)
    for sender in (ours, theirs):
        address = sender.outer(theirs if sender is ours else ours)
        counters = [int(one["wg.counter"][0]) for one in rest if one["ip.src"] == [address]]
        assert counters == list(range(len(counters))), f"host {sender.number} counts from 0"
        if sender is ours and ours.is_tunneld:
            sent = [one for one in (first, second, *rest) if one["ip.src"] == [address]]
            assert {one["ip.flags.df"][0] for one in sent} == {"0"}
            marks = [one["ip.dsfield"][0] for one in sent]
            assert marks == ["0x88"] + ["0x00"] * (len(sent) - 1), "handshakes AF41, data plain"


def test_scapy_reads_every_field(pair: tuple[Host, Host], tmp_path: Path) -> None:
    from scapy.contrib.wireguard import (
        Wireguard,
        WireguardInitiation,
        WireguardResponse,
        WireguardTransport,
    )

    ours, theirs = pair
    with captured(theirs, tmp_path / "wire.pcap"):
        connect(ours, theirs)
        ours.reaches(theirs)
        eventually("captured", lambda: len(packets_in(tmp_path / "wire.pcap")) >= 4)
    payloads = packets_in(tmp_path / "wire.pcap")
    initiation, response, *data = (Wireguard(payload) for payload in payloads)
    assert initiation.reserved_zero == 0
    assert len(payloads[0]) == 148
    assert initiation[WireguardInitiation].mac2 == bytes(16) or not int.from_bytes(
        bytes(payloads[0][-16:])
    )
    assert len(payloads[1]) == 92
    assert response[WireguardResponse].receiver_index == initiation[
        WireguardInitiation
    ].sender_index  # fmt: skip
    indices = (
        response[WireguardResponse].sender_index,
        initiation[WireguardInitiation].sender_index,
    )
    assert data
    for one, payload in zip(data, payloads[2:], strict=True):
        assert one[WireguardTransport].receiver_index in indices
        assert bytes(one) == payload, "scapy builds the same bytes again"
        assert len(payload) % 16 == 0, "padded"


def test_tshark_decrypts_everything(pair: tuple[Host, Host], tmp_path: Path) -> None:
    """The far end is our own code here, so that its ephemeral key is known."""
    ours, theirs = pair
    speaker = Speaker(bytes(range(32)), ours.public)
    ours.set(f"peer {speaker.public} allowed-ips 10.77.0.9/32")
    with theirs.space.entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with client, captured(theirs, tmp_path / "wire.pcap"):
        client.settimeout(5)
        client.connect((ours.outer(theirs), ours.port))
        client.send(speaker.initiation())
        speaker.accept(client.recv(2048))
        request = echo_request("10.77.0.9", ours.inner)
        client.send(speaker.seal(request))
        answer = speaker.open(client.recv(2048))
        assert answer[12:16] == socket.inet_aton(ours.inner)
        assert len(answer) % 16 == 0
        eventually("captured", lambda: len(packets_in(tmp_path / "wire.pcap")) == 4)
    keys = tmp_path / "keys"
    keys.write_text(
        f"LOCAL_STATIC_PRIVATE_KEY = {key64(bytes(speaker.identity.private.reveal()))}\n"
        f"REMOTE_STATIC_PUBLIC_KEY = {ours.public}\n"
        f"LOCAL_EPHEMERAL_PRIVATE_KEY = {key64(speaker.ephemeral)}\n"
    )
    first, second, asked, answered = tshark(tmp_path / "wire.pcap", keys, ours.port)
    assert first["wg.static"] == [speaker.public]
    assert second["wg.handshake_ok"] == ["1"]
    for one, kind in ((asked, "8"), (answered, "0")):
        assert "wg.decryption_error" not in one
        assert one["icmp.type"] == [kind]
        assert one["icmp.checksum.status"] == ["1"]


def echo_request(source: str, destination: str) -> bytes:
    """Return an IPv4 ping with right checksums."""
    body = struct.pack("!BBHHH", 8, 0, 0, 7, 1) + b"abcdefgh" * 4
    body = body[:2] + checksum(body).to_bytes(2) + body[4:]
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, 1, 0,
        socket.inet_aton(source), socket.inet_aton(destination),
    )  # fmt: skip
    return head[:10] + checksum(head).to_bytes(2) + head[12:] + body
