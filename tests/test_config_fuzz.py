"""Whatever is written into a configuration: one line of error at most, and never a key in it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, strategies as st

from tunnel import tomlform, wgquick
from tunnel.config import Config
from tunnel.describe import describe
from tunnel.errors import ConfigError

PRIVATE = base64.b64encode(bytes([0x48]) * 31 + b"\x41").decode()
PUBLIC = base64.b64encode(bytes([0x21]) * 32).decode()


def outcome(parse: Callable[[str, Path], Config], text: str) -> str:
    """Return all that a person would see of a configuration: its description, or the error."""
    try:
        config = parse(text, Path("wg0"))
    except ConfigError as error:
        shown = str(error)
        assert len(shown.splitlines()) == 1
        return shown
    return "\n".join([*describe(config), repr(config)])


CONF_WORDS = st.sampled_from(
    [
        "[Interface]", "[Peer]", "[", "=", "#", "\n", "\n", "\n", "\r", "\0", "\ufeff", " ", ",",
        "PrivateKey", "ListenPort", "FwMark", "Address", "DNS", "MTU", "Table", "PostUp", "/",
        "SaveConfig", "PublicKey", "PresharedKey", "Endpoint", "AllowedIPs", "PersistentKeepalive",
        PRIVATE, PUBLIC, "10.0.0.1", "::", "%eth0", "off", "auto", "true", "0x", "9" * 30, "-", "+",
        "٣", "²", "[::1]:1", "1.2.3.4:5",
    ]
)  # fmt: skip
TOML_WORDS = st.sampled_from(
    [
        "[interface]\n", "[[peer]]\n", "[binding]\n", "[routing]\n", "[dns]\n", "[interfaces.w]\n",
        "private_key", "private_key_file", "listen_port", "addresses", "dns", "mtu", "table",
        "bind", "post_up", "public_key", "endpoint", "allowed_ips", "type", "expensive", "servers",
        "peer", " = ", " = ", " = ", "\n", "\n", '"', "'", '"""', "[", "]", "{", "}", ",", "true",
        "1", "1.5", "1979-05-27", f'"{PRIVATE}"', f'"{PUBLIC}"', '"10.0.0.1/8"', '"wifi"', "inf",
        "0x10", ".",
    ]
)  # fmt: skip


def texts(words: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(st.text(), st.lists(words | st.text(max_size=3), max_size=60).map("".join))


@given(texts(CONF_WORDS))
@example("[Peer]\nEndpoint=" + "a" * 100_000 + ":1")
@example("[Interface]\nAddress=1/" + "9" * 5000)
def test_any_conf_is_read_or_refused_in_one_line(text: str) -> None:
    assert outcome(wgquick.parse, text)


@given(texts(TOML_WORDS))
@example("a = " + "[" * 5000)
@example("a = " + "9" * 5000)
@example('[interfaces."a\\nb"]\ntype = "wifi"')
@example('[interface]\nprivate_key_file = "a\\nb"')
@example('[interface]\nprivate_key_file = "/dev/zero"')
def test_any_toml_is_read_or_refused_in_one_line(text: str) -> None:
    assert outcome(tomlform.parse, text)


CONF_PLACES = [
    "{}", "{} = 1", "[{}]", "[Interface]\n{}", "[Interface]\n{} = 1", "[Interface]\nMTU = x{}",
    *(f"[Interface]\n{name} = {{}}" for name in ("PrivateKey", "ListenPort", "FwMark", "Address",
      "DNS", "MTU", "Table", "SaveConfig", "PostUp", "PublicKey", "Nonsense", "PrivatKey")),
    *(f"[Peer]\n{name} = {{}}" for name in ("PresharedKey", "Endpoint", "AllowedIPs",
      "PersistentKeepalive", "PrivateKey")),
    "[Peer]\nPublicKey = x{}", "[Peer]\nEndpoint = {}:0", "[Peer]\nEndpoint = [{}",
    "[Peer]\nAllowedIPs = {}/33",
    "[Interface]\nPrivateKey = {}\nPrivateKey = {}\nDNS = 1.1.1.1\nPostUp = wg set {}",
]  # fmt: skip
TOML_PLACES = [
    "{}", '"{}" = 1', "[{}]", '"""{}', '["{}"]', '[interfaces."{}"]', "[interface]\n{}",
    *(f'[interface]\n{name} = "{{}}"' for name in ("private_key", "listen_port", "fwmark", "dns",
      "addresses", "mtu", "table", "post_up", "public_key", "nonsense", "privat_key")),
    '[interface]\nprivate_key = ["{}"]', '[interface]\n"{}" = "{}"', '[interface]\n"{}" = true',
    '[[peer]]\npreshared_key = "{}"', '[[peer]]\nendpoint = "{}"', '[[peer]]\nallowed_ips = "{}"',
    '[[peer]]\n"{}" = "{}"', '[dns]\nservers = "{}"', '[interfaces.wlan0]\ntype = "{}"',
    '[interfaces.wlan0]\ndns = "{}"', '[interfaces.wlan0]\n"{}" = 1', '[routing]\ntable = "{}"',
]  # fmt: skip
PLACES = [
    *((wgquick.parse, place) for place in CONF_PLACES),
    *((tomlform.parse, place) for place in TOML_PLACES),
]


@pytest.mark.parametrize(("parse", "place"), PLACES)
@given(raw=st.binary(min_size=32, max_size=32))
def test_a_key_in_any_place_is_never_shown(
    parse: Callable[[str, Path], Config], place: str, raw: bytes
) -> None:
    for secret in (base64.b64encode(raw).decode(), raw.hex()):
        shown = outcome(parse, place.replace("{}", secret))
        shown = shown.replace(f"post_up=('{secret}',)", "")  # repr shows hooks, as it should
        shown = shown.replace(f"post_up=('wg set {secret}',)", "")
        assert secret.rstrip("=") not in shown
