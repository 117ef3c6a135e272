"""tunneld's command line, what it decides before it makes anything, its errors and exit codes."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunnel.config import BindingConfig, Config, InterfaceOverride
from tunnel.daemon import background, filefor, lines, machine, options, service
from tunnel.daemon.options import Options, parse
from tunnel.daemon.plan import make_plan
from tunnel.daemon.plugins import PROVIDERS, find_plugins, load_provider
from tunnel.daemon.words import OTHERS_ARE_FREE, binding_line
from tunnel.errors import ConfigError, TunnelError, UsageError
from tunnel.policy.binding import Attribute, BindingPolicy, Term
from tunnel.policy.interface import Classification, Confidence, Interface, InterfaceType
from tunnel.policy.path import Path as NetworkPath, PathStatus
from tunnel.provider import PacketTunnelProvider
from tunnel.settings import RoutingPolicy

KEY = base64.b64encode(bytes(range(32))).decode()
PEER = base64.b64encode(bytes(range(1, 33))).decode()
CONF = f"[Interface]\nPrivateKey = {KEY}\nAddress = 10.0.0.2/24\n[Peer]\nPublicKey = {PEER}\n"


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "wg7.conf"
    path.write_text(CONF + "AllowedIPs = 0.0.0.0/0\nEndpoint = 192.0.2.1:51820\n")
    path.chmod(0o600)
    return path


# ---- the command line ----


def test_what_is_not_said_has_the_contracts_defaults() -> None:
    assert parse([]) == Options(name="tunnel0")
    assert parse(["--foreground"]) == Options(name="tunnel0")


def test_everything_said_is_taken() -> None:
    arguments = (
        "wg9 --config /x/wg0.conf --bind cellular,if:usb0 --prohibit expensive --provider loopback"
        " --classify wwan0=cellular --classify a=wifi --workers 4 --check --log-level debug"
    )
    assert parse(arguments.split()) == Options(
        name="wg9",
        config=Path("/x/wg0.conf"),
        bind="cellular,if:usb0",
        prohibit="expensive",
        classify=(("wwan0", "cellular"), ("a", "wifi")),
        provider="loopback",
        workers=4,
        check=True,
        log_level="debug",
    )


def test_the_name_is_the_files_unless_given() -> None:
    for arguments, name in (
        (["--config", "/etc/wireguard/home.conf"], "home"),
        (["--config", "/etc/wireguard/home.conf", "wg3"], "wg3"),
    ):
        said = parse(arguments)
        assert said is not None
        assert said.name == name


def test_an_empty_name_or_file_is_not_taken_for_none() -> None:
    for arguments in ([""], ["--config", ""], ["", "--config", "/etc/wireguard/home.conf"]):
        with pytest.raises(UsageError):
            parse(arguments)


def test_only_a_name_alone_goes_to_the_background() -> None:
    for arguments, expected in (
        (["wg0"], True),
        (["wg0", "--foreground"], False),
        (["wg0", "--ephemeral-key"], False),
        (["--config", "wg0.conf"], False),
        ([], False),
    ):
        said = parse(arguments)
        assert said is not None
        assert said.background is expected


SYNOPSIS = """
    --config --bind --prohibit --avoid --classify --include-all-networks --exclude-local-networks
    --allow-inbound --confirm --lockdown-on-exit --provider --userspace --socks5 --http-proxy
    --proxy-credentials --forward --expose --workers --crypto --foreground --check --log-level
    --ephemeral-key --without
"""


def test_every_option_of_the_contract_is_taken() -> None:
    known = {name for parameter in options._command.params for name in parameter.opts}
    assert set(SYNOPSIS.split()) <= known


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--no-such"], "--no-such"),
        (["a", "b"], "extra argument"),
        (["--workers", "0"], "--workers"),
        (["--workers", "17"], "--workers"),
        (["--log-level", "loud"], "--log-level"),
        (["--classify", "wwan0"], "'wwan0' is not IF=TYPE"),
        (["--classify", "wwan0=sheep"], "'sheep' is no type of interface"),
        (["--provider", "none-such"], "'none-such' is not installed; there are: "),
        (["--bind", "wimax"], "'wimax' is neither a type nor a present interface"),
        (["--bind", "expensive"], "expensive is an attribute"),
        (["--bind", ""], "an empty term"),
        (["a/b"], "IFNAME: 'a/b' is not an interface name"),
        (["sixteen-letters-"], "is not an interface name"),
        (["--config", "."], "--config: . is a directory; name a file in it"),
        (["--config", "/etc/.."], "is a directory; name a file in it"),
        (["--config", "/etc/a name.conf"], "from the file's name; give IFNAME as well"),
        (["--config", "x.conf", "--ephemeral-key"], "--ephemeral-key is for a tunnel without"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--config" not in arguments and arguments[0] in ("--bind", "--classify", "--provider"):
        arguments = [*arguments, "--check"]
    assert service.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tunneld: ")
    assert err.count("\n") == 1
    assert words in err


def test_help_and_version_end_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert service.run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "--bind SPEC" in shown
    assert "--avoid SPEC" in shown
    assert "--userspace" in shown
    assert service.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("tunneld 0.")


# ---- what is decided ----


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "wg0.toml"
    path.write_text(
        f'[interface]\nprivate_key = "{KEY}"\n[binding]\nbind = ["wifi"]\nprohibit = ["wired"]\n'
        '[interfaces.eth9]\ntype = "wired"\nexpensive = true\n'
    )
    path.chmod(0o600)
    said = Options(
        name="wg0", config=path, bind="if:wwan0, cellular", classify=(("eth9", "cellular"),),
        provider="loopback",
    )  # fmt: skip
    plan = make_plan(said)
    assert plan.config.binding == BindingConfig(bind=("if:wwan0", "cellular"), prohibit=("wired",))
    assert plan.config.interfaces["eth9"] == InterfaceOverride(type="cellular", expensive=True)
    assert plan.policy.permitted == (Term("wwan0"), Term(InterfaceType.CELLULAR))
    assert plan.policy.prohibited == (Term(InterfaceType.WIRED),)
    assert plan.managed
    file_only = make_plan(replace(said, bind=None, classify=()))
    assert file_only.policy.permitted == (Term(InterfaceType.WIFI),)


def test_errors_of_the_file_are_exit_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        "wg0.conf": ("[Interface]\nMtu = wide\n", "wg0.conf:2"),
        "wg1.toml": ('[binding]\nbind = "wimax"\n', "wg1.toml:2: bind: 'wimax' is neither a type"),
        "wg5.toml": ("[binding]\n\navoid = 5\n", "wg5.toml:3: avoid: '5' is neither a type"),
        "wg2.toml": ('[interfaces.eth0]\ntype = "sheep"\n', "'sheep'"),
        "wg3.ini": ("", "unknown kind of file"),
        "wg4.conf": ("\xff", "is not UTF-8"),
        "absent.conf": (None, "cannot be read"),
    }
    for name, (text, words) in cases.items():
        path = tmp_path / name
        if text is not None:
            path.write_bytes(text.encode("latin-1"))
        assert service.run(["--config", str(path), "--check", "--provider", "loopback"]) == 3, name
        out, err = capsys.readouterr()
        assert words in err
        assert str(path) in err
        assert (out, err.count("\n")) == ("", 1)


def test_a_bare_name_takes_only_binding_and_classes_from_its_file(tmp_path: Path) -> None:
    assert filefor.config_beside("wg0", tmp_path) == Config()
    path = tmp_path / "wg0.toml"
    path.write_text('[binding]\nbind = "cellular"\n[interfaces.eth0]\ntype = "cellular"\n')
    found = filefor.config_beside("wg0", tmp_path)
    assert found.binding.bind == ("cellular",)
    assert found.interfaces["eth0"].type == "cellular"
    path.write_text('[interface]\naddresses = ["10.0.0.1/24"]\n')
    with pytest.raises(ConfigError, match=r"has more than .*; remove the rest, or start"):
        filefor.config_beside("wg0", tmp_path)


def test_providers_are_found_by_entry_point(tmp_path: Path) -> None:
    assert {"loopback", "wireguard"} <= set(find_plugins(PROVIDERS))
    folder = tmp_path / "their-1.0.dist-info"
    folder.mkdir()
    (folder / "entry_points.txt").write_text(
        "[console_scripts]\nx = y:z\n\n[tunnel.providers]\n# theirs\n"
        "theirs = collections:OrderedDict\nbroken = no_such_module:X\n"
        "good = providers.loopback:LoopbackProvider [extra]\n[other]\nfoo = a:b\n"
    )
    folders = [str(tmp_path)]
    assert set(find_plugins(PROVIDERS, folders)) == {"theirs", "broken", "good"}
    assert issubclass(load_provider("good", folders), PacketTunnelProvider)
    with pytest.raises(TunnelError, match="OrderedDict is not a PacketTunnelProvider"):
        load_provider("theirs", folders)
    with pytest.raises(TunnelError, match="broken cannot be loaded"):
        load_provider("broken", folders)


def test_without_privilege_it_ends_with_exit_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "_has_capability", lambda number: False)
    monkeypatch.setattr(background, "harden", lambda: None)
    assert service.run(["--provider", "loopback"]) == 4
    assert "needs CAP_NET_ADMIN; run it as root" in capsys.readouterr().err


def test_without_a_tun_device_it_ends_with_exit_5(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "_has_capability", lambda number: True)
    monkeypatch.setattr(machine, "_TUN_DEVICE", Path("/dev/net/none"))
    monkeypatch.setattr(background, "harden", lambda: None)
    assert service.run(["--provider", "loopback"]) == 5
    assert "load the module with `modprobe tun`" in capsys.readouterr().err


def test_an_internal_error_is_one_line_and_a_traceback_only_when_debugging(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fall(said: Options) -> Any:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(service, "make_plan", fall)
    assert service.run([]) == 1
    assert capsys.readouterr().err == "tunneld: internal error: RuntimeError: two lines\n"
    assert service.run(["--log-level", "debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


# ---- requests of the control socket ----


class Talkative(PacketTunnelProvider):
    async def start_tunnel(self, options: Mapping[str, Any]) -> None:
        pass

    async def handle_app_message(self, message: bytes) -> bytes | None:
        return None if message == b"quiet" else message[::-1]


def requests() -> service._Service:
    said = Options(name="t0")
    return service._Service(service.Plan(said, Config(), BindingPolicy(), Talkative), lambda: None)


def test_a_message_reaches_the_provider_and_its_answer_comes_back() -> None:
    tunneld = requests()
    for message, answer in (("", ""), ("abc", "cba"), ("quiet", None)):
        encoded = base64.b64encode(message.encode()).decode()
        expected = None if answer is None else base64.b64encode(answer.encode()).decode()
        assert asyncio.run(tunneld._message({"message": encoded})) == {"answer": expected}
    for wrong in ("%", 7, None, "a"):
        with pytest.raises(UsageError, match="send `message` as base64"):
            asyncio.run(tunneld._message({"message": wrong}))


def test_a_reload_during_the_start_waits_for_it(conf: Path) -> None:
    async def work() -> None:
        made = service._Service(make_plan(Options(name="wg7", config=conf)), lambda: None)
        reload = asyncio.create_task(made._reload({}))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not reload.done()
        made.started.set()  # by its end
        with pytest.raises(TunnelError, match="wg7: the tunnel is ending; start it again"):
            await reload

    asyncio.run(work())


def test_there_is_nothing_to_reload_without_a_file() -> None:
    with pytest.raises(UsageError, match="use `wg set` or `wg syncconf`"):
        asyncio.run(requests()._reload({}))


def test_an_error_that_nobody_awaited_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    tunneld = requests()
    error = ZeroDivisionError("oh")
    loop = asyncio.new_event_loop()
    try:
        tunneld._stumbled(loop, {"message": "Exception in callback", "exception": error})
    finally:
        loop.close()
    shown = capsys.readouterr().err
    assert shown == (
        "tunneld: t0: internal error: Exception in callback: ZeroDivisionError('oh')\n"
    )


# ---- what it says ----

WWAN = Interface(
    index=3,
    name="wwan0",
    classification=Classification(InterfaceType.CELLULAR, "name pattern", Confidence.GUESS),
)


@pytest.mark.parametrize(
    ("policy", "path", "line"),
    [
        (
            BindingPolicy((Term(InterfaceType.CELLULAR),)),
            NetworkPath(PathStatus.SATISFIED, "", (WWAN,), True),
            "binding cellular: tunneld's own traffic leaves only on wwan0 (cellular, by name "
            f"pattern, a guess); {OTHERS_ARE_FREE}",
        ),
        (
            BindingPolicy(
                (Term(InterfaceType.CELLULAR), Term("wlan0")), (Term(Attribute.EXPENSIVE),)
            ),
            NetworkPath(PathStatus.UNSATISFIED, "", (), True),
            "binding cellular, wlan0 and prohibiting expensive: tunneld's own traffic leaves "
            f"nowhere yet; {OTHERS_ARE_FREE}",
        ),
        (
            BindingPolicy(),
            NetworkPath(PathStatus.SATISFIED, "", (WWAN,), False),
            "no binding: tunneld's own traffic follows the routing table; --bind SPEC restricts it",
        ),
    ],
)
def test_the_start_line_says_what_is_in_force(
    policy: BindingPolicy, path: NetworkPath, line: str
) -> None:
    assert binding_line(policy, path, RoutingPolicy()) == line


def test_repeated_lines_are_merged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = lines.open_log("wg%0", "info")
    try:
        for text in ("waiting", "waiting", "waiting", "connected"):
            log.info("%s", text)
        for _ in range(2):
            logging.getLogger("tunnel.wireguard").info("waiting")
        log.debug("unseen")
    finally:
        log.handlers.clear()
        log.propagate = True
        log.setLevel(logging.NOTSET)
    assert capsys.readouterr().err == (
        "tunneld: wg%0: waiting\ntunneld: wg%0: connected\ntunneld: wg%0: waiting\n"
    )
