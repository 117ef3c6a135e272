"""The two ends of the tunnel: keys, wg-quick configuration files, and tunneld itself."""

from __future__ import annotations

import base64
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.demolib import lab as network
from tools.demolib.service import Service
from tools.netlab import Namespace

#: The tunnel's own addresses.
CLIENT_ADDRESSES: Final = ("10.9.0.2/32", "fd09::2/128")
GATEWAY_ADDRESSES: Final = ("10.9.0.1/24", "fd09::1/64")

#: Where this virtual environment has its programs.
BIN: Final = Path(sys.executable).parent


@dataclass(frozen=True, slots=True, repr=False)
class KeyPair:
    """A WireGuard key pair in base64, as configuration files have it."""

    private: str
    public: str

    @classmethod
    def generate(cls) -> KeyPair:
        """Make a new pair."""
        # Imported here, so that --help and --remove do without the virtual environment.
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        private = X25519PrivateKey.generate()
        public = private.public_key().public_bytes_raw()
        return cls(_base64(private.private_bytes_raw()), _base64(public))


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def configurations() -> tuple[str, str]:
    """Return the client's and the gateway's configuration, with keys made for them."""
    client, gateway, preshared = KeyPair.generate(), KeyPair.generate(), _base64(os.urandom(32))
    return (
        f"""\
[Interface]
PrivateKey = {client.private}
Address = {", ".join(CLIENT_ADDRESSES)}

[Peer]
PublicKey = {gateway.public}
PresharedKey = {preshared}
Endpoint = {network.GATEWAY}:{network.TUNNEL_PORT}
AllowedIPs = 0.0.0.0/0, ::/0
""",
        f"""\
[Interface]
PrivateKey = {gateway.private}
Address = {", ".join(GATEWAY_ADDRESSES)}
ListenPort = {network.TUNNEL_PORT}

[Peer]
PublicKey = {client.public}
PresharedKey = {preshared}
AllowedIPs = {", ".join(CLIENT_ADDRESSES)}
""",
    )


@dataclass(frozen=True, slots=True)
class Tunnels:
    """Starts tunneld in either role. Interfaces are named after the lab: `<tag>c`, `<tag>g`.

    `folder` is a folder that only root can read; the configuration files are written there.
    """

    folder: Path
    tag: str
    outlive: bool

    @property
    def client_interface(self) -> str:
        """The client's tunnel interface."""
        return f"{self.tag}c"

    @property
    def gateway_interface(self) -> str:
        """The gateway's tunnel interface."""
        return f"{self.tag}g"

    def write(self) -> None:
        """Make keys and write both configuration files."""
        names = (self.client_interface, self.gateway_interface)
        for name, text in zip(names, configurations(), strict=True):
            self._config(name).write_text(text)
            self._config(name).chmod(0o600)

    def start_gateway(self, namespace: Namespace) -> Service:
        """Start the server's side."""
        return self._start("tunneld in the gateway", namespace, self.gateway_interface)

    def start_client(self, namespace: Namespace, *options: str) -> Service:
        """Start the client's side with options such as --bind cellular."""
        title = " ".join(("tunneld in the client", *options))
        return self._start(title, namespace, self.client_interface, *options)

    def _start(self, title: str, namespace: Namespace, name: str, *options: str) -> Service:
        command = [str(BIN / "tunneld"), "--config", str(self._config(name)), *options]
        log = self.folder / f"{name}{len(options)}.log"
        return Service(title, namespace, command, log, outlive=self.outlive)

    def _config(self, name: str) -> Path:
        return self.folder / f"{name}.conf"


def tunnelctl(namespace: Namespace, *arguments: str) -> str:
    """Run tunnelctl in a namespace and return what it printed."""
    return namespace.run([str(BIN / "tunnelctl"), *arguments]).stdout
