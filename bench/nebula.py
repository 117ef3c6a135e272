"""What nebula needs instead of `wg set`: certificates and a configuration for each of two hosts.

Its cipher is the default one, AES-GCM, which is its fastest where the processor has it.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.implementations import PEERS

PORT = 4242

_CONFIG = """\
pki: {{ca: {folder}/ca.crt, cert: {folder}/{number}.crt, key: {folder}/{number}.key}}
static_host_map: {{"10.77.0.{far}": ["10.99.0.{far}:{port}"]}}
lighthouse: {{am_lighthouse: false, hosts: []}}
listen: {{host: 0.0.0.0, port: {port}}}
tun: {{dev: {name}, mtu: {mtu}}}
logging: {{level: error}}
firewall:
  outbound: [{{port: any, proto: any, host: any}}]
  inbound: [{{port: any, proto: any, host: any}}]
"""


@contextlib.contextmanager
def configured(names: Sequence[str], mtu: int) -> Iterator[list[str]]:
    """Yield the paths of two configurations, for hosts whose interfaces have these names."""
    with tempfile.TemporaryDirectory() as folder:

        def certificate(*words: str) -> None:
            command = [str(PEERS / "nebula-cert"), *words]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)

        certificate("ca", "-name", "bench")
        paths = []
        for number, name in enumerate(names, start=1):
            files = ("-out-crt", f"{number}.crt", "-out-key", f"{number}.key")
            certificate("sign", "-name", f"h{number}", "-ip", f"10.77.0.{number}/24", *files)
            text = _CONFIG.format(
                folder=folder, number=number, far=3 - number, port=PORT, name=name, mtu=mtu
            )
            path = Path(folder) / f"{number}.yml"
            path.write_text(text)
            paths.append(str(path))
        yield paths
