from __future__ import annotations

import contextlib
import errno
import os
import socket
from ipaddress import ip_address

import pytest

from tests.netns.conftest import FAR, FAR6, TwoNetworks
from tunnel.bind import OuterSockets
from tunnel.daemon.sockets import Sockets
from tunnel.errors import MissingFacilityError

pytestmark = pytest.mark.root


def sink(family: int, port: int = 7000, address: str = "") -> socket.socket:
    one = socket.socket(family, socket.SOCK_DGRAM)
    one.settimeout(2)
    one.bind((address, port))
    return one


def borrow(fd: int) -> socket.socket:
    return socket.socket(fileno=os.dup(fd))


def send(fd: int, family: int, address: str) -> None:
    with borrow(fd) as one:
        assert one.family == family
        one.sendto(b"outer", (address, 7000))


@pytest.mark.parametrize(
    ("family", "far"), [(socket.AF_INET, FAR), (socket.AF_INET6, FAR6)], ids=["ipv4", "ipv6"]
)
def test_packets_leave_by_the_bound_interface_only(
    networks: TwoNetworks, family: int, far: str
) -> None:
    with networks.wifi.entered():
        at_wifi = sink(family)
    with networks.cell.entered():
        at_cell = sink(family)
    outer = OuterSockets()
    which = 0 if family == socket.AF_INET else 1
    with at_wifi, at_cell:
        with networks.client.entered():
            outer.open(interface="wwan0")
            send(outer.pairs[0][which], family, far)
            assert at_cell.recv(99) == b"outer"
            # The control: the same sockets unbound follow the routes, to the other network.
            outer.rebind(None)
            send(outer.pairs[0][which], family, far)
            assert at_wifi.recv(99) == b"outer"
            outer.close()
        at_cell.setblocking(False)
        with pytest.raises(BlockingIOError):
            at_cell.recv(99)


def test_one_port_for_both_families_and_all_workers(networks: TwoNetworks) -> None:
    with networks.client.entered():
        outer = OuterSockets(workers=3)
        outer.open(interface="wwan0", mark=7)
        pairs = outer.pairs
        assert len(pairs) == 3
        assert outer.port
        for fd in (fd for pair in pairs for fd in pair):
            with borrow(fd) as one:
                assert one.getsockname()[1] == outer.port
                assert one.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 7
                bound = one.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
                assert bound.rstrip(b"\0") == b"wwan0"
                assert not os.get_blocking(fd)
        outer.close()
        assert outer.pairs == []


CONNECTED = pytest.mark.parametrize(
    ("family", "far", "source"),
    [(socket.AF_INET, FAR, "10.2.0.2"), (socket.AF_INET6, FAR6, "fd00:2::2")],
    ids=["ipv4", "ipv6"],
)


@CONNECTED
def test_a_connected_socket_leaves_by_the_bound_interface_only(
    networks: TwoNetworks, family: int, far: str, source: str
) -> None:
    client, wifi, cell = networks.client, networks.wifi, networks.cell
    for name in ("all", "down0"):  # or the control would not arrive, with that source
        wifi.sysctl(f"net.ipv4.conf.{name}.rp_filter", 0)
    with wifi.entered():
        at_wifi = sink(family)
    with cell.entered():
        at_cell = sink(family)
    outer = OuterSockets()
    with at_wifi, at_cell:
        with client.entered():
            outer.open(interface="wwan0", mark=7)
            with borrow(outer.connect(ip_address(source), ip_address(far), 7000)) as one:
                assert one.getsockname()[:2] == (source, outer.port)
                assert one.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 7
                assert not os.get_blocking(one.fileno())
                one.send(b"outer")
                assert at_cell.recv(99) == b"outer"
                outer.set_mark(8)
                assert one.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 8
                # The control: it follows the others, here to the network that routes prefer.
                outer.rebind(None)
                one.send(b"outer")
                assert at_wifi.recv(99) == b"outer"
                outer.rebind("wwan0")
                one.send(b"outer")
                assert at_cell.recv(99) == b"outer"
            outer.close()
        at_wifi.setblocking(False)
        with pytest.raises(BlockingIOError):
            at_wifi.recv(99)


@CONNECTED
def test_a_connected_socket_hears_one_far_end_and_keeps_others_off_the_port(
    networks: TwoNetworks, family: int, far: str, source: str
) -> None:
    with networks.cell.entered():
        settled, other = sink(family, 7000, far), sink(family, 7009, far)
    outer = OuterSockets()
    with settled, other, networks.client.entered():
        outer.open(interface="wwan0")
        outer.connect(ip_address(source), ip_address(far), 7000)
        with socket.socket(family, socket.SOCK_DGRAM) as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            for address in ("", source):
                with pytest.raises(OSError, match="in use"):
                    thief.bind((address, outer.port))
        with borrow(outer.pairs[0][family == socket.AF_INET6]) as rest:
            rest.settimeout(2)
            for _ in range(3):  # again and again, as a peer comes and goes
                with borrow(outer.connect(ip_address(source), ip_address(far), 7000)) as one:
                    one.settimeout(2)
                    settled.sendto(b"mine", (source, outer.port))
                    other.sendto(b"theirs", (source, outer.port))
                    assert one.recv(9) == b"mine"
                    assert rest.recv(9) == b"theirs"
                outer.disconnect()
                settled.sendto(b"mine", (source, outer.port))
                assert rest.recv(9) == b"mine"
        fd = outer.connect(ip_address(source), ip_address(far), 7000)
        outer.withdraw()  # open still, as the others are: an engine may use it
        os.fstat(fd)
        outer.release()
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)
        with pytest.raises(ValueError, match="worker"):
            OuterSockets(2).connect(ip_address(source), ip_address(far), 7000)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_a_port_of_another_program_is_refused(
    networks: TwoNetworks, workers: int, family: int
) -> None:
    with networks.client.entered(), socket.socket(family, socket.SOCK_DGRAM) as other:
        # Even one that would share: joining it would give our packets to the other program.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(("", 7001))
        outer = OuterSockets(workers)
        with pytest.raises(OSError, match="in use") as refused:
            outer.open(port=7001)
        assert refused.value.errno == errno.EADDRINUSE
        assert outer.pairs == []
        other.close()
        outer.open(port=7001)
        assert outer.port == 7001
        outer.close()


def test_workers_share_what_arrives(networks: TwoNetworks) -> None:
    with networks.client.entered():
        outer = OuterSockets(workers=2)
        outer.open(port=7002, interface="wwan0")
    with networks.cell.entered():
        for _ in range(64):  # another source port each: the kernel spreads by flow
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.sendto(b"x", ("10.2.0.2", 7002))
    heard = []
    for fd, _ in outer.pairs:
        with borrow(fd) as one:
            count = 0
            while True:
                try:
                    one.recv(9)
                except BlockingIOError:
                    break
                count += 1
            heard.append(count)
    outer.close()
    assert sum(heard) == 64
    assert min(heard) > 0


def test_an_absent_interface_opens_nothing(networks: TwoNetworks) -> None:
    with networks.client.entered():
        outer = OuterSockets()
        with pytest.raises(MissingFacilityError, match="wwan7"):
            outer.open(interface="wwan7")
        assert outer.pairs == []
        outer.open(interface="wwan0")
        with pytest.raises(MissingFacilityError, match="wwan7"):
            outer.rebind("wwan7")
        assert outer.pairs == []


def test_a_link_made_again_needs_rebind(networks: TwoNetworks) -> None:
    client = networks.client
    with networks.cell.entered():
        at_cell = sink(socket.AF_INET)
    with at_cell, client.entered():
        outer = OuterSockets()
        outer.open(interface="wwan0")
        client.ip("link del wwan0")
        client.run(
            ["ip", "link", "add", "wwan0", "type", "veth", "peer", "name", "down0",
             "netns", networks.cell.name]
        )  # fmt: skip
        client.ip("link set wwan0 up")
        networks.cell.ip("link set down0 up")
        networks.cell.ip("addr add 10.2.0.1/24 dev down0")
        client.ip("addr add 10.2.0.2/24 dev wwan0")
        client.ip("route add default via 10.2.0.1 dev wwan0 metric 700")
        with pytest.raises(OSError, match="No such device") as lost:
            send(outer.pairs[0][0], socket.AF_INET, FAR)
        assert lost.value.errno == errno.ENODEV
        fds = outer.pairs
        outer.rebind("wwan0")
        assert outer.pairs == fds
        send(outer.pairs[0][0], socket.AF_INET, FAR)
        assert at_cell.recv(99) == b"outer"
        outer.close()


def test_works_without_ipv6(networks: TwoNetworks) -> None:
    networks.client.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
    with networks.client.entered():
        outer = OuterSockets(workers=2)
        outer.open(interface="wwan0")
        assert all(four >= 0 for four, _ in outer.pairs)
        outer.close()


def test_a_new_port_keeps_the_rest_and_a_taken_one_keeps_the_old(networks: TwoNetworks) -> None:
    with networks.client.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 7004))
        outer = OuterSockets()
        outer.open(port=7003, interface="wwan0", mark=9)
        before = outer.pairs
        with pytest.raises(OSError, match="in use"):
            outer.set_port(7004)
        assert (outer.port, outer.pairs) == (7003, before)
        outer.set_port(7005)
        assert outer.port == 7005
        outer.set_mark(11)
        with borrow(outer.pairs[0][0]) as one:
            assert one.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 11
            bound = one.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
            assert bound.rstrip(b"\0") == b"wwan0"
        outer.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_two_paths_share_the_port_and_hear_each_its_own(
    networks: TwoNetworks, workers: int
) -> None:
    sockets = Sockets(lambda: OuterSockets(workers))
    with networks.client.entered():
        sockets.current.open(port=7006, interface="wwan0", mark=5)
        other = sockets.open_other("wlan0")
    assert (other.port, other.mark, other.path) == (7006, 5, 1)
    assert sockets.interfaces == {"wwan0", "wlan0"}
    for router, address, mine in (
        (networks.cell, "10.2.0.2", sockets.current),
        (networks.wifi, "10.1.0.2", other),
    ):
        with router.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(address.encode(), (address, 7006))
        heard = []
        for outer in (sockets.current, other):
            for fd, _ in outer.pairs:
                with borrow(fd) as listening, contextlib.suppress(BlockingIOError):
                    heard.append((listening.recv(99), outer))
        assert heard == [(address.encode(), mine)]
    sockets.swap()
    with networks.client.entered():
        sockets.move("wwan0")  # back to the one that was just left: its sockets, not a third set
    assert sockets.current.path == 0
    assert sockets.other is None
    sockets.close()
