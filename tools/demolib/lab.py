"""The demonstration's network: a client with two ways out, and a gateway before a server.

               wlan0  +----------+ up0
             .--------|   wifi   |-------.
    +--------+        +----------+       +----------+      +---------+      +--------+
    | client |                           | internet |------| gateway |------| server |
    +--------+        +----------+       +----------+ ext0 +---------+ lan0 +--------+
             '--------| cellular |-------'
               wwan0  +----------+ up0

    192.0.2.0/24      client .2  wlan0     wifi .1 down0       preferred: metric 100
    198.51.100.0/24   client .2  wwan0     cellular .1 down0   metric 700
    203.0.113.0/24    gateway .1 ext0      internet .254
    10.20.0.0/24      server .10 eth0      gateway .1 lan0     IPv6 the same, fd20::/64
    10.9.0.0/24       the tunnel: client .2, gateway .1        IPv6 the same, fd09::/64

The internet has no route to 10.20.0.0/24: the server can be reached through the tunnel only. The
packets are counted where they arrive, on down0 of either router. The client filters by reverse
path strictly, as many distributions do, and no link takes super-packets, so that what is counted
are single datagrams, as on a wire.
"""

from __future__ import annotations

from typing import Final

from tools.netlab import Lab, Namespace

SERVER: Final = "10.20.0.10"
SERVER6: Final = "fd20::10"
GATEWAY: Final = "203.0.113.1"
TUNNEL_PORT: Final = 51820

#: What the client's interfaces are called, and the router behind each.
WIFI: Final = "wlan0"
CELLULAR: Final = "wwan0"


class DemoLab:
    """The namespaces of the drawing, wired and addressed, without any tunnel."""

    def __init__(self, lab: Lab) -> None:
        names = ("client", "wifi", "cellular", "internet", "gateway", "server")
        spaces = [lab.namespace(name) for name in names]
        self.client, self.wifi, self.cellular, self.internet, self.gateway, self.server = spaces
        for router in (self.wifi, self.cellular, self.internet, self.gateway):
            router.sysctl("net.ipv4.ip_forward", 1)
            router.sysctl("net.ipv6.conf.all.forwarding", 1)
        for scope in ("all", "default"):
            self.client.sysctl(f"net.ipv4.conf.{scope}.rp_filter", 1)
        self._access(lab, WIFI, self.wifi, "192.0.2", "100.64.1", metric=100)
        self._access(lab, CELLULAR, self.cellular, "198.51.100", "100.64.2", metric=700)
        self._gateway(lab)

    def _access(
        self, lab: Lab, name: str, router: Namespace, net: str, uplink: str, *, metric: int
    ) -> None:
        """Connect the client through a router to the internet, as a DHCP client would."""
        lab.link(self.client, name, router, "down0")
        lab.link(router, "up0", self.internet, router.label)
        router.ip(f"addr add {net}.1/24 dev down0")
        router.ip(f"addr add {uplink}.2/30 dev up0")
        router.ip(f"route add default via {uplink}.1")
        self.internet.ip(f"addr add {uplink}.1/30 dev {router.label}")
        self.internet.ip(f"route add {net}.0/24 via {uplink}.2")
        self.client.ip(f"addr add {net}.2/24 dev {name}")
        self.client.ip(f"route add default via {net}.1 dev {name} metric {metric}")
        self.client.ip(f"link set {name} gso_max_segs 1")

    def _gateway(self, lab: Lab) -> None:
        lab.link(self.gateway, "ext0", self.internet, "gateway")
        lab.link(self.gateway, "lan0", self.server, "eth0")
        self.internet.ip("addr add 203.0.113.254/24 dev gateway")
        self.gateway.ip(f"addr add {GATEWAY}/24 dev ext0")
        self.gateway.ip("route add default via 203.0.113.254")
        self.gateway.ip("link set ext0 gso_max_segs 1")
        self.gateway.ip("addr add 10.20.0.1/24 dev lan0")
        self.gateway.ip("addr add fd20::1/64 dev lan0 nodad")
        self.server.ip(f"addr add {SERVER}/24 dev eth0")
        self.server.ip(f"addr add {SERVER6}/64 dev eth0 nodad")
        self.server.ip("route add default via 10.20.0.1")
        self.server.ip("route add default via fd20::1")

    def footprint(self) -> str:
        """Return the client's links, routes, rules and firewall: a tunnel must leave them so."""
        commands = ("ip -o link", "ip rule", "ip -6 rule", "ip -4 route show table all",
                    "ip -6 route show table all", "nft list ruleset")  # fmt: skip
        return "".join(f"# {command}\n{self.client.run(command).stdout}" for command in commands)
