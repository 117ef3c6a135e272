"""How the kill switch is asked for: command line, file, tunnelctl; the key as a credential."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tunnel.daemon import cli
from tunnel.daemon.options import parse
from tunnel.daemon.plan import read_config
from tunnel.errors import ConfigError, UsageError
from tunnel.policy.killswitch.state import refuse_mark_zero
from tunnel.settings import Inbound

KEY = base64.b64encode(bytes(range(32))).decode()


def write(folder: Path, rest: str = "", key: str = f'private_key = "{KEY}"') -> Path:
    file = folder / "wg0.toml"
    file.touch(0o600)
    file.write_text(f"[interface]\n{key}\n{rest}")
    return file


def routing(*words: str) -> object:
    options = parse(words)
    assert options is not None
    return read_config(options, need_key=True).routing


def test_command_line_and_file_say_the_same(tmp_path: Path) -> None:
    plain = write(tmp_path)
    said = routing(
        "--config", str(plain), "--include-all-networks", "--exclude-local-networks",
        "--allow-inbound", "tcp/22@eth0", "--allow-inbound", "udp/5@eth1", "--confirm", "30",
        "--lockdown-on-exit",
    )  # fmt: skip
    written = write(
        tmp_path,
        "[routing]\ninclude_all_networks = true\nexclude_local_networks = true\n"
        'allow_inbound = ["tcp/22@eth0", "udp/5@eth1"]\nconfirm = 30\nlockdown_on_exit = true\n',
    )
    assert routing("--config", str(written)) == said
    assert said.allow_inbound == (Inbound("tcp", 22, "eth0"), Inbound("udp", 5, "eth1"))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--allow-inbound", "22"], "--allow-inbound: '22' is not PROTO/PORT@IF"),
        (["--allow-inbound", "sctp/22@eth0"], "--allow-inbound: 'sctp/22@eth0'"),
        (["--allow-inbound", "tcp/0@eth0"], "--allow-inbound: '0' is not a port"),
        (["--allow-inbound", "tcp/22@a/b"], "is not an interface name"),
        (["--confirm", "0"], "--confirm: '0' is not seconds"),
        (["--confirm", "soon"], "--confirm: 'soon'"),
        (["--include-all-networks"], "--include-all-networks needs --config"),
        (["--lockdown-on-exit", "--config", "FILE"], "--lockdown-on-exit: has no meaning without"),
        (["--confirm", "9", "--config", "FILE"], "--confirm: has no meaning without"),
        (["--exclude-local-networks", "--config", "FILE"], "--exclude-local-networks: has no"),
    ],
)
def test_wrong_words_are_refused(tmp_path: Path, words: list[str], problem: str) -> None:
    file = str(write(tmp_path))
    with pytest.raises(UsageError) as refused:
        routing(*(file if word == "FILE" else word for word in words))
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('allow_inbound = "tcp/22"', "3: allow_inbound: 'tcp/22' is not PROTO/PORT@IF"),
        ("include_all_networks = true\nconfirm = -1", "4: confirm: '-1' cannot be taken"),
        ("lockdown_on_exit = 1", "3: lockdown_on_exit: '1' cannot be taken; write true or false"),
    ],
)
def test_wrong_keys_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    file = write(tmp_path, f"[routing]\n{text}\n")
    with pytest.raises(ConfigError) as refused:
        routing("--config", str(file))
    assert problem.partition(": ")[2] in str(refused.value)


@pytest.mark.parametrize(
    "words",
    [
        ["killswitch", "sideways", "wg0"],
        ["killswitch", "off", "--confirm", "9"],
        ["killswitch", "on", "--allow-inbound", "22"],
        ["killswitch", "on", "--confirm", "never"],
        ["killswitch", "portal", "wlan0"],
        ["killswitch", "portal", "wlan0", "--user", "root", "--seconds", "9"],
        ["killswitch", "portal", "wlan0", "--user", "nobody", "--seconds", "99999"],
        ["killswitch", "portal", "wlan0", "--user", "nobody", "--cgroup", "a", "--seconds", "9"],
        ["killswitch", "show", "--user", "nobody"],
        ["killswitch", "off", "--cgroup", "a"],
    ],
    ids=" ".join,
)
def test_tunnelctl_refuses_what_means_nothing(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def test_the_key_may_come_as_a_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = parse(["--config", str(write(tmp_path, key="listen_port = 7"))])
    assert options is not None
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for nothing in (None, "none"):
        if nothing is not None:
            (tmp_path / "private_key").write_text(nothing)
        with pytest.raises(ConfigError, match="private_key: is missing"):
            read_config(options, need_key=True)
    (tmp_path / "private_key").write_text(KEY + "\n")
    key = read_config(options, need_key=True).interface.private_key
    assert key is not None
    assert bytes(key.reveal()) == bytes(range(32))
    (tmp_path / "private_key").write_text("rubbish")
    with pytest.raises(ConfigError) as refused:
        read_config(options, need_key=True)
    assert "rubbish" not in str(refused.value)


def test_mark_zero_is_refused_with_the_reason() -> None:
    refuse_mark_zero(7)
    with pytest.raises(UsageError, match="knows tunneld's own packets by their mark"):
        refuse_mark_zero(0)
