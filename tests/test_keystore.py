"""The keys that tunneld keeps for tunnels without a configuration."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunnel.daemon import keystore
from tunnel.errors import ConfigError, PrivilegeError

KEY = base64.b64encode(bytes(range(32))).decode()


def test_a_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    former = os.umask(0)
    try:
        directory = tmp_path / "state" / "tunneld"
        first = keystore.kept_key("wg0", directory)
    finally:
        os.umask(former)
    assert first == keystore.kept_key("wg0", directory)
    assert first != keystore.kept_key("wg1", directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "wg0.key").stat().st_mode) == 0o600
    assert sorted(p.name for p in directory.iterdir()) == ["wg0.key", "wg1.key"]
    data = first.reveal()
    assert (data[0] & 7, data[31] & 0xC0) == (0, 0x40)  # RFC 7748, section 5


def test_the_public_half_is_wgs(tmp_path: Path) -> None:
    key = keystore.new_key()
    try:
        done = subprocess.run(
            ["wg", "pubkey"], input=key.base64(), capture_output=True, text=True, check=True
        )
    except FileNotFoundError:
        pytest.skip("wg is not installed: apt install wireguard-tools")
    assert keystore.public_half(key) == done.stdout.strip()


def _link(path: Path) -> None:
    path.with_name("other").write_text(KEY)
    path.symlink_to(path.with_name("other"))


@pytest.mark.parametrize(
    ("put", "words"),
    [
        (lambda path: (path.write_text("no key"), path.chmod(0o600)), "restore the file"),
        (lambda path: (path.write_text(KEY), path.chmod(0o644)), "may be read by others"),
        (lambda path: path.mkdir(), "cannot be used: Is a directory"),
        (_link, "cannot be used"),
        (lambda path: os.mkfifo(path, 0o600), "is not a file"),
    ],
    ids=["garbage", "open to others", "a directory", "a symbolic link", "a pipe"],
)
def test_a_key_file_that_cannot_be_trusted_is_refused(
    tmp_path: Path, put: Callable[[Path], Any], words: str
) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "wg0.key"
    put(path)
    with pytest.raises(ConfigError, match=words) as caught:
        keystore.kept_key("wg0", tmp_path)
    assert str(path) in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_directory_that_cannot_be_written_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(keystore, "_make_directory", refuse)
    with pytest.raises(PrivilegeError, match="or use --ephemeral-key"):
        keystore.kept_key("wg0", tmp_path)
