"""The kill switch with a real tunnel: what it lets through, who may change it, how it opens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench.implementations import eventually
from tests.netns.command import BIN, Program, tunnelctl
from tests.netns.echo import asked, listening
from tests.netns.world import (
    FAR,
    World,
    start_closed,
    wg,
)
from tools.netlab import Namespace
from tunnel.policy.killswitch.kernel import WITHOUT

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("default_routes")]
PLAIN = "owner,absent"
LAN = "10.1.0.1"


def tables(space: Namespace) -> list[str]:
    return [t for t in space.run("nft list tables").stdout.splitlines() if t.endswith(" tunneld")]


@pytest.mark.parametrize("without", ["", PLAIN])
def test_another_programs_changes_do_not_last(
    world: World, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WITHOUT, without)
    client = world.client
    tunneld = start_closed(world)
    tunneld.expect("connected")
    client.run("nft flush ruleset")
    if without:
        assert "changed by nft (pid " in tunneld.expect("the kill switch was changed")
        for change in (
            "delete table netdev tunneld",
            "insert rule inet tunneld output accept",
            "flush chain inet tunneld input",
            "add chain inet tunneld output { policy accept; }",
        ):
            client.run(["nft", change])
            tunneld.expect("it is restored")
    else:
        done = client.run(["nft", "insert rule inet tunneld output accept"], check=False)
        assert done.returncode
        assert "not permitted" in done.stderr
    assert len(tables(client)) == 3
    assert world.ping()
    assert tunneld.end() == 0
    assert world.leftovers() == []


def test_local_senders_are_refused_at_once(world: World) -> None:
    client = world.client
    client.ip("link set wwan0 down")
    tunneld = start_closed(world)
    tunneld.expect("waiting: no permitted interface")
    with client.entered():
        tcp, udp = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with tcp, udp:
        tcp.settimeout(20)
        with pytest.raises(OSError, match=r"route to host|unreachable|refused"):
            tcp.connect((FAR, 80))
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"wlan0")
        with pytest.raises(OSError, match=r"not permitted|unreachable|route to host"):
            udp.sendto(b"x", (LAN, 7))
    assert tunneld.end() == 0


def test_services_stay_reachable_that_are_allowed(world: World) -> None:
    client, wifi = world.client, world.routers["wlan0"]
    wifi.ip("addr add 198.51.100.1/32 dev lo")  # somebody who is not on the link
    for scope in ("all", "wlan0"):
        client.sysctl(f"net.ipv4.conf.{scope}.rp_filter", 1)
    allowed = [f"--allow-inbound={one}@wlan0" for one in ("tcp/22", "udp/60001", "udp/60003")]
    with listening(client, 22), listening(client, 60001), listening(client, 23):
        with wifi.entered():
            one = socket.create_connection(
                ("10.1.0.2", 22), source_address=("198.51.100.1", 0), timeout=5
            )
        one.send(b"before")
        assert one.recv(99) == b"before"
        # Who is logged in is not cut off unasked: the session is named, and nothing is closed.
        refused = start_closed(world)
        said = refused.expect("closing the kill switch would end the remote login 198.51.100.1")
        assert "--allow-inbound tcp/22@IF" in said
        assert refused.wait() == 2
        assert tables(client) == []
        tunneld = start_closed(world, *allowed)
        tunneld.expect("connected")
        one.send(b"after")
        assert one.recv(99) == b"after"  # the session of before goes on
        one.close()
        assert asked(wifi, "10.1.0.2", 22)
        assert asked(wifi, "10.1.0.2", 60001, socket.SOCK_DGRAM)
        assert not asked(wifi, "10.1.0.2", 23)
        assert not asked(wifi, "10.1.0.2", 60002, socket.SOCK_DGRAM)
        with client.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bold:
            # A local program that begins from the service's port is none of its answers.
            bold.bind(("10.1.0.2", 60003))
            with pytest.raises(OSError, match="not permitted"):
                bold.sendto(b"x", ("198.51.100.1", 9))
        assert world.ping()
    assert tunneld.end() == 0
    assert world.leftovers() == []


def test_other_sessions_are_listed_and_ended(world: World) -> None:
    client, wifi = world.client, world.routers["wlan0"]
    with listening(client, 8080):
        with wifi.entered():
            one = socket.create_connection(("10.1.0.2", 8080), timeout=5)
        tunneld = start_closed(world)
        said = tunneld.expect("ends a session from outside")
        assert f"{LAN} to 10.1.0.2 port 8080" in said
        tunneld.expect("connected")
        one.settimeout(1)
        one.send(b"still there?")
        with pytest.raises(TimeoutError):
            one.recv(9)
        one.close()
    assert tunneld.end() == 0


@pytest.mark.parametrize("killed", [False, True])
def test_unless_confirmed_it_opens_again(world: World, killed: bool) -> None:
    client, wifi = world.client, world.routers["wlan0"]
    environment = {"SSH_CONNECTION": "10.1.0.1 40000 10.1.0.2 22"}
    os.environ.update(environment)
    try:
        refused = start_closed(world)
        assert "--confirm SECONDS" in refused.expect("would end the remote login")
        assert refused.wait() == 2
        tunneld = start_closed(world, "--confirm", "3", "--lockdown-on-exit")
    finally:
        del os.environ["SSH_CONNECTION"]
    tunneld.expect("opens again in 3 s unless")
    tunneld.expect("connected")
    with listening(wifi, 7):
        assert not asked(client, LAN, 7)
        if killed:
            os.kill(tunneld.process.pid, signal.SIGKILL)
            tunneld.wait()
        else:
            tunneld.expect("nobody confirmed")
            assert tunneld.wait() == 0
            assert world.leftovers() == []
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            eventually("it opens", lambda kind=kind: asked(client, LAN, 7, kind, wait=0.3))
        assert client.run(["ping", "-c1", "-W2", FAR]).returncode == 0  # not on the link
        assert tunnelctl(client, "killswitch")["kill_switch"] == "off"
    if killed:  # it is open, so that closing it is nothing that was done already
        tunneld = start_closed(world, "--confirm", "9")
        tunneld.expect("kill switch closed")
        tunneld.expect("connected")
        assert not [line for line in tunneld.lines if "taken over" in line]
        assert tunneld.end() == 0
    assert tunnelctl(client, "killswitch", "off")["kill_switch"] == "off"
    assert world.leftovers() == []


def test_confirmed_it_stays_closed(world: World) -> None:
    tunneld = start_closed(world, "--confirm", "4")
    tunneld.expect("connected")
    assert 0 < tunnelctl(world.client, "killswitch", world.interface)["confirm"] <= 4
    assert "unreachable" not in world.client.ip("route show table 74000")
    report = tunnelctl(world.client, "killswitch", "confirm", world.interface)
    assert report["confirm"] is None
    assert "unreachable default" in world.client.ip("route show table 74000")
    assert not [rule for rule in report["rules"] if rule["rule"] == "not confirmed in time"]
    assert tunnelctl(world.client, "killswitch", "confirm", check=False).returncode == 1
    world.config.write_text(world.config.read_text() + "PersistentKeepalive = 25\n")
    tunnelctl(world.client, "reload", world.interface)  # the option still says --confirm 4
    assert "unreachable default" in world.client.ip("route show table 74000")
    assert tunneld.end() == 0


def test_local_networks_only_when_asked_and_never_their_resolver(world: World) -> None:
    client, wifi = world.client, world.routers["wlan0"]
    wifi.ip("addr add 198.51.100.1/24 dev down0")  # a public network that claims to be on-link
    client.ip("addr add 198.51.100.2/24 dev wlan0")
    with listening(wifi, 7), listening(wifi, 53), listening(client, 9):
        assert all(asked(client, LAN, port) for port in (7, 53))  # the control
        assert asked(client, "198.51.100.1", 7)
        tunneld = start_closed(world, "--exclude-local-networks")
        tunneld.expect("connected")
        assert asked(client, LAN, 7)
        assert asked(client, LAN, 7, socket.SOCK_DGRAM)
        assert asked(wifi, "10.1.0.2", 9)
        assert not asked(client, LAN, 53)
        assert not asked(client, LAN, 53, socket.SOCK_DGRAM)
        assert not asked(client, "198.51.100.1", 7)
        assert world.ping()
    assert tunneld.end() == 0


def test_the_tunnels_address_is_nobodys_on_the_link(world: World) -> None:
    """CVE-2019-14899 and ARP: the control is the same question before it is closed."""
    client, wifi = world.client, world.routers["wlan0"]
    question = [sys.executable, "-c", (
        "import socket,struct,sys\n"
        "s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW,socket.htons(0x0806));s.settimeout(1)\n"
        "s.bind(('down0',0x0806));m=s.getsockname()[4];b=b'\\xff'*6\n"
        "s.send(b+m+b'\\x08\\x06'+struct.pack('!HHBBH',1,0x800,6,4,1)+m+"
        "socket.inet_aton('10.1.0.1')+bytes(6)+socket.inet_aton(sys.argv[1]))\n"
        "while True:\n"
        " r=s.recv(99)\n"
        " if r[20:22]==b'\\0\\x02' and r[28:32]==socket.inet_aton(sys.argv[1]): break\n"
    ), "10.9.0.2"]  # fmt: skip
    before = client.run("sysctl -n net.ipv4.conf.all.arp_ignore").stdout
    plain = world.start("--bind", "cellular")
    plain.expect("connected")
    assert wifi.run(question, check=False).returncode == 0
    assert plain.end() == 0
    tunneld = start_closed(world)
    tunneld.expect("connected")
    assert wifi.run(question, check=False).returncode != 0
    wifi.ip("route add 10.9.0.2/32 via 10.1.0.2")
    wifi.run("ping -c2 -i0.1 -W1 10.9.0.2", check=False)
    rules = tunnelctl(client, "killswitch", world.interface)["rules"]
    (dropped,) = (r["packets"] for r in rules if r["rule"] == "for 10.9.0.2 from elsewhere")
    assert dropped == 2
    assert tunneld.end() == 0
    assert client.run("sysctl -n net.ipv4.conf.all.arp_ignore").stdout == before


def test_another_mark_takes_rules_and_firewall_along_and_zero_is_refused(world: World) -> None:
    tunneld = start_closed(world)
    tunneld.expect("connected")
    wg(f"set {world.interface} fwmark 0x1234")
    assert world.ping()
    text = world.client.run("nft list table inet tunneld").stdout
    assert "0x00001234" in text
    assert "0x00007400" not in text
    refused = subprocess.run(
        ["wg", "set", world.interface, "fwmark", "0"], capture_output=True, text=True
    )
    assert refused.returncode
    tunneld.expect("fwmark 0 is refused under the kill switch")
    assert world.ping()
    assert tunneld.end() == 0


def test_one_at_a_time_and_without_a_daemon(world: World, tmp_path: Path) -> None:
    client = world.client
    assert tunnelctl(client, "killswitch")["kill_switch"] == "off"
    assert tunnelctl(client, "killswitch", "off")["kill_switch"] == "off"
    assert tunnelctl(client, "killswitch", "on")["kill_switch"] == "blocked"
    with listening(world.routers["wlan0"], 7):
        assert not asked(client, LAN, 7)
        tunneld = start_closed(world)
        tunneld.expect("taken over")
        tunneld.expect("connected")
        other = tmp_path / f"{world.interface}b.conf"
        other.write_text(world.config.read_text())
        second = Program(
            client, str(BIN / "tunneld"), "--config", str(other), "--include-all-networks"
        )
        second.expect(f"is held by the tunneld of {world.interface}")
        assert second.wait() == 1
        third = Program(client, str(BIN / "tunneld"), "--config", str(other), "--bind", "wifi")
        third.expect(f"the kill switch is closed by the tunneld of {world.interface}, so that")
        assert third.end() == 0
        assert tunnelctl(client, "killswitch")["interface"] == world.interface
        assert world.ping()
        # While it runs it can be opened and closed.
        assert tunnelctl(client, "killswitch", "off")["kill_switch"] == "off"
        assert world.ping()
        assert asked(client, LAN, 7)
        assert tunnelctl(client, "killswitch", "on")["kill_switch"] == "connected"
        assert not asked(client, LAN, 7)
        assert world.ping()
        client.ip(f"link del {world.interface}")  # no orderly end: it stays closed
        tunneld.expect("stays closed")
        tunneld.wait()
        assert not asked(client, LAN, 7)
        assert tunnelctl(client, "killswitch", "off")["kill_switch"] == "off"
        assert asked(client, LAN, 7)
    assert world.leftovers() == []


def test_errors_about_the_outer_flow_come_through(world: World) -> None:
    tunneld = start_closed(world)
    tunneld.expect("connected")
    world.ping()
    world.routers["wwan0"].ip(f"route replace unreachable {FAR}/32")
    world.ping(check=False, count=2)
    rules = tunnelctl(world.client, "killswitch", world.interface)["rules"]
    (met,) = (r["packets"] for r in rules if r["rule"] == "ICMP errors about our packets on wwan0")
    assert met > 0
    assert tunneld.end() == 0


def test_endpoint_names_are_resolved_through_it(world: World) -> None:
    text = world.config.read_text().replace(f"{FAR}:", "vpn.example:")
    world.config.write_text(text)
    toml = world.config.with_suffix(".unused")
    toml.unlink(missing_ok=True)
    server = [sys.executable, "-c", (
        "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.bind(('10.2.0.1',53))\n"
        "print('up',flush=True)\n"
        "while True:\n"
        " q,a=s.recvfrom(999);n=q.index(b'\\0',12)+5\n"
        " v4=q[n-3]==1;r=b'\\xc0\\x0c\\0\\x01\\0\\x01\\0\\0\\0\\x05\\0\\x04'+bytes([192,0,2,1])\n"
        " h=q[:2]+b'\\x81\\x80\\0\\x01\\0'+bytes([v4])+bytes(4)\n"
        " s.sendto(h+q[12:n]+(r if v4 else b''),a)"
    )]  # fmt: skip
    process = world.routers["wwan0"].start(server, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    resolv = Path(f"/etc/netns/{world.client.name}")
    resolv.mkdir(parents=True)
    (resolv / "resolv.conf").write_text("nameserver 10.2.0.1\n")
    try:
        tunneld = start_closed(world)
        tunneld.expect("connected")
        assert world.ping()
        rules = tunnelctl(world.client, "killswitch", world.interface)["rules"]
        assert sum(r["packets"] for r in rules if "endpoint names udp" in r["rule"]) > 0
        assert tunneld.end() == 0
    finally:
        (resolv / "resolv.conf").unlink()
        process.stdout.close()
