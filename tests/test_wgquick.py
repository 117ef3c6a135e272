"""wg-quick's format: what is read, what is warned of, what is refused and with which words."""

from __future__ import annotations

import base64
import ipaddress
from pathlib import Path

import pytest

from tunnel import rttables, wgquick
from tunnel.config import Config, HostPort, InterfaceConfig, PeerConfig
from tunnel.errors import ConfigError, Where
from tunnel.secret import Secret
from tunnel.settings import DNSSettings, Table

FILE = Path("/etc/wireguard/wg0.conf")


def key(seed: int) -> Secret:
    secret = Secret(bytes([seed]) * 32)
    secret.clamp()
    return secret


PRIVATE, PRESHARED = key(0x48).base64(), key(0x51).base64()
PUBLIC_RAW, OTHER_RAW = bytes([0x21]) * 32, bytes([0x22]) * 32
PUBLIC, OTHER = (base64.b64encode(raw).decode() for raw in (PUBLIC_RAW, OTHER_RAW))


def parse(text: str) -> Config:
    return wgquick.parse(text, FILE)


def interface(*lines: str) -> InterfaceConfig:
    return parse("\n".join(["[Interface]", *lines])).interface


def peer(*lines: str) -> PeerConfig:
    (only,) = parse("\n".join(["[Peer]", f"PublicKey={PUBLIC}", *lines])).peers
    return only


def nets(*texts: str) -> tuple[object, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


def test_a_whole_file() -> None:
    config = parse(
        f"""
        # home
        [Interface]
        PrivateKey = {PRIVATE}
        ListenPort = 51820
        FwMark = 0xca6c
        Address = 10.0.0.2/24, fd00::2/64
        Address = 192.0.2.7
        DNS = 1.1.1.1, 2606:4700:4700::1111 corp.example, example.org
        MTU = 1380
        Table = 1234
        PreUp = echo up %i
        PostUp = ip rule add ipproto tcp dport 22 table main
        PostUp = echo second
        PreDown = echo pre
        PostDown = echo post
        SaveConfig = false

        [Peer]
        PublicKey = {PUBLIC}
        PresharedKey = {PRESHARED}
        Endpoint = vpn.example.org:51820
        AllowedIPs = 0.0.0.0/0, ::/0
        PersistentKeepalive = 25

        [Peer]
        PublicKey = {OTHER}
        Endpoint = [2001:db8::1]:1
        AllowedIPs = 10.1.0.0/16
        AllowedIPs = 10.2.0.1
        """
    )
    assert config.interface == InterfaceConfig(
        private_key=key(0x48),
        listen_port=51820,
        fwmark=0xCA6C,
        addresses=tuple(
            ipaddress.ip_interface(a) for a in ("10.0.0.2/24", "fd00::2/64", "192.0.2.7/32")
        ),
        dns=DNSSettings(
            servers=tuple(map(ipaddress.ip_address, ("1.1.1.1", "2606:4700:4700::1111"))),
            search=("corp.example", "example.org"),
        ),
        mtu=1380,
        table=1234,
        pre_up=("echo up %i",),
        post_up=("ip rule add ipproto tcp dport 22 table main", "echo second"),
        pre_down=("echo pre",),
        post_down=("echo post",),
    )
    assert config.peers == (
        PeerConfig(
            PUBLIC_RAW,
            key(0x51),
            HostPort("vpn.example.org", 51820),
            nets("0.0.0.0/0", "::/0"),  # type: ignore[arg-type]
            25,
        ),
        PeerConfig(
            OTHER_RAW,
            None,
            HostPort("2001:db8::1", 1),
            nets("10.1.0.0/16", "10.2.0.1/32"),  # type: ignore[arg-type]
        ),
    )
    assert config.source == FILE


# -- leniency ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"[INTERFACE]\nPRIVATEKEY={PRIVATE}\nlistenport=7",
        f"[interface]\r\nprivatekey = {PRIVATE}\r\nListenPort = 7\r\n",
        f"\ufeff[Interface]\nPrivateKey={PRIVATE}\nListenPort=7",
        f"  [ Inter face ] # c\n\tPrivate Key\t= {PRIVATE[:9]} {PRIVATE[9:]} # c\nListen Port=7#c",
        f"[Interface]\nListenPort=7\n\n[Interface]\nPrivateKey={PRIVATE}",
    ],
)
def test_case_space_and_comments_do_not_matter(text: str) -> None:
    found = parse(text).interface
    assert (found.private_key, found.listen_port) == (key(0x48), 7)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("FwMark = off", "fwmark", 0),
        ("FwMark = OFF", "fwmark", 0),
        ("FwMark = 0xFFFFFFFF", "fwmark", 2**32 - 1),
        ("FwMark = 51820", "fwmark", 51820),
        ("Table = auto", "table", Table.AUTO),
        ("Table = OFF", "table", Table.OFF),
        ("Table =", "table", Table.AUTO),
        ("Table = 0x10", "table", 16),
        ("Table = main", "table", 254),
        ("MTU =", "mtu", None),
        ("Address =", "addresses", ()),
        ("DNS =", "dns", DNSSettings()),
        ("PostUp =", "post_up", ()),
        ("PostUp = a=b; echo c=d", "post_up", ("a=b; echo c=d",)),
        ("PostUp = echo one # two", "post_up", ("echo one",)),
        ("SaveConfig = TRUE", "save_config", True),
        ("Address = 10.0.0.1 ,, fd00::1", "addresses", None),
    ],
)
def test_interface_values(line: str, name: str, value: object) -> None:
    found = getattr(interface(line), name)
    if value is None and name == "addresses":
        assert [str(item) for item in found] == ["10.0.0.1/32", "fd00::1/128"]
    else:
        assert found == value


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("PersistentKeepalive = off", "persistent_keepalive", 0),
        ("PersistentKeepalive = 0", "persistent_keepalive", 0),
        ("PersistentKeepalive = 65535", "persistent_keepalive", 65535),
        ("Endpoint = 192.0.2.1:65535", "endpoint", HostPort("192.0.2.1", 65535)),
        ("Endpoint = [fe80::1%wlan0]:9", "endpoint", HostPort("fe80::1%wlan0", 9)),
        ("Endpoint = [192.0.2.1]:9", "endpoint", HostPort("192.0.2.1", 9)),
        ("Endpoint = 2001:db8::1:9", "endpoint", HostPort("2001:db8::1", 9)),
        ("Endpoint = a_b-c.example.:9", "endpoint", HostPort("a_b-c.example.", 9)),
        ("AllowedIPs =", "allowed_ips", ()),
        ("AllowedIPs = 10.0.0.1 , ::1", "allowed_ips", nets("10.0.0.1/32", "::1/128")),
        (
            "AllowedIPs = +10.0.0.0/8, 10. 1.0.0/16",
            "allowed_ips",
            nets("10.0.0.0/8", "10.1.0.0/16"),
        ),
        ("AllowedIPs = 10.0.0.0/8, ::/0, -10.0.0.0/8", "allowed_ips", nets("::/0")),
        ("AllowedIPs = -10.0.0.0/8", "allowed_ips", ()),
        (f"PresharedKey = {'A' * 43}=", "preshared_key", None),
    ],
)
def test_peer_values(line: str, name: str, value: object) -> None:
    assert getattr(peer(line), name) == value


def test_names_of_tables_come_from_rt_tables() -> None:
    text = "# reserved\n255\tlocal\n0x20 vpn # mine\nnonsense\n7 a b\nx y\n"
    assert rttables.parse(text) == {"local": 255, "vpn": 32}
    assert rttables.lookup("local") == 255
    assert rttables.lookup("no such table") is None


# -- warnings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            "[Interface]\nDNS = lan",
            f"{FILE}:2: DNS: domains without a server are not used; "
            "name the server that knows them",
        ),
        (
            "[Interface]\nListenPort=1\nListenPort=2",
            f"{FILE}:3: ListenPort: is given twice (first on line 2); the last one counts",
        ),
        (
            "[Interface]\n[Interface]",
            f"{FILE}:2: [Interface] is there twice; the two are read as one",
        ),
        (
            f"[Interface]\nPrivateKey={'/' * 42}8=",
            f"{FILE}:2: PrivateKey: is not a clamped Curve25519 key; "
            "it is used, and shown by wg, clamped",
        ),
        (
            "[Interface]\nMTU=1279",
            f"{FILE}:2: MTU: below 1280 the kernel switches IPv6 off on the interface",
        ),
        (
            f"[Peer]\nPublicKey={PUBLIC}\nAllowedIPs=10.0.0.1/8",
            f"{FILE}:3: AllowedIPs: 10.0.0.1/8 has bits beyond its prefix; 10.0.0.0/8 is used",
        ),
        (
            f"[Peer]\nPublicKey={PUBLIC}\n[Peer]\nPublicKey={PUBLIC}",
            f"{FILE}:3: PublicKey: is that of the peer on line 1 too; "
            "the two are merged, what comes later wins",
        ),
        (
            f"[Peer]\nPublicKey={PUBLIC}\nAllowedIPs=::/0\n"
            f"[Peer]\nPublicKey={OTHER}\nAllowedIPs=::/0",
            f"{FILE}:6: AllowedIPs: ::/0 belongs to the peer on line 1 too; the later peer gets it",
        ),
    ],
)
def test_warnings(text: str, warning: str) -> None:
    assert parse(text).warnings == (warning,)


def test_the_last_of_a_repeated_key_counts() -> None:
    assert interface("ListenPort=1", "MTU=1400", "ListenPort=2", "MTU=").listen_port == 2
    assert interface("MTU=1400", "MTU=").mtu is None


def test_an_unclamped_private_key_is_clamped() -> None:
    found = interface(f"PrivateKey={'/' * 42}8=").private_key
    assert found is not None
    assert found.reveal() == b"\xf8" + b"\xff" * 30 + b"\x7f"


def test_peers_of_one_key_merge_as_wg_setconf_merges_them() -> None:
    first = (
        f"[Peer]\nPublicKey={PUBLIC}\nPresharedKey={PRESHARED}\nEndpoint=a:1\nAllowedIPs=10.0.0.0/8"
    )
    (plain,) = parse(f"{first}\n[Peer]\nPublicKey={PUBLIC}\nEndpoint=b:2\nAllowedIPs=::/0").peers
    assert plain == PeerConfig(PUBLIC_RAW, key(0x51), HostPort("b", 2), nets("::/0"))  # type: ignore[arg-type]
    (signed,) = parse(f"{first}\n[Peer]\nPublicKey={PUBLIC}\nAllowedIPs=+::/0").peers
    assert signed.allowed_ips == nets("10.0.0.0/8", "::/0")
    (gone,) = parse(f"{first}\n[Peer]\nPublicKey={PUBLIC}\nAllowedIPs=-10.0.0.0/8").peers
    assert gone.allowed_ips == ()


# -- errors ------------------------------------------------------------------------------------

KEY_MEND = "write 44 characters of base64, as `wg genkey` and `wg pubkey` print"
INTERFACE_LINES = [
    ("ListenPort = 65536", "ListenPort: '65536' is not a port; write a number from 0 to 65535"),
    ("ListenPort = -1", "ListenPort: '-1' is not a port; write a number from 0 to 65535"),
    ("ListenPort = ٣", "ListenPort: '٣' is not a port; write a number from 0 to 65535"),
    ("ListenPort =", "ListenPort: has no value; write one after '=', or remove the line"),
    ("ListenPort", "ListenPort: has no '='; write ListenPort = VALUE"),
    (
        "FwMark = 0x100000000",
        "FwMark: '0x100000000' is not a firewall mark; "
        "write off, a number, or 0x and 1 to 8 digits",
    ),
    ("MTU = 67", "MTU: '67' is not an MTU in bytes; write a number from 68 to 65535"),
    (
        "Table = no-such-table",
        "Table: 'no-such-table' is not a routing table; "
        "write auto, off, a number, or a name from /etc/iproute2/rt_tables",
    ),
    ("Table = 0", "Table: '0' is not a routing table; write a number from 1 to 4294967295"),
    ("SaveConfig = yes", "SaveConfig: 'yes' is neither true nor false; write true or false"),
    (
        "Address = 10.0.0.1/33",
        "Address: '10.0.0.1/33' is not a network; "
        "write ADDRESS/PREFIX with a prefix from 0 to 32, or an address alone",
    ),
    (
        "Address = fe80::1%eth0/64",
        "Address: 'fe80::1%eth0/64' is not a network; "
        "write ADDRESS/PREFIX with a prefix from 0 to 128, or an address alone",
    ),
    ("DNS = 1.1.1", "DNS: '1.1.1' is not an address; write an IPv4 or IPv6 address"),
    (
        "DNS = a..b",
        "DNS: 'a..b' is neither an address nor a domain; "
        "write addresses and domains with commas between",
    ),
    ("PrivateKey = short", f"PrivateKey: has 5 characters where a key has 44; {KEY_MEND}"),
    (f"PrivateKey = {'*' * 44}", f"PrivateKey: is not a key; {KEY_MEND}"),
    (f"PrivateKey = {PRIVATE[:42]}B=", f"PrivateKey: is not a key; {KEY_MEND}"),
    (f"PrivateKey = {PRIVATE[:42]}==", f"PrivateKey: is not a key; {KEY_MEND}"),
    (f"PrivateKey = {'é' * 44}", f"PrivateKey: is not a key; {KEY_MEND}"),
    (
        f"PrivateKey = {'A' * 43}=",
        "PrivateKey: is all zeros, which is no key; make one with `wg genkey`",
    ),
    ("Port = 1", "'Port': is not a key of this section; write ListenPort"),
    ("PrivatKey = x", "'PrivatKey': is not a key of this section; write PrivateKey"),
    ("PublicKey = x", "PublicKey: does not belong in [Interface]; move it to [Peer]"),
    (
        "Jc = 4",
        "this is not a key of [Interface]; "
        "use one of PrivateKey, ListenPort, FwMark, Address, DNS, MTU, Table, PreUp, PostUp, "
        "PreDown, PostDown, SaveConfig",
    ),
    ("[Intreface]", "'[Intreface]' is not a section; write [Interface] or [Peer]"),
    ("ListenPort = 1\0", "holds a zero byte; remove it"),
]
ENDPOINT_MEND = "write HOST:PORT or [IPV6]:PORT"
PEER_LINES = [
    (
        "AllowedIPs = 10.0.0.0/33",
        "AllowedIPs: '10.0.0.0/33' is not a network; "
        "write ADDRESS/PREFIX with a prefix from 0 to 32, or an address alone",
    ),
    (
        "AllowedIPs = ::/0, ::/129",
        "AllowedIPs: '::/129' is not a network; "
        "write ADDRESS/PREFIX with a prefix from 0 to 128, or an address alone",
    ),
    (
        "AllowedIPs = 10.0.0.0/8,",
        "AllowedIPs: '' is not a network; "
        "write ADDRESS/PREFIX with a prefix from 0 to 32, or an address alone",
    ),
    ("Endpoint = example.org", f"Endpoint: 'example.org' names no port; {ENDPOINT_MEND}"),
    ("Endpoint = example.org:", f"Endpoint: 'example.org:' names no port; {ENDPOINT_MEND}"),
    ("Endpoint = :51820", f"Endpoint: ':51820' names no host; {ENDPOINT_MEND}"),
    ("Endpoint = 1.2.3:51820", f"Endpoint: '1.2.3:51820' names no host; {ENDPOINT_MEND}"),
    ("Endpoint = a b:0", f"Endpoint: 'ab:0' has no port from 1 to 65535; {ENDPOINT_MEND}"),
    ("Endpoint = [::1:5", f"Endpoint: '[::1:5' has no matching bracket; {ENDPOINT_MEND}"),
    ("Endpoint = a:65536", f"Endpoint: 'a:65536' has no port from 1 to 65535; {ENDPOINT_MEND}"),
    (
        "PersistentKeepalive = 65536",
        "PersistentKeepalive: '65536' is not a keepalive interval; write off or 1 to 65535 seconds",
    ),
    ("AlowedIPs = ::/0", "'AlowedIPs': is not a key of this section; write AllowedIPs"),
    ("Address = ::1", "Address: does not belong in [Peer]; move it to [Interface]"),
]


@pytest.mark.parametrize(("line", "message"), INTERFACE_LINES)
def test_bad_interface_lines(line: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        interface("# one", line)
    assert str(caught.value) == f"{FILE}:3: {message}"
    assert caught.value.where == Where(FILE, 3)


@pytest.mark.parametrize(("line", "message"), PEER_LINES)
def test_bad_peer_lines(line: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        peer(line)
    assert str(caught.value) == f"{FILE}:3: {message}"


def test_lines_need_a_section_and_peers_a_key() -> None:
    with pytest.raises(ConfigError, match=r"conf:1: stands before any section"):
        parse("ListenPort = 1")
    with pytest.raises(ConfigError, match=r"conf:3: no PublicKey in this peer; add its PublicKey"):
        parse(f"[Peer]\nPublicKey={PUBLIC}\n[Peer]\nAllowedIPs=::/0")
