"""Which DNS servers belong to an interface, from whoever configured it.

There is no one place on Linux. Asked in this order, the first that knows any server wins: the
user's override; systemd-resolved and systemd-networkd (files by interface index); the lease files
of NetworkManager and dhclient; resolvconf's file an interface; and last /etc/resolv.conf, which
belongs to no interface in particular. Loopback servers (a local stub) are left out: a socket bound
to an interface cannot reach them, and a stub asks over whatever interface it likes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from tunnel.policy.dnsapply import text
from tunnel.policy.dnsapply.guardedfile import GuardedFile
from tunnel.settings import Address

_ROOT = Path("/")
_SERVERS = re.compile(r"^(?:SERVERS|DNS|dns)=(.*)$", re.MULTILINE)
_DOMAINS = re.compile(r"^DOMAINS=(.*)$", re.MULTILINE)
_SEARCH = re.compile(r"^\s*(?:search|domain)\s+(.*)$", re.MULTILINE)
_LEASE = re.compile(r"^lease\s*\{(.*?)^\}", re.MULTILINE | re.DOTALL)
_LEASE_INTERFACE = re.compile(r'interface\s+"([^"]+)"')
_LEASE_SERVERS = re.compile(r"option\s+(?:domain-name-servers|dhcp6\.name-servers)\s+([^;]+);")


def dns_servers(
    name: str, index: int, *, override: Sequence[Address] = (), root: Path = _ROOT
) -> tuple[Address, ...]:
    """Return the servers of an interface, in their order; empty when none is known.

    `root` is where the file system starts, for tests. Unreadable files count as absent.
    """
    if override:
        return tuple(override)
    sources: tuple[Callable[[], Iterable[str]], ...] = (
        lambda: _listed(root / "run/systemd/resolve/netif" / str(index)),
        lambda: _listed(root / "run/systemd/netif/links" / str(index)),
        lambda: _network_manager(root, name),
        lambda: _dhclient(root, name),
        lambda: _resolvconf(root, name),
        lambda: _machines_own(root),
    )
    for source in sources:
        if servers := _addresses(source(), name):
            return servers
    return ()


def search_domains(name: str, index: int, *, root: Path = _ROOT) -> tuple[str, ...]:
    """Return the search domains of an interface, in their order; empty when none is known."""
    places = (
        (_DOMAINS, root / "run/systemd/resolve/netif" / str(index)),
        (_DOMAINS, root / "run/systemd/netif/links" / str(index)),
        (_SEARCH, root / "etc/resolv.conf"),
    )
    for pattern, path in places:
        if found := [word for line in pattern.findall(text.read(path)) for word in line.split()]:
            return tuple(dict.fromkeys(word.rstrip(".").lower() for word in found))
    return ()


def _files(folder: Path, pattern: str) -> list[Path]:
    """Return the matching files, newest first."""
    try:
        return sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:
        return []


def _listed(path: Path) -> list[str]:
    return [word for line in _SERVERS.findall(text.read(path)) for word in line.split()]


def _network_manager(root: Path, name: str) -> list[str]:
    """Read NetworkManager's internal DHCP client's leases: DNS=... in internal-UUID-IF.lease."""
    for path in _files(root / "var/lib/NetworkManager", f"internal-*-{name}.lease"):
        if found := _listed(path):
            return found
    return []


def _dhclient(root: Path, name: str) -> list[str]:
    """Read dhclient's lease files: the last lease of the interface is the one in force."""
    folders = (root / "var/lib/dhcp", root / "var/lib/dhclient", root / "var/lib/NetworkManager")
    for folder in folders:
        for path in _files(folder, "dhclient*.lease*"):
            for lease in reversed(_LEASE.findall(text.read(path))):
                owner = _LEASE_INTERFACE.search(lease)
                servers = _LEASE_SERVERS.search(lease)
                if owner and servers and owner[1] == name:
                    return servers[1].replace(",", " ").split()
    return []


def _resolvconf(root: Path, name: str) -> list[str]:
    """Read resolvconf's and openresolv's copy of what each client told them."""
    found: list[str] = []
    for folder in ("run/resolvconf/interface", "run/resolvconf/interfaces", "run/resolvconf/keys"):
        for path in _files(root / folder, f"{name}*"):
            if path.name == name or path.name.startswith(f"{name}."):
                found += text.nameservers(text.read(path))
    return found


def _machines_own(root: Path) -> tuple[str, ...]:
    """Read /etc/resolv.conf; while a tunnel's text is in it, the original that is kept."""
    file = GuardedFile(root / "etc/resolv.conf", state=root / "var/lib/tunneld")
    return text.nameservers(file.original())


def _addresses(words: Iterable[str], name: str) -> tuple[Address, ...]:
    """Return the valid addresses; a link-local one gets the interface as its scope."""
    found: list[Address] = []
    for word in words:
        # systemd writes ADDRESS:PORT%IFNAME#NAME in full; only the plain part is asked on port 53.
        plain = word.split("#")[0].strip("[],")
        try:
            address = ip_address(plain)
        except ValueError:
            continue
        if address.is_loopback or address.is_unspecified:
            continue
        if isinstance(address, IPv6Address) and address.is_link_local:
            address = IPv6Address(f"{str(address).split('%')[0]}%{name}")
        if address not in found:
            found.append(address)
    return tuple(found)
