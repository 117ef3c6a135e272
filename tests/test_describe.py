"""The report of --check: everything that would be applied, and no secret."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tunnel import tomlform, wgquick
from tunnel.describe import describe

FILE = Path("/etc/wireguard/wg0.conf")
PRIVATE = base64.b64encode(bytes([0x48]) * 31 + b"\x41").decode()
PRESHARED = base64.b64encode(bytes([0x51]) * 32).decode()
PUBLIC = base64.b64encode(bytes([0x21]) * 32).decode()


def test_the_description_names_what_would_be_applied() -> None:
    lines = describe(
        wgquick.parse(
            f"[Interface]\nPrivateKey={PRIVATE}\nAddress=10.0.0.2/32\n"
            f"PostUp=wg set %i x {PRESHARED}\n"
            f"[Peer]\nPublicKey={PUBLIC}\nAllowedIPs=::/0,10.0.0.0/8,0.0.0.0/0\nEndpoint=a:1\n"
            f"PersistentKeepalive=5\nPresharedKey={PRESHARED}",
            FILE,
        )
    )
    assert lines == [
        f"configuration: {FILE}",
        "private key: set",
        "listen port: any that is free",
        "firewall mark: not set",
        "address: 10.0.0.2/32",
        "MTU: from the path, 1280 to 1420",
        f"peer {PUBLIC}: endpoint a:1; allowed IPs ::/0, 10.0.0.0/8, 0.0.0.0/0; "
        "keepalive every 5 s; preshared key set",
        "route: 0.0.0.0/0 for all traffic without the tunnel's mark, in a table of its own",
        "route: 10.0.0.0/8 in the main table",
        "route: ::/0 for all traffic without the tunnel's mark, in a table of its own",
        "PostUp: wg set %i x (hidden)",
    ]


@pytest.mark.parametrize(
    ("table", "routes"),
    [
        ("off", ["routes: none (Table is off)"]),
        ("7", ["route: 0.0.0.0/0 in table 7"]),
    ],
)
def test_the_description_follows_the_table(table: str, routes: list[str]) -> None:
    text = f"[Interface]\nTable={table}\n[Peer]\nPublicKey={PUBLIC}\nAllowedIPs=0.0.0.0/0"
    lines = describe(wgquick.parse(text, FILE))
    assert [line for line in lines if line.startswith("route")] == routes


def test_the_tables_of_the_toml_form() -> None:
    lines = describe(
        tomlform.parse(
            """
            [binding]
            bind = "cellular, if:eth0"
            prohibit = ["wlan0"]
            avoid = "expensive"
            [interfaces.eth0]
            type = "cellular"
            expensive = true
            constrained = false
            dns = ["192.0.2.1"]
            [dns]
            servers = "1.1.1.1"
            search = "lan"
            match_domains = ["~Corp.example."]
            """,
            Path("wg0.toml"),
        )
    )
    assert "DNS: 1.1.1.1 for names under corp.example; search lan" in lines
    assert lines[-4:] == [
        "bind: cellular, if:eth0",
        "prohibit: wlan0",
        "avoid: expensive",
        "interface eth0: type cellular, expensive, not constrained, resolvers 192.0.2.1",
    ]
