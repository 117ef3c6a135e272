"""The TOML form: the same values as wg-quick's, its own tables, errors with their lines."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from tunnel import tomlform, wgquick
from tunnel.config import BindingConfig, Config, InterfaceOverride, ProxyConfig
from tunnel.errors import ConfigError
from tunnel.places import Forward, Place
from tunnel.policy.interface import InterfaceType
from tunnel.secret import Secret
from tunnel.settings import RoutingPolicy
from tunnel.tomllines import Lines

FILE = Path("/etc/tunneld/wg0.toml")
RAW = bytes([0x48]) * 31 + b"\x41"
PRIVATE = Secret(RAW).base64()
PUBLIC, OTHER = (base64.b64encode(bytes([n]) * 32).decode() for n in (0x21, 0x22))


def parse(text: str) -> Config:
    return tomlform.parse(text, FILE)


def test_both_forms_say_the_same() -> None:
    conf = wgquick.parse(
        f"""
        [Interface]
        PrivateKey = {PRIVATE}
        ListenPort = 51820
        FwMark = 0xca6c
        Address = 10.0.0.2/24, fd00::2/64
        DNS = 1.1.1.1, lan
        MTU = 1380
        Table = off
        PostUp = echo up
        PostUp = echo a, b
        [Peer]
        PublicKey = {PUBLIC}
        PresharedKey = {OTHER}
        Endpoint = vpn.example.org:51820
        AllowedIPs = 0.0.0.0/0, ::/0
        PersistentKeepalive = 25
        [Peer]
        PublicKey = {OTHER}
        """,
        FILE,
    )
    toml = parse(
        f"""
        [interface]
        private_key = "{PRIVATE}"
        listen_port = 51820
        fwmark = 0xca6c
        addresses = ["10.0.0.2/24", "fd00::2/64"]
        dns = ["1.1.1.1", "lan"]
        mtu = 1380
        table = "off"
        post_up = ["echo up", "echo a, b"]
        [[peer]]
        public_key = "{PUBLIC}"
        preshared_key = "{OTHER}"
        endpoint = "vpn.example.org:51820"
        allowed_ips = ["0.0.0.0/0", "::/0"]
        persistent_keepalive = 25
        [[peer]]
        public_key = "{OTHER}"
        """
    )
    assert replace(toml, warnings=()) == replace(conf, warnings=())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('[interface]\naddress = "10.0.0.1, ::1"', '[interface]\naddresses = ["10.0.0.1", "::1"]'),
        ('[interface]\nfw_mark = "off"', "[interface]\nfwmark = 0"),
        ('[interface]\ntable = "main"', "[routing]\ntable = 254"),
        ("[interface]\nfwmark = 7", "[routing]\nfwmark = 7"),
        ('[interface]\npost_up = "a"', '[interface]\npost_up = ["a"]'),
        ('[interface]\ndns = "1.1.1.1, lan"', '[dns]\nservers = ["1.1.1.1"]\nsearch = "lan"'),
        ('[binding]\nbind = "wifi, cellular"', '[binding]\nbind = ["wifi", "cellular"]'),
        ("interface.mtu = 1400", "[interface]\nmtu = 1400"),
        (
            '[dns]\nservers = "1.1.1.1"\nmatch_domains = ["", "a.example"]',
            '[dns]\nservers = "1.1.1.1"\nmatch_domains = "~., ~A.example."\nmethod = "auto"',
        ),
        ("", "[interface]\n[binding]\n[routing]\n[dns]\n[interfaces]"),
    ],
)
def test_two_ways_to_write_one_thing(one: str, other: str) -> None:
    assert replace(parse(one), warnings=()) == replace(parse(other), warnings=())


def test_binding_and_interfaces_alone_are_enough() -> None:
    config = parse(
        """
        [binding]
        bind = ["cellular", "if:wwan0"]
        prohibit = "wlan0"
        avoid = "expensive, constrained"
        [interfaces.wwan0]
        type = "cellular"
        expensive = false
        ultra_constrained = true
        dns = "192.0.2.1"
        [interfaces."eth0.5"]
        """
    )
    assert config.interface.private_key is None
    assert config.binding == BindingConfig(
        ("cellular", "if:wwan0"), ("wlan0",), ("expensive", "constrained")
    )
    assert config.interfaces == {
        "wwan0": InterfaceOverride("cellular", False, None, True, ("192.0.2.1",)),
        "eth0.5": InterfaceOverride(),
    }


def test_routing() -> None:
    config = parse(
        """
        [routing]
        include_all_networks = true
        exclude_local_networks = true
        included_routes = "10.0.0.0/8, fd00::/8"
        excluded_routes = ["10.1.0.0/16", "192.0.2.7"]
        """
    )
    assert config.routing == RoutingPolicy(
        include_all_networks=True,
        exclude_local_networks=True,
        included_routes=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
        excluded_routes=(ip_network("10.1.0.0/16"), ip_network("192.0.2.7/32")),
    )
    assert parse("").routing == RoutingPolicy()


def test_proxy() -> None:
    config = parse(
        """
        [proxy]
        socks5 = "127.0.0.1:1080"
        http = "[::1]:8118"
        credentials = "users"
        forward = ["tcp:8080=10.0.0.1:80", "udp:0.0.0.0:53=ns.lan:53"]
        expose = "tcp:80=8080, udp:53=10.1.0.1:53"
        """
    )
    assert config.proxy == ProxyConfig(
        socks5=Place("127.0.0.1", 1080),
        http=Place("::1", 8118),
        credentials=FILE.parent / "users",
        forward=(
            Forward("tcp", Place("127.0.0.1", 8080), Place("10.0.0.1", 80)),
            Forward("udp", Place("0.0.0.0", 53), Place("ns.lan", 53)),
        ),
        expose=(
            Forward("tcp", Place("", 80), Place("127.0.0.1", 8080)),
            Forward("udp", Place("", 53), Place("10.1.0.1", 53)),
        ),
    )
    assert parse("").proxy == ProxyConfig()


def test_binding_has_seconds_a_policy_and_may_prohibit_nothing() -> None:
    text = "[binding]\nprohibit = []\navoid = []\npolicy = 'theirs'\nhold_down = 2\ndwell = 0.5\n"
    assert parse(text).binding == BindingConfig(policy="theirs", hold_down=2.0, dwell=0.5)
    assert parse("[binding]\ngrace = 60\n").binding.grace == 60.0


def test_the_types_are_those_of_the_policy() -> None:
    assert tuple(kind.value for kind in InterfaceType) == tomlform.INTERFACE_TYPES


def test_keys_from_files_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{PRIVATE}\n")
    (tmp_path / "psk").write_text(OTHER)
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "psk").chmod(0o644)
    config = tomlform.parse(
        '[interface]\nprivate_key_file = "key"\n'
        f'[[peer]]\npublic_key = "{PUBLIC}"\npreshared_key_file = "{tmp_path}/psk"\n',
        tmp_path / "wg0.toml",
    )
    assert config.interface.private_key == Secret(RAW)
    assert config.peers[0].preshared_key == Secret(bytes([0x22]) * 32)
    assert config.warnings == (
        f"{tmp_path}/wg0.toml:5: preshared_key_file: {tmp_path}/psk is open to every user; "
        "chmod 600 it",
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory; check the path"),
        (b"", "has 0 characters where a key has 44"),
        (b"\xff\n", "is not text; put one key in base64 into it"),
        (PRIVATE.encode() + b"x", "has 45 characters where a key has 44"),
        (f"{PRIVATE} {PRIVATE}".encode(), "has 89 characters where a key has 44"),
    ],
)
def test_bad_key_files(tmp_path: Path, content: bytes | None, problem: str) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        tomlform.parse('[interface]\nprivate_key_file = "key"', tmp_path / "wg0.toml")
    expected = f"{tmp_path}/wg0.toml:2: private_key_file: '{tmp_path}/key' {problem}"
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize("special", [os.mkfifo, os.mkdir])
def test_a_key_file_is_a_file(tmp_path: Path, special: Callable[[Path], None]) -> None:
    special(tmp_path / "key")
    with pytest.raises(ConfigError, match="key' is not a file; name a file that holds one key"):
        tomlform.parse('[interface]\nprivate_key_file = "key"', tmp_path / "wg0.toml")


INTERFACE_WORDS = (
    "use one of private_key, listen_port, fwmark, addresses, dns, mtu, table, pre_up, post_up, "
    "pre_down, post_down, private_key_file"
)
ERRORS = [
    (
        "[interface]\n\nmtu = 1x",
        "3: Expected newline or end of document after a statement; correct the TOML there",
    ),
    ("[interface]\nprivat_key = 1", "2: 'privat_key' is not a known key; write private_key"),
    ("[interface]\nxyzzy = 1", f"2: this is not a known key; {INTERFACE_WORDS}"),
    ("[interface]\nsave_config = true", f"2: this is not a known key; {INTERFACE_WORDS}"),
    ("[intreface]\nmtu = 1", "1: 'intreface' is not a known key; write interface"),
    ("interface = 5", "1: interface: is not a table; write [interface] above its keys"),
    ("[peer]\npublic_key = 1", "1: peer: is not a list of tables; write [[peer]] above each peer"),
    ("peer = [1]", "1: peer: is not a list of tables; write [[peer]] above each peer"),
    ("[[peer]]", "1: no public_key in this peer; add its public_key, or remove the section"),
    (
        f'[[peer]]\npublic_key = "{PUBLIC}"\n[[peer]]\n# two\nendpoint = "a"',
        "5: endpoint: 'a' names no port; write HOST:PORT or [IPV6]:PORT",
    ),
    (
        "[interface]\nmtu = true",
        "2: mtu: has a value of the wrong kind; write a string or a number",
    ),
    (
        "[interface]\nmtu = 1400.0",
        "2: mtu: has a value of the wrong kind; write a string or a number",
    ),
    (
        "[interface]\nmtu = [1400]",
        "2: mtu: has a value of the wrong kind; write a string or a number",
    ),
    (
        '[interface]\naddresses = ["::1",\n  [1]]',
        "2: addresses: has a value of the wrong kind; write strings, or a list of them",
    ),
    (
        "[interface]\nmtu = 67",
        "2: mtu: '67' is not an MTU in bytes; write a number from 68 to 65535",
    ),
    ('[interface]\nlisten_port = ""', "2: listen_port: has no value; write one, "),
    ('[interface]\npost_up = "a\\u0000"', "2: post_up: holds a zero byte; remove it"),
    (
        '[interface]\naddress = "::1"\naddresses = "::2"',
        "2: address: addresses is there too; write one of the two",
    ),
    (
        f'[interface]\nprivate_key_file = "x"\nprivate_key = "{PRIVATE}"',
        "2: private_key_file: private_key is there too; write one of the two",
    ),
    (
        '[interface]\ntable = "off"\n[routing]\ntable = 7',
        "4: table: is in [interface] too; write it in one of the two",
    ),
    ("[routing]\nconfirm = 30", "2: confirm: has no meaning without include_all_networks, which"),
    (
        "[routing]\ninclude_all_network = true",
        "2: 'include_all_network' is not a known key; write include_all_networks",
    ),
    (
        "[routing]\ninclude_all_networks = 1",
        "2: include_all_networks: '1' cannot be taken; write true or false",
    ),
    (
        "[routing]\ninclude_all_networks = true\nenforce_routes = true",
        "3: enforce_routes: has no meaning with include_all_networks, which enforces every route",
    ),
    (
        "[routing]\nexclude_local_networks = true",
        "2: exclude_local_networks: has no meaning alone",
    ),
    (
        "[routing]\ninclude_all_networks = true\ntable = 7",
        "2: include_all_networks: cannot hold with table = 7; set table to auto, or leave it out",
    ),
    (
        '[interface]\ntable = "off"\n[routing]\nenforce_routes = true',
        "4: enforce_routes: cannot hold with table = off",
    ),
    (
        '[routing]\nexcluded_routes = "::/0"',
        "2: excluded_routes: ::/0 excludes everything; exclude smaller networks",
    ),
    (
        '[routing]\nincluded_routes = "10.0.0.0/8"\nexcluded_routes = "10.0.0.0/8"',
        "3: excluded_routes: 10.0.0.0/8 is included too; leave one of the two out",
    ),
    ("[routing]\nincluded_routes = []", "2: included_routes: is empty; name networks, or leave"),
    (
        '[routing]\nincluded_routes = ["10.0.0.0/33"]',
        "2: included_routes: '10.0.0.0/33' is not a network; write ADDRESS/PREFIX",
    ),
    ("[binding]\ndwell = true", "2: dwell: 'True' cannot be taken; write seconds, 0 to 86400"),
    ("[binding]\ngrace = -1", "2: grace: '-1' cannot be taken; write seconds, 0 to 86400"),
    ('[dns]\nmatch_domains = ["a"]', "2: match_domains: has no servers to go with; give serv"),
    ('[dns]\nservers = "1.1.1.1"\nmatch_domains = [3]', "3: match_domains: has a value of the wro"),
    ('[dns]\nservers = "1.1.1.1"\nmatch_domains = ["a b"]', "3: match_domains: 'a b' is not a dom"),
    (
        '[dns]\nmethod = "nscd"',
        "2: method: is no way to set resolvers; write one of auto, resolved",
    ),
    ('[dns]\nservers = "lan"', "2: servers: 'lan' is not an address; write an IPv4 or IPv6 "),
    (
        "[binding]\nbind = []",
        "2: bind: is empty or has an empty item; "
        "name types, attributes or interfaces, or leave it out",
    ),
    ('[binding]\nbind = "wifi,,wired"', "2: bind: is empty or has an empty item"),
    (
        '[interfaces.wlan0]\ntype = "wlan"',
        "2: type: 'wlan' cannot be taken; write one of cellular, wifi, wired, "
        "bluetooth, loopback, tunnel, other",
    ),
    (
        "[interfaces.wlan0]\nexpensive = 1",
        "2: expensive: '1' cannot be taken; write true or false",
    ),
    ('[interfaces."a b"]', "1: 'a b': 'a b' is not an interface name; write 1 to 15 "),
    ("[proxy]\nsocks = 1", "2: 'socks' is not a known key; write socks5"),
    ("[proxy]\nproxy = 1", "2: this is not a known key; use one of socks5, http, credentials, fo"),
    ("[proxy]\nsocks5 = '1080'", "2: socks5: '1080' is not ADDR:PORT; write it as in 127.0.0.1:"),
    ("[proxy]\nhttp = '[::1]:0'", "2: http: '[::1]:0': the port is not a number from 1 to 65535"),
    ("[proxy]\ncredentials = 3", "2: credentials: is not the name of a file; write its path in"),
    ("[proxy]\nforward = ['tcp:1']", "2: forward: 'tcp:1' is not PROTO:LISTEN=DEST; write it as"),
    ("[proxy]\nexpose = [80]", "2: expose: '80' is not PROTO:PORT=LOCAL; write it as in tcp:80"),
    ("[interfaces]\nwlan0 = 1", "2: wlan0: is not a table; write [interfaces.wlan0] "),
]


@pytest.mark.parametrize(("text", "message"), ERRORS)
def test_errors_name_line_key_and_mend(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value).startswith(f"{FILE}:{message}")


def test_lines_are_found_behind_multi_line_values() -> None:
    lines = Lines(
        '''top = 1
[interface]
post_up = """
[peer]
mtu = 1
"""
"mtu" = 1400
addresses = [
  "10.0.0.1", # a = b
]
routes.table = 5
[[peer]]
a = {b = 1}
[[peer]]
'a' = 2
'''
    )
    found = {
        ("top",): 1,
        ("interface", "post_up"): 3,
        ("interface", "mtu"): 7,
        ("interface", "addresses"): 8,
        ("interface", "routes", "table"): 11,
        ("peer", 0, "a", "b"): 13,
        ("peer", 1, "a"): 15,
        ("peer", 1, "missing"): 14,
        ("missing",): None,
    }
    assert {path: lines.find(path) for path in found} == found
