"""SaveConfig: the state of a tunnel as wg-quick's text, and its safe way into the file.

`render` is pure and the inverse of `wgquick.parse`. The provider says how the configuration looks
now (`wg set` may have changed it); what wg-quick takes from the file, hooks among it, stays.
Comments are lost, as they are with wg-quick.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from tunnel.config import Config, InterfaceConfig, PeerConfig
from tunnel.errors import TunnelError
from tunnel.settings import Table


def render(config: Config) -> str:
    """Return the configuration in wg-quick's format, private key and all."""
    sections = [_interface(config.interface), *map(_peer, config.peers)]
    return "\n".join("".join(f"{line}\n" for line in section) for section in sections)


def write(text: str, path: Path) -> None:
    """Replace the file in one step, keeping its mode and owner; a new one gets 0600.

    A symbolic link stays, what it points to is replaced. Raises TunnelError.
    """
    target = path.resolve()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                _keep_mode(target, descriptor)
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise TunnelError(
            f"{path}: cannot be saved: {error.strerror}; the file is as it was"
        ) from error


def _keep_mode(target: Path, descriptor: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        status = target.stat()
        os.fchown(descriptor, status.st_uid, status.st_gid)
        os.fchmod(descriptor, status.st_mode & 0o7777)


def _interface(interface: InterfaceConfig) -> Iterable[str]:
    yield "[Interface]"
    for address in interface.addresses:
        yield f"Address = {address}"
    for item in (*interface.dns.servers, *interface.dns.search):
        yield f"DNS = {item}"
    if interface.mtu is not None:
        yield f"MTU = {interface.mtu}"
    if interface.table is not Table.AUTO:
        word = interface.table.value if isinstance(interface.table, Table) else interface.table
        yield f"Table = {word}"
    if interface.save_config:
        yield "SaveConfig = true"
    for key, commands in (
        ("PreUp", interface.pre_up),
        ("PostUp", interface.post_up),
        ("PreDown", interface.pre_down),
        ("PostDown", interface.post_down),
    ):
        for command in commands:
            yield f"{key} = {command}"
    if interface.listen_port:
        yield f"ListenPort = {interface.listen_port}"
    if interface.fwmark:
        yield f"FwMark = {interface.fwmark:#x}"
    if interface.private_key is not None:
        yield f"PrivateKey = {interface.private_key.base64()}"


def _peer(peer: PeerConfig) -> Iterable[str]:
    yield "[Peer]"
    yield f"PublicKey = {base64.b64encode(peer.public_key).decode('ascii')}"
    if peer.preshared_key is not None:
        yield f"PresharedKey = {peer.preshared_key.base64()}"
    if peer.allowed_ips:
        yield f"AllowedIPs = {', '.join(map(str, peer.allowed_ips))}"
    if peer.endpoint is not None:
        yield f"Endpoint = {peer.endpoint}"
    if peer.persistent_keepalive:
        yield f"PersistentKeepalive = {peer.persistent_keepalive}"
