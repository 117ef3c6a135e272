"""A client with Wi-Fi and cellular, and Debian's wireguard-go as the tunnel's far end.

        wlan0 10.1.0.2 -- 10.1.0.1 wifi 10.3.0.1 \\
    client                                        10.3.0.2, 10.4.0.2  server: 192.0.2.1:51820
        wwan0 10.2.0.2 -- 10.2.0.1 cell 10.4.0.1 /                    in the tunnel 10.9.0.1

The client's routes prefer wlan0, and rp_filter is strict everywhere. Each router counts the
tunnel's outer packets as they come from the client (`outer`), in the kernel.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.netns.command import BIN, Program, start_tunneld
from tools.netlab import Lab, Namespace

PORT = 51820
FAR = "192.0.2.1"
INNER, INNER6 = "10.9.0.1", "fd09::1"
_serial = itertools.count()


def name(prefix: str) -> str:
    """Return an interface name of this run's own: UAPI sockets are not in the namespace."""
    return f"{prefix}{os.getpid()}x{next(_serial)}"


def wg(command: str, given: str | None = None) -> str:
    done = subprocess.run(
        ["wg", *command.split()], input=given, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@dataclass
class World:
    client: Namespace
    routers: dict[str, Namespace]
    server: Namespace
    interface: str
    config: Path
    private: str
    server_public: str
    device: str
    """The far end's."""

    def start(self, *arguments: str) -> Program:
        return start_tunneld(self.client, "--config", str(self.config), *arguments)

    def tunnelctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run tunnelctl in the client, whatever it answers."""
        return self.client.run([str(BIN / "tunnelctl"), *words], check=False)

    def outer(self, interface: str) -> int:
        """How many of the tunnel's packets the client has sent over an interface."""
        shown = self.routers[interface].run("nft -j list counter netdev tap outer").stdout
        return int(json.loads(shown)["nftables"][1]["counter"]["packets"])

    def connected(self) -> list[str]:
        """Local ends (address%device) of UDP sockets that are connected to the far end."""
        shown = self.client.run(f"ss -Hun state established dst {FAR} dport = :{PORT}").stdout
        return [line.split()[2].rpartition(":")[0] for line in shown.splitlines()]

    def missing(self) -> tuple[int, int]:
        """Bytes of datagrams that were sent to the far end, and by it, but not taken."""
        (_, taken, sent), (_, far_taken, far_sent) = (
            wg(f"show {name} transfer").split() for name in (self.interface, self.device)
        )
        return int(sent) - int(far_taken), int(far_sent) - int(taken)

    def ping(self, target: str = INNER, *, count: int = 3, check: bool = True) -> bool:
        words = f"ping -c{count} -i0.05 -W2 {target}"
        return self.client.run(words, check=check).returncode == 0

    def leftovers(self) -> list[str]:
        """What is there that was not there before any tunneld ran."""
        found = [f"link {line}" for line in self.client.ip("-br link").splitlines()
                 if line.split("@")[0].split()[0] not in ("lo", "wlan0", "wwan0")]  # fmt: skip
        for version in (4, 6):
            rules = self.client.ip(f"-{version} rule").splitlines()
            found += [r for r in rules if not re.match(r"(0|32766|32767):", r)]
            routes = self.client.ip(f"-{version} route show table all").splitlines()
            found += [r for r in routes if " table 7" in r or self.interface in r]
        found += self.client.run("nft list tables").stdout.split("\n")[:-1]
        for folder in ("/run/tunneld", "/var/run/wireguard"):
            if Path(folder).is_dir():
                found += [str(p) for p in Path(folder).iterdir() if p.stem == self.interface]
        inode = Path(f"/run/netns/{self.client.name}").stat().st_ino
        found += map(str, Path("/run/tunneld").glob(f"routes-{inode}-*"))
        mark = self.client.run("sysctl -n net.ipv4.conf.all.src_valid_mark").stdout.strip()
        return found + ([] if mark == "0" else [f"src_valid_mark {mark}"])


def address(client: Namespace, name: str, number: int, metric: int) -> None:
    """Give the client's interface its addresses and default routes, as a DHCP client would."""
    client.ip(f"addr replace 10.{number}.0.2/24 dev {name}")
    client.ip(f"-6 addr replace fd00:{number}::2/64 dev {name} nodad")
    client.ip(f"route replace default via 10.{number}.0.1 dev {name} metric {metric}")
    client.ip(f"-6 route replace default via fd00:{number}::1 dev {name} metric {metric}")


def make_world(lab: Lab, tmp_path: Path) -> World:
    """Build it, with the far end running; the client's configuration is in `config`."""
    if shutil.which("wireguard-go") is None or shutil.which("wg") is None:
        pytest.skip("wireguard-go or wg is not installed: apt install wireguard-go wireguard-tools")
    client, wifi, cell, server = (lab.namespace(n) for n in ("client", "wifi", "cell", "server"))
    routers = {"wlan0": wifi, "wwan0": cell}
    for number, (interface, router) in enumerate(routers.items(), start=1):
        lab.link(client, interface, router, "down0")
        lab.link(router, "up0", server, f"eth{number}")
        router.ip(f"addr add 10.{number}.0.1/24 dev down0")
        router.ip(f"addr add 10.{number + 2}.0.1/24 dev up0")
        router.ip(f"-6 addr add fd00:{number}::1/64 dev down0 nodad")
        server.ip(f"addr add 10.{number + 2}.0.2/24 dev eth{number}")
        server.ip(f"route add 10.{number}.0.0/24 via 10.{number + 2}.0.1")
        router.ip(f"route add {FAR} via 10.{number + 2}.0.2")
        router.sysctl("net.ipv4.ip_forward", 1)
        router.run(
            ["nft", "add table netdev tap; add counter netdev tap outer; add chain netdev tap in "
             "{ type filter hook ingress device down0 priority 0; }; "
             f"add rule netdev tap in udp dport {PORT} counter name outer"]
        )  # fmt: skip
        address(client, interface, number, metric=100 * number)
    for scope in ("all", "default", "wlan0", "wwan0"):
        client.sysctl(f"net.ipv4.conf.{scope}.rp_filter", 1)
    server.ip(f"addr add {FAR}/32 dev lo")

    private = {who: wg("genkey") for who in ("client", "server")}
    public = {who: wg("pubkey", key) for who, key in private.items()}
    device = name("go")
    peer = Program(server, "env", "LOG_LEVEL=verbose", "wireguard-go", "-f", device)
    peer.expect("UAPI listener started")
    server.run(
        f"wg set {device} listen-port {PORT} private-key /dev/stdin peer {public['client']} "
        "allowed-ips 10.9.0.2/32,fd09::2/128",
        input=private["server"],
    )
    server.ip(f"addr add {INNER}/24 dev {device}")
    server.ip(f"-6 addr add {INNER6}/64 dev {device} nodad")
    server.ip(f"link set {device} up mtu 1420")

    interface = name("td")
    config = tmp_path / f"{interface}.conf"
    config.touch(0o600)
    config.write_text(
        f"[Interface]\nPrivateKey = {private['client']}\nAddress = 10.9.0.2/24, fd09::2/64\n"
        f"[Peer]\nPublicKey = {public['server']}\nEndpoint = {FAR}:{PORT}\n"
        "AllowedIPs = 10.9.0.0/24, fd09::/64\n"
    )
    return World(
        client, routers, server, interface, config, private["client"], public["server"], device
    )


def start_closed(world: World, *arguments: str) -> Program:
    """Start tunneld with the kill switch, on cellular."""
    return world.start("--bind", "cellular", "--include-all-networks", *arguments)


def everything_through_the_tunnel(world: World) -> None:
    """Give the configuration default routes."""
    text = world.config.read_text()
    world.config.write_text(re.sub("AllowedIPs.*", "AllowedIPs = 0.0.0.0/0, ::/0", text))
