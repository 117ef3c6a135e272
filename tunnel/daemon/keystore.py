"""Keys of tunnels that have no configuration: one file each under /var/lib/tunneld.

    tunneld wg0          makes wg0.key the first time, and uses it from then on

A key is written whole under a private name and then linked to its own, which fails where one is
already: two daemons that start together end up with the same key, and none is ever overwritten.
Symbolic links are not followed.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from tunnel.errors import ConfigError, PrivilegeError, Where
from tunnel.secret import KEY_BYTES, Secret
from tunnel.values import BadValue, secret_key

DIRECTORY: Final = Path("/var/lib/tunneld")
_FILE_BYTES: Final = 256


def new_key() -> Secret:
    """Make a private key, clamped as Curve25519 wants it (RFC 7748, section 5)."""
    key = Secret(secrets.token_bytes(KEY_BYTES))
    data = key.reveal()
    data[0] &= 248
    data[31] = data[31] & 127 | 64
    return key


def public_half(key: Secret) -> str:
    """Return the public key in base64."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    private = X25519PrivateKey.from_private_bytes(key.reveal())
    return base64.b64encode(private.public_key().public_bytes_raw()).decode("ascii")


def kept_key(name: str, directory: Path = DIRECTORY) -> Secret:
    """Return the interface's key, made and kept now if there is none.

    Raises ConfigError for a file that is no key or is open to others, PrivilegeError.
    """
    path = directory / f"{name}.key"
    try:
        _make_directory(directory)
        with contextlib.suppress(FileNotFoundError):
            return _read(path)
        _write(path, new_key())
        return _read(path)
    except PermissionError as error:
        raise PrivilegeError(
            f"{path}: {error.strerror}; run as root, or use --ephemeral-key"
        ) from error
    except OSError as error:
        raise _wrong(path, f"cannot be used: {error.strerror}", "use --ephemeral-key") from error


def _wrong(path: Path, problem: str, mend: str) -> ConfigError:
    return ConfigError(problem, where=Where(path), key=None, mend=mend)


def _make_directory(directory: Path) -> None:
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700, parents=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise _wrong(directory, "is not a directory of this user", "remove it")
    if found.st_mode & 0o077:
        directory.chmod(0o700)


def _read(path: Path) -> Secret:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(path, flags), "rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise _wrong(path, "is not a file of this user", "remove it")
        if found.st_mode & 0o077:
            raise _wrong(path, "may be read by others", "make a new key, or chmod 600 it")
        text = (file.read(_FILE_BYTES) or b"").decode("ascii", "replace").strip()
    try:
        return secret_key(text)
    except BadValue as error:
        raise _wrong(path, error.problem, "restore the file or remove it") from None


def _write(path: Path, key: Secret) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600), "w", encoding="ascii") as file:
            file.write(key.base64() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        key.wipe()
        temporary.unlink(missing_ok=True)
