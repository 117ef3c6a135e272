"""The DNS servers of an interface, from whoever knows them."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path as FilePath

import pytest

from tunnel.policy.dns import dns_servers


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("run/systemd/resolve/netif/3", "LLMNR=yes\nSERVERS=10.2.0.53 10.2.0.54\n"),
        ("run/systemd/netif/links/3", "DNS=10.2.0.53 10.2.0.54\nDOMAINS=\n"),
        ("var/lib/NetworkManager/internal-0a-wwan0.lease", "DNS=10.2.0.53 10.2.0.54\n"),
        (
            "var/lib/dhcp/dhclient.leases",
            'lease {\n interface "wwan0";\n option domain-name-servers 9.9.9.9;\n}\n'
            'lease {\n interface "wwan0";\n option domain-name-servers 10.2.0.53,10.2.0.54;\n}\n'
            'lease {\n interface "wlan0";\n option domain-name-servers 10.1.0.53;\n}\n',
        ),
        ("run/resolvconf/interfaces/wwan0.dhcp", "nameserver 10.2.0.53\nnameserver 10.2.0.54\n"),
        ("etc/resolv.conf", "nameserver 127.0.0.53\nnameserver 10.2.0.53\nnameserver 10.2.0.54\n"),
    ],
)
def test_dns_servers_of_an_interface(tmp_path: FilePath, path: str, text: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text("nameserver 10.1.0.53\n")
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    expected = (ip_address("10.2.0.53"), ip_address("10.2.0.54"))
    assert dns_servers("wwan0", 3, root=tmp_path) == expected
    if path != "etc/resolv.conf":
        assert dns_servers("wlan9", 9, root=tmp_path) == (ip_address("10.1.0.53"),)
    assert dns_servers("wwan0", 3, override=[ip_address("::5")], root=tmp_path) == (
        ip_address("::5"),
    )


def test_a_link_local_server_belongs_to_its_interface(tmp_path: FilePath) -> None:
    (tmp_path / "run/systemd/netif/links").mkdir(parents=True)
    (tmp_path / "run/systemd/netif/links/3").write_text("DNS=fe80::1 nonsense fe80::1\n")
    assert dns_servers("wwan0", 3, root=tmp_path) == (ip_address("fe80::1%wwan0"),)
