"""load_config: files of either form, and what is wrong with a file as such."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tunnel.config import load_config, require_private_key
from tunnel.errors import ConfigError, reading_mend
from tunnel.secret import Secret

RAW = bytes([0x48]) * 31 + b"\x41"
PRIVATE = Secret(RAW).base64()


def test_the_file_in_the_readme(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    path = tmp_path / "wg0.toml"
    path.write_text("[interface]" + readme.partition("```toml\n[interface]")[2].partition("```")[0])
    (tmp_path / "client.key").touch(0o600)
    (tmp_path / "client.key").write_text(PRIVATE)
    config = load_config(path, need_key=True)
    assert config.binding.bind == ("cellular", "wired")
    assert config.routing.include_all_networks
    assert not config.warnings


def test_a_missing_private_key_is_for_the_caller_to_judge(tmp_path: Path) -> None:
    path = tmp_path / "wg0.conf"
    path.write_text("[Interface]\nListenPort = 1\n")
    assert load_config(path).interface.private_key is None
    with pytest.raises(ConfigError, match=r"wg0\.conf: PrivateKey: is missing; add it"):
        load_config(path, need_key=True)
    path.write_text(f"[Interface]\nPrivateKey={PRIVATE}")
    assert require_private_key(load_config(path, need_key=True)) == Secret(RAW)


@pytest.mark.parametrize(
    ("folder", "mode", "warned"),
    [(0o755, 0o644, True), (0o755, 0o600, False), (0o700, 0o644, False)],
)
def test_a_file_with_keys_that_all_may_read(
    tmp_path: Path, folder: int, mode: int, warned: bool
) -> None:
    path = tmp_path / "wg0.conf"
    path.write_text(f"[Interface]\nPrivateKey={PRIVATE}")
    path.chmod(mode)
    tmp_path.chmod(folder)
    expected = (f"{path}: holds keys and is open to every user; chmod 600 it",) if warned else ()
    assert load_config(path).warnings == expected


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.EACCES, "make it readable to this user, or run as its owner"),
        (errno.EISDIR, "name a file"),
        (errno.ENOENT, "check the path"),
    ],
)
def test_the_mend_of_a_file_that_cannot_be_read(number: int, mend: str) -> None:
    assert reading_mend(OSError(number, "")) == mend


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("wg0.txt", b"", "unknown kind of file '.txt'; name it .conf"),
        ("wg0.conf", None, "cannot be read: No such file or directory; check the path"),
        ("wg0.conf", b"[Interface]\n\xff", r"is not UTF-8 text \(byte 12\); save it as UTF-8"),
    ],
)
def test_files_that_cannot_be_read(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(tmp_path / name)
    assert caught.value.exit_code == 3
