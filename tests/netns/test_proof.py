"""tunnelctl path, explain and leaktest in a real network, with and without a firewall."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.netns.command import BIN, tunnelctl
from tests.netns.world import FAR, INNER, PORT, World, everything_through_the_tunnel
from tools.netlab import Lab

pytestmark = pytest.mark.root

ELSEWHERE = "203.0.113.9"


def explained(world: World, *words: str) -> list[dict[str, Any]]:
    packets: list[dict[str, Any]] = tunnelctl(world.client, "explain", *words)["packets"]
    return packets


def test_path_shows_every_interface_and_why(world: World) -> None:
    tunneld = world.start("--bind", "cellular")
    tunneld.expect("connected")
    report = tunnelctl(world.client, "path", world.interface)
    assert (report["schema"], report["bound"]) == (1, True)
    assert report["path"]["interface"] == "wwan0"
    assert report["endpoints"] == {FAR: PORT}
    assert report["dns"]["servers"] == []
    by_name = {one["name"]: one for one in report["interfaces"]}
    assert next(iter(by_name)) == "wwan0"
    cell, wifi = by_name["wwan0"], by_name["wlan0"]
    assert (cell["role"], cell["reason"], cell["type"]) == ("in use", None, "cellular")
    assert (cell["evidence"], cell["confidence"]) == ("name wwan0", "guess")
    assert (cell["ipv4"], cell["ipv6"], cell["expensive"]) == (True, True, False)
    assert {"10.2.0.2/24", "fd00:2::2/64"} <= set(cell["addresses"])
    assert cell["gateways"] == ["10.2.0.1", "fd00:2::1"]
    assert (wifi["role"], wifi["reason"]) == ("not used", "is not permitted")
    assert by_name["lo"]["role"] == "not used"
    text = world.tunnelctl("path", world.interface).stdout
    assert "path: satisfied: wwan0" in text
    assert any("wlan0" in line and "is not permitted" in line for line in text.splitlines())
    assert tunneld.end() == 0


def test_explain_says_which_way_a_packet_goes_as_the_kernel_does(world: World) -> None:
    everything_through_the_tunnel(world)
    tunneld = world.start("--bind", "cellular")
    tunneld.expect("connected")
    program, own = explained(world, ELSEWHERE, world.interface)
    assert program["result"] == f"goes through the tunnel ({world.interface})"
    assert program["interface"] == world.interface
    assert program["source"] == "10.9.0.2"
    assert "not from all fwmark" in program["rule"]["words"]
    assert program["route"].startswith("default")
    assert not program["unsure"]
    assert (own["sender"], own["bound_to"]) == ("the tunnel itself", "wwan0")
    assert own["result"] == "leaves by wwan0, outside the tunnel"
    assert (own["gateway"], own["source"]) == ("10.2.0.1", "10.2.0.2")
    assert "oif wwan0" in own["rule"]["words"]
    # The far end's own port counts for the tunnel's packets.
    assert explained(world, FAR, world.interface)[1]["port"] == PORT
    # What the kernel then does agrees with what was said.
    got = world.client.ip(f"-j route get {ELSEWHERE}")
    assert f'"dev":"{world.interface}"' in got
    (bound, _) = explained(world, ELSEWHERE, world.interface, "--bound", "wlan0")
    assert bound["result"] == "leaves by wlan0, outside the tunnel"
    assert bound["gateway"] == "10.1.0.1"
    # A link without a default route: the kernel says success, and asks ARP for all the world.
    world.client.ip("route del default dev wlan0")
    (bound, _) = explained(world, ELSEWHERE, world.interface, "--bound", "wlan0")
    assert bound["on_link_guess"]
    assert bound["result"].startswith("has no route on wlan0")
    six, _ = explained(world, "2001:db8::9", world.interface)
    assert six["result"] == f"goes through the tunnel ({world.interface})"
    text = world.tunnelctl("explain", INNER, world.interface).stdout
    assert f"goes through the tunnel ({world.interface})" in text
    assert tunneld.end() == 0


def test_explain_names_the_firewalls_rule_whoever_made_it(world: World) -> None:
    world.client.run(["nft", "add table inet mine; "
        "add chain inet mine out { type filter hook output priority 0; }; "
        "add set inet mine bad { type ipv4_addr; flags interval; elements = { 203.0.113.0/24 } }; "
        "add rule inet mine out tcp dport 22 accept; "
        "add rule inet mine out ip daddr @bad counter drop comment \"known bad\"; "
        "add rule inet mine out meta mark & 0xff == 7 oifname wl* reject"])  # fmt: skip

    # No tunneld here: the command explains this machine (there may be one in another namespace).
    def program(*words: str) -> dict[str, Any]:
        return explained(world, *words)[0]

    dropped = program(ELSEWHERE)
    assert dropped["firewall"] == {
        "verdict": "drop", "by": "inet mine out: known bad", "unsure": [],
    }  # fmt: skip
    assert dropped["result"] == "is dropped by the firewall on its way to wlan0"
    allowed = program(ELSEWHERE, "--port", "22")
    assert allowed["firewall"]["verdict"] == "accept"
    marked = program("198.51.100.1", "--mark", "0x107", "--udp")
    assert marked["firewall"]["verdict"] == "reject"
    other = program("198.51.100.1", "--mark", "8")
    assert other["result"] == "leaves by wlan0, outside the tunnel"
    here = program("127.0.0.1")
    assert here["result"] == "stays on this machine"


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["explain", "no.such.name.invalid"], 2, "is no address, and no name that resolves"),
        (["explain", "::1", "--from", "10.0.0.1"], 2, "are not of the same IP version"),
        (["explain", "::1", "--bound", "nothing0"], 2, "there is no interface 'nothing0'"),
        (["explain", "::1", "--mark", "many"], 2, "'many' is no 32-bit number"),
        (["leaktest", "nobody0"], 5, "no tunneld runs for nobody0"),
    ],
)
def test_wrong_questions_get_one_line(lab: Lab, words: list[str], code: int, line: str) -> None:
    done = lab.namespace("client").run([str(BIN / "tunnelctl"), *words], check=False)
    assert done.returncode == code
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def test_leaktest_tells_a_leak_from_a_stop_and_proves_nothing_without_its_control(
    world: World,
) -> None:
    everything_through_the_tunnel(world)
    tunneld = world.start("--bind", "cellular")
    tunneld.expect("connected")
    # Without a firewall, sockets bound to a link and packet sockets get past the tunnel.
    done = world.tunnelctl("leaktest", world.interface, "--json")
    assert done.returncode == 1
    report = tunnelctl_report(done)
    assert (report["result"], report["control"]["seen"]) == ("fail", True)
    leaked = {row["probe"] for row in report["probes"] if row["outcome"] == "leaked"}
    assert {"bound socket, IPv4, UDP", "bound socket, IPv4, TCP", "bound socket, IPv6, UDP",
            "packet socket, IPv4, UDP", "packet socket, IPv6, UDP"} <= leaked  # fmt: skip
    through = [
        r for r in report["probes"] if r["detail"] == f"went into the tunnel ({world.interface})"
    ]
    assert {row["probe"] for row in through} >= {"plain socket, IPv4, UDP", "DNS, UDP"}

    assert tunneld.end() == 0

    # Under the kill switch none gets out, and the tap sees what is permitted.
    tunneld = world.start("--bind", "cellular", "--include-all-networks")
    tunneld.expect("connected")
    done = world.tunnelctl("leaktest", world.interface, "--json")
    report = tunnelctl_report(done)
    assert [row for row in report["probes"] if row["outcome"] == "leaked"] == []
    assert (done.returncode, report["result"]) == (0, "pass"), report["reason"]
    assert "pass: none of" in world.tunnelctl("leaktest", world.interface).stdout
    assert world.tunnelctl("leaktest", world.interface, "--json").returncode == 0

    stats = tunnelctl(world.client, "stats", world.interface)
    met = [rule for rule in stats["rules"] if rule["packets"]]
    assert met
    assert "kill switch" in world.tunnelctl("stats", world.interface).stdout

    # What stops the permitted probe as well proves nothing.
    shut = "add table inet shut; add chain inet shut out { type filter hook output priority 0; }; "
    world.client.run(["nft", f"{shut}add rule inet shut out oifname wwan0 drop"])
    done = world.tunnelctl("leaktest", world.interface, "--json")
    assert (done.returncode, tunnelctl_report(done)["result"]) == (5, "unproven")
    world.client.run("nft delete table inet shut")
    assert tunneld.end() == 0


def test_under_the_kill_switch_names_are_asked_for_in_the_tunnel_only(world: World) -> None:
    """Ports 53 and 853, to the network's resolver and to strangers; local networks let out."""
    everything_through_the_tunnel(world)
    router = world.routers["wwan0"]
    router.run(["nft", "add counter netdev tap names; insert rule netdev tap in meta l4proto "
                "{ tcp, udp } th dport { 53, 853 } counter name names"])  # fmt: skip

    def heard() -> int:
        shown = router.run("nft -j list counter netdev tap names").stdout
        return int(json.loads(shown)["nftables"][1]["counter"]["packets"])

    def ask() -> None:
        world.client.run(["python3", "-c", ASK, "10.2.0.1", ELSEWHERE, "fd00:2::1"])

    ask()
    control = heard()
    assert control > 10  # the detector sees them where nothing stops them
    arguments = ("--bind", "cellular", "--include-all-networks", "--exclude-local-networks")
    tunneld = world.start(*arguments)
    tunneld.expect("connected")
    before = heard()
    assert world.client.run("ping -c1 -W2 10.2.0.1").returncode == 0  # the network is let out
    ask()
    assert heard() == before
    (program, *_) = explained(world, "10.2.0.1", world.interface, "--port", "53", "--udp")
    assert program["firewall"]["verdict"] in ("reject", "drop"), json.dumps(program)
    assert "DNS" in program["firewall"]["by"]
    assert tunneld.end() == 0


#: Every way that a careless program has to ask the servers that it is given.
ASK = """
import itertools, socket, sys
kinds = socket.SOCK_DGRAM, socket.SOCK_STREAM
for target, port, kind, bound in itertools.product(sys.argv[1:], (53, 853), kinds, (b"", b"wwan0")):
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with socket.socket(family, kind) as one:
        one.settimeout(0.05)
        try:
            if bound:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bound)
            one.connect((target, port))
            one.send(b"x")
        except OSError:
            pass
"""


def tunnelctl_report(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report
