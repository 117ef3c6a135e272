"""What a WireGuard device is told (changes) and what it tells (snapshots), as frozen values.

The UAPI socket, a configuration file and `tunnelctl set` all end in a `DeviceChange`, which
`Device.configure` takes whole; `Device.snapshot` answers with a `DeviceSnapshot`, which the UAPI
socket and the status render. Neither side knows the other's text.

Secrets: a change owns its keys, so that whoever made it wipes them once the change has been
applied (`DeviceChange.wipe`); the device keeps copies. A snapshot shows the device's own live
keys: it is rendered at once, never kept, and never wiped.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunnel.secret import Secret
from tunnel.settings import Address, Network


@dataclass(frozen=True, slots=True)
class PeerChange:
    """A change to one peer, which is made first where it is new (not with `update_only`).

    None leaves a value alone. An all-zero `preshared_key` clears it; `persistent_keepalive` is in
    seconds, 0 for off. In `allowed_ips` True adds a network (taking it from any other peer) and
    False removes it, in order, after `replace_allowed_ips` has emptied the list. The endpoint of
    a link-local IPv6 address carries its scope in the address, as its interface's number.
    """

    public_key: bytes
    remove: bool = False
    update_only: bool = False
    preshared_key: Secret | None = None
    endpoint: tuple[Address, int] | None = None
    persistent_keepalive: int | None = None
    replace_allowed_ips: bool = False
    allowed_ips: tuple[tuple[bool, Network], ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """A change to the device and its peers. An all-zero `private_key` clears it.

    `listen_port` 0 asks for any free port, `fwmark` 0 for no mark. `replace_peers` empties the
    list of peers before `peers` are applied in order.
    """

    private_key: Secret | None = None
    listen_port: int | None = None
    fwmark: int | None = None
    replace_peers: bool = False
    peers: tuple[PeerChange, ...] = ()

    def wipe(self) -> None:
        """Zero the keys that this change carries."""
        for secret in (self.private_key, *(peer.preshared_key for peer in self.peers)):
            if secret is not None:
                secret.wipe()


@dataclass(frozen=True, slots=True)
class PeerSnapshot:
    """One peer as it is now. `last_handshake` is wall time in ns since 1970, 0 for never."""

    public_key: bytes
    preshared_key: Secret | None = None
    endpoint: tuple[Address, int] | None = None
    persistent_keepalive: int = 0
    allowed_ips: tuple[Network, ...] = ()
    last_handshake: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DeviceSnapshot:
    """The device as it is now, peers in the order in which they were added."""

    private_key: Secret | None = None
    listen_port: int = 0
    fwmark: int = 0
    peers: tuple[PeerSnapshot, ...] = ()
