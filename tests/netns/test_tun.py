from __future__ import annotations

import fcntl
import os
import re
import shlex
import socket
import struct
import sys
from pathlib import Path

import pytest

from tools.netlab import Lab
from tunnel.errors import TunnelError, UsageError
from tunnel.tun import LINK_USO, LINK_VNET_HDR, TRANSMIT_QUEUE, Tun

pytestmark = pytest.mark.root

HEADER = Path(__file__).parents[2] / "native" / "include" / "tunnel_core.h"


@pytest.mark.parametrize("workers", [1, 3])
def test_queues_offloads_and_length(lab: Lab, workers: int) -> None:
    space = lab.namespace("a")
    with space.entered(), Tun.create("tt0", workers) as tun:
        assert len(tun.fds) == workers
        for fd in tun.fds:
            assert not os.get_blocking(fd)
            assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
            with pytest.raises(BlockingIOError):
                os.read(fd, 65536)
        shown = space.ip("-d link show tt0")
        assert f"qlen {TRANSMIT_QUEUE}" in shown
        assert "mtu 1420" in shown
        assert "vnet_hdr on" in shown
        assert tun.link_flags & LINK_VNET_HDR
        features = space.run("ethtool -k tt0", check=False).stdout
        if features:
            assert "tx-udp-segmentation: on" in features or not tun.link_flags & LINK_USO
    with pytest.raises(RuntimeError, match="does not exist"):
        space.ip("link show tt0")


@pytest.mark.parametrize(
    ("options", "flags"),
    [({"offload": False}, 0), ({"uso": False}, LINK_VNET_HDR)],
    ids=["no vnet_hdr", "no USO"],
)
def test_fallbacks_carry_packets(lab: Lab, options: dict[str, bool], flags: int) -> None:
    space = lab.namespace("a")
    with space.entered(), Tun.create("tt0", **options) as tun:
        assert tun.link_flags == flags
        space.ip("addr add 10.9.0.1/24 dev tt0")
        space.ip("link set tt0 up")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(b"hello", ("10.9.0.2", 5000))
        packet = os.read(tun.fds[0], 65536)
        header = 10 if flags else 0
        assert packet[header] == 0x45
        assert packet.endswith(b"hello")


def test_a_super_segment_comes_whole(lab: Lab) -> None:
    space = lab.namespace("a")
    with space.entered(), Tun.create("tt0") as tun:
        space.ip("addr add 10.9.0.1/24 dev tt0")
        space.ip("link set tt0 up")
        if not tun.link_flags & LINK_USO:
            pytest.skip("this kernel has no USO")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.setsockopt(socket.IPPROTO_UDP, 103, 1000)  # UDP_SEGMENT
            one.sendto(bytes(5000), ("10.9.0.2", 5000))
        packet = os.read(tun.fds[0], 65536)
        _, kind, _, segment = struct.unpack_from("=BBHH", packet)
        assert kind == 5  # VIRTIO_NET_HDR_GSO_UDP_L4
        assert segment == 1000
        assert len(packet) == 10 + 28 + 5000


def test_a_foreign_interface_is_refused(lab: Lab) -> None:
    space = lab.namespace("a")
    with space.entered():
        with Tun.create("tt0"), pytest.raises(TunnelError, match="tt0 exists and is not ours"):
            Tun.create("tt0")
        space.ip("link add tt1 type veth peer name tt2")
        with pytest.raises(TunnelError, match="tt1 exists"):
            Tun.create("tt1")
        assert "veth" in space.ip("-d link show tt1")


@pytest.mark.parametrize("name", ["", "a/b", "tt%d", "sixteen-letters-"])
def test_impossible_names(name: str) -> None:
    with pytest.raises(UsageError):
        Tun.create(name)


def test_no_solicitations_of_our_own(lab: Lab) -> None:
    space = lab.namespace("a")
    with space.entered(), Tun.create("tt0") as tun:
        space.ip("link set tt0 up")
        assert "fe80" not in space.ip("-6 addr show dev tt0")
        assert tun.offloads


def test_link_flags_are_those_of_the_core() -> None:
    text = HEADER.read_text(encoding="utf-8")
    found = dict(re.findall(r"#define TC_LINK_(\w+) (\d+)", text))
    assert found == {"VNET_HDR": str(LINK_VNET_HDR), "USO": str(LINK_USO)}


CREATE = """
from tunnel.errors import TunnelError
from tunnel.tun import Tun
try:
    Tun.create("tt0").close()
    print("made")
except TunnelError as error:
    print(error.exit_code, error)
"""


@pytest.mark.parametrize(
    ("wrapper", "said"),
    [
        ("unshare -m {}", "made"),
        (
            'unshare -m sh -c \'mount -t tmpfs none /dev/net && exec "$0" "$@"\' {}',
            "5 /dev/net/tun",
        ),
        ("setpriv --bounding-set -net_admin {}", "4 may not make interface tt0"),
    ],
    ids=["control", "no device", "no privilege"],
)
def test_what_is_missing_is_named(lab: Lab, wrapper: str, said: str) -> None:
    space = lab.namespace("a")
    command = wrapper.format(shlex.join([sys.executable, "-c", CREATE]))
    assert space.run(shlex.split(command)).stdout.startswith(said)
