"""README's table of policies, line by line: what each lets out, measured with real packets.

A tap on the client's links sees where a probe leaves (world.py has the network; the tap and the
probes are those of `tunnelctl leaktest`).
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.netns.command import Program, start_tunneld, tunnelctl
from tests.netns.world import FAR, PORT, World, make_world
from tools.netlab import Lab
from tunnel.daemon.leakprobes import Probe, send
from tunnel.daemon.leaktest import Tap

pytestmark = pytest.mark.root

README = Path(__file__).parent.parent.parent / "README.md"
ELSEWHERE, ROUTER = "203.0.113.9", "10.1.0.1"
#: What README's line says in its first column -> options, lines of [routing], and allowed IPs.
POLICIES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "`AllowedIPs` of some networks": ((), "", "10.9.0.0/24"),
    "`AllowedIPs = 0.0.0.0/0, ::/0`": ((), "", "0.0.0.0/0, ::/0"),
    "`--bind cellular`": (("--bind", "cellular"), "", "0.0.0.0/0, ::/0"),
    "`--prohibit wifi`": (("--prohibit", "wifi"), "", "0.0.0.0/0, ::/0"),
    "`--avoid wifi`": (("--avoid", "wifi"), "", "0.0.0.0/0, ::/0"),
    "`enforce_routes`": ((), "enforce_routes = true\n", "0.0.0.0/0, ::/0"),
    "`enforce_routes`, `exclude_local_networks`": (
        (), "enforce_routes = true\nexclude_local_networks = true\n", "0.0.0.0/0, ::/0",
    ),
    "`--include-all-networks`": (("--include-all-networks",), "", "0.0.0.0/0, ::/0"),
    "`--include-all-networks --bind cellular`": (
        ("--include-all-networks", "--bind", "cellular"), "", "0.0.0.0/0, ::/0",
    ),
    "`--include-all-networks --exclude-local-networks`": (
        ("--include-all-networks", "--exclude-local-networks"), "", "0.0.0.0/0, ::/0",
    ),
    "`--include-all-networks --lockdown-on-exit`": (
        ("--include-all-networks", "--lockdown-on-exit"), "", "0.0.0.0/0, ::/0",
    ),
}  # fmt: skip


#: One of each kind; the long form measures every line.
SHORT = (
    "`AllowedIPs = 0.0.0.0/0, ::/0`",
    "`enforce_routes`",
    "`--include-all-networks --exclude-local-networks`",
    "`--include-all-networks --lockdown-on-exit`",
)


def documented() -> dict[str, list[str]]:
    """Return README's table: the first column, and the cells after it."""
    text = README.read_text(encoding="utf-8").partition("## Policies, and what each lets out")[2]
    found = {}
    for line in text.partition("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 8:
            found[cells[0]] = [cell.strip("*") for cell in cells[1:]]
    return found


class Measured:
    """The network, and one policy's way through it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.config = world.config.with_suffix(".toml")
        self.config.touch(0o600)

    def start(self, options: Sequence[str], routing: str, allowed: str) -> Program:
        world = self.world
        self.config.write_text(
            f'[interface]\nprivate_key = "{world.private}"\naddresses = "10.9.0.2/24"\n'
            f'[[peer]]\npublic_key = "{world.server_public}"\nendpoint = "{FAR}:{PORT}"\n'
            f'allowed_ips = "{allowed}"\n[routing]\n{routing}'
        )
        tunneld = start_tunneld(world.client, "--config", str(self.config), *options)
        tunneld.expect("connected")
        return tunneld

    def way(self, target: str, port: int = 9999, bound: str = "") -> str:
        """Return where a program's packet leaves: 'tunnel', 'link' or 'nowhere'."""
        with self.world.client.entered():
            tap = Tap.open()
            probe = Probe("plain", bound, ip_address(target), port)
            try:
                send(probe)
                tap.watch(0.3, until=probe)
                seen = tap.where(probe)
            finally:
                tap.socket.close()
                probe.close()
        if not seen:
            return "nowhere"
        return "tunnel" if seen == [self.world.interface] else "link"

    def row(self, options: Sequence[str], routing: str, allowed: str) -> list[str]:
        world = self.world
        before = {name: world.outer(name) for name in world.routers}
        tunneld = self.start(options, routing, allowed)
        own = [name for name in world.routers if world.outer(name) > before[name]]
        cells = [
            {"wlan0": "Wi-Fi", "wwan0": "cellular"}["".join(own)],
            self.way(ELSEWHERE),
            self.way(ELSEWHERE, bound="wlan0"),
            self.way(ROUTER),
            self.way(ROUTER, port=53),
        ]
        assert tunneld.end(signal.SIGKILL) == -signal.SIGKILL
        cells.append(self.way(ELSEWHERE))
        tunneld = self.start(options, routing, allowed)
        assert tunneld.end() == 0
        cells.append(self.way(ELSEWHERE))
        tunnelctl(world.client, "killswitch", "off")
        return cells


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    with Lab() as lab:
        world = make_world(lab, tmp_path_factory.mktemp("policies"))
        # Who holds the address of the gateway need not be asked, so that a probe leaves at once.
        shown = world.routers["wlan0"].ip("link show down0")
        (hardware,) = re.findall(r"link/ether (\S+)", shown)
        world.client.ip(f"neigh replace {ROUTER} dev wlan0 nud permanent lladdr {hardware}")
        yield Measured(world)


def test_the_table_and_this_file_have_the_same_lines() -> None:
    assert list(documented()) == list(POLICIES)


@pytest.mark.parametrize("policy", SHORT)
def test_a_policy_lets_out_what_the_readme_says(measured: Measured, policy: str) -> None:
    assert measured.row(*POLICIES[policy]) == documented()[policy]


@pytest.mark.long
@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy not in SHORT])
def test_the_other_policies_do_too(measured: Measured, policy: str) -> None:
    assert measured.row(*POLICIES[policy]) == documented()[policy]
