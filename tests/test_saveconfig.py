"""SaveConfig: what is rendered is read back as it was, and the file is replaced safely."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from providers.wireguard.change import DeviceSnapshot, PeerSnapshot
from providers.wireguard.saved import current_config, save
from tunnel import saveconfig, wgquick
from tunnel.config import Config, HostPort, InterfaceConfig, PeerConfig
from tunnel.errors import TunnelError
from tunnel.secret import Secret
from tunnel.settings import DNSSettings, Table

FILE = Path("/etc/wireguard/wg0.conf")

SECRETS = st.binary(min_size=32, max_size=32).filter(any).map(Secret)
NETWORKS = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
        lambda pair: ipaddress.IPv4Network(pair, strict=False)
    ),
    st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(
        lambda pair: ipaddress.IPv6Network(pair, strict=False)
    ),
)
ADDRESSES = NETWORKS.map(lambda n: ipaddress.ip_interface(f"{n[-1]}/{n.prefixlen}"))
HOOKS = st.lists(st.sampled_from(["echo %i", "a=b", "[ -e x ] && y"]), max_size=2).map(tuple)
HOSTS = st.one_of(st.ip_addresses().map(str), st.sampled_from(["vpn.example.org", "a-b_c"]))


def clamped(secret: Secret) -> Secret:
    secret.clamp()
    return secret


def peers_of(keys: list[bytes]) -> st.SearchStrategy[tuple[PeerConfig, ...]]:
    return st.tuples(
        *(
            st.builds(
                PeerConfig,
                public_key=st.just(public),
                preshared_key=st.none() | SECRETS,
                endpoint=st.none() | st.builds(HostPort, HOSTS, st.integers(1, 65535)),
                allowed_ips=st.lists(NETWORKS, unique=True, max_size=4).map(tuple),
                persistent_keepalive=st.integers(0, 65535),
            )
            for public in keys
        )
    )


CONFIGS = st.builds(
    Config,
    source=st.just(FILE),
    interface=st.builds(
        InterfaceConfig,
        private_key=st.none() | SECRETS.map(clamped),
        listen_port=st.integers(0, 65535),
        fwmark=st.integers(0, 2**32 - 1),
        addresses=st.lists(ADDRESSES, max_size=3).map(tuple),
        dns=st.builds(
            DNSSettings,
            servers=st.lists(st.ip_addresses(), max_size=2).map(tuple),
            search=st.sampled_from([(), ("lan", "corp.example")]),
        ),
        mtu=st.none() | st.integers(68, 65535),
        table=st.sampled_from([Table.AUTO, Table.OFF, 1, 2**32 - 1]),
        pre_up=HOOKS,
        post_up=HOOKS,
        pre_down=HOOKS,
        post_down=HOOKS,
        save_config=st.booleans(),
    ),
    peers=st.lists(st.binary(min_size=32, max_size=32), unique=True, max_size=3).flatmap(peers_of),
)


@given(CONFIGS)
def test_what_is_rendered_is_read_back_as_it_was(config: Config) -> None:
    assert replace(wgquick.parse(saveconfig.render(config), FILE), warnings=()) == config


def test_saving_keeps_mode_and_link_and_replaces_at_once(tmp_path: Path) -> None:
    target, link = tmp_path / "real.conf", tmp_path / "wg0.conf"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    inode = target.stat().st_ino
    saveconfig.write("new", link)
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o640
    assert target.stat().st_ino != inode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["real.conf", "wg0.conf"]


def test_a_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    saveconfig.write("new", tmp_path / "wg0.conf")
    assert (tmp_path / "wg0.conf").stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(TunnelError, match="cannot be saved: No such file or directory; the file"):
        saveconfig.write("new", tmp_path / "missing" / "wg0.conf")


def test_the_state_of_the_device_goes_into_the_file_and_the_rest_stays() -> None:
    before = Config(
        FILE,
        InterfaceConfig(listen_port=1, mtu=1400, post_up=("echo %i",), save_config=True),
        (PeerConfig(bytes([1]) * 32, endpoint=HostPort("vpn.example.org", 1)),),
    )
    snapshot = DeviceSnapshot(
        private_key=Secret(bytes([0x48]) * 32),
        listen_port=51820,
        fwmark=7,
        peers=(
            PeerSnapshot(
                bytes([2]) * 32,
                endpoint=(ipaddress.ip_address("2001:db8::1"), 9),
                persistent_keepalive=25,
                allowed_ips=(ipaddress.ip_network("10.0.0.0/8"),),
                rx_bytes=1,
            ),
        ),
    )
    after = current_config(before, snapshot)
    assert after.interface == replace(
        before.interface, private_key=Secret(bytes([0x48]) * 32), listen_port=51820, fwmark=7
    )
    assert after.peers == (
        PeerConfig(
            bytes([2]) * 32,
            endpoint=HostPort("2001:db8::1", 9),
            allowed_ips=(ipaddress.ip_network("10.0.0.0/8"),),
            persistent_keepalive=25,
        ),
    )


@pytest.mark.parametrize("asked", [True, False])
def test_only_what_asks_for_it_is_saved(tmp_path: Path, asked: bool) -> None:
    path = tmp_path / "wg0.conf"
    path.write_text("old")
    key = Secret(bytes([0x48]) * 31 + b"\x41")
    config = Config(path, InterfaceConfig(save_config=asked))
    assert save(config, DeviceSnapshot(private_key=key, listen_port=9)) is asked
    if asked:
        saved = wgquick.parse(path.read_text(), path)
        expected = InterfaceConfig(private_key=key, listen_port=9, save_config=True)
        assert saved == Config(path, expected)
    else:
        assert path.read_text() == "old"
    assert key, "the device's own key is not wiped"
