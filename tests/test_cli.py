"""tunnelctl against a control socket that answers what the test wants."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.unix_listener import listening
from tunnel.daemon import cli, client
from tunnel.daemon.control import ControlServer
from tunnel.daemon.tables import handshake, size
from tunnel.errors import ConfigError

REPORT: dict[str, Any] = {
    "schema": 1,
    "interface": "wg0",
    "status": "reasserting",
    "status_reason": "waiting: wwan0 has no carrier",
    "path": {
        "status": "unsatisfied",
        "reason": "no permitted interface: wwan0 (cellular) has no carrier",
        "interface": None,
        "type": None,
        "expensive": True,
        "constrained": None,
        "gateways": [],
        "mtu": None,
    },
    "kill_switch": "off",
    "peers": [
        {
            "public_key": "K" * 43 + "=",
            "endpoint": "[2001:db8::1]:51820",
            "handshake_age": 72.4,
            "rtt": 0.0312,
            "rx_bytes": 1536,
            "tx_bytes": 10,
            "reason": None,
        },
        {
            "public_key": "L" * 43 + "=",
            "endpoint": None,
            "handshake_age": None,
            "rtt": None,
            "rx_bytes": 0,
            "tx_bytes": 0,
            "reason": "no endpoint",
        },
    ],
}
STATS = {"schema": 1, "interface": "wg0", "counters": {"replayed": 0, "bad_mac1": 1234567}}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(client, "run_directory", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def daemon(directory: Path) -> Iterator[list[str]]:
    """Serve wg0 from a thread of its own; the requests that came are in the list."""
    asked: list[str] = []
    ended = threading.Event()

    def answering(name: str, answer: Any) -> Any:
        async def handler(request: Mapping[str, Any]) -> Any:
            asked.append(name)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return handler

    wrong = ConfigError("is wrong", where=None, key="MTU", mend="mend it")

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()

        async def down(request: Mapping[str, Any]) -> Any:
            asked.append("down")
            loop.call_soon(stop.set)
            return {**REPORT, "status": "disconnected"}

        server = ControlServer(
            "wg0",
            {
                "status": answering("status", REPORT),
                "stats": answering("stats", STATS),
                "reload": answering("reload", wrong),
                "down": down,
            },
            directory=directory,
        )
        await server.start()
        started.set_result((loop, stop))
        await stop.wait()
        await server.close()
        ended.set()

    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    loop, stop = started.result(10)
    yield asked
    if not ended.is_set():
        loop.call_soon_threadsafe(stop.set)
    thread.join()


def test_status_in_words_is_whole_in_a_narrow_terminal(
    daemon: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.run(["status"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "wg0",
        "reasserting: waiting: wwan0 has no carrier",
        "unsatisfied: no permitted interface: wwan0 (cellular) has no carrier (expensive)",
        "K" * 43 + "=",
        "[2001:db8::1]:51820",
        "1 min ago",
        "31.2 ms",
        "1.5 KiB",
        "none: no endpoint",
    ):
        assert text in shown
    assert "None" not in shown


def test_json_is_what_the_daemon_said(
    daemon: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["status", "wg0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == REPORT
    assert cli.run(["stats", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == STATS
    assert daemon == ["status", "stats"]


def test_stats_shows_what_is_not_zero(
    daemon: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["stats"]) == 0
    shown = capsys.readouterr().out
    assert "bad mac1" in shown
    assert "1,234,567" in shown
    assert "replayed" not in shown


def test_an_output_that_takes_nothing_is_one_line(
    daemon: list[str], directory: Path, tmp_path: Path
) -> None:
    program = (
        "import sys; from pathlib import Path; from tunnel.daemon import cli, client;"
        f"client.run_directory = lambda: Path({str(directory)!r}); sys.exit(cli.run(sys.argv[1:]))"
    )
    for arguments in (["stats"], ["status", "--json"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-c", program, *arguments],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
            )
        expected = "tunnelctl: standard output: No space left on device; see where it goes\n"
        assert (done.returncode, done.stderr) == (1, expected)


def test_a_refused_reload_has_the_daemons_words_and_code(
    daemon: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["reload"]) == 3
    assert capsys.readouterr() == ("", "tunnelctl: MTU: is wrong; mend it\n")


def test_down_returns_when_the_daemon_has_ended(
    daemon: list[str], directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["down"]) == 0
    assert capsys.readouterr().out == "wg0: disconnected\n"
    assert cli.run(["status", "wg0"]) == 5
    assert "no tunneld runs for wg0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["status"], 5, "no tunneld runs here; start one with `tunneld --config FILE`"),
        (["status", "wg7"], 5, "no tunneld runs for wg7; start one with `tunneld --config FILE`"),
        (["fly"], 2, "fly"),
        (["status", "a", "b"], 2, "extra argument"),
        (["status", "--fast"], 2, "--fast"),
        (["capture", "10.0.0.1", "--json"], 2, "capture is not there yet; see README.md"),
        *(([name], 2, f"{name} is not there yet; see README.md") for name in cli.NOT_YET),
    ],
)
def test_errors_are_one_line_with_the_contracts_code(
    directory: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    line: str,
) -> None:
    assert cli.run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tunnelctl: ")
    assert err.count("\n") == 1
    assert line in err  # the wording of some of them is click's


def test_several_tunnels_have_to_be_named(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with listening(directory / "wg1.sock"), listening(directory / "wg0.sock"):
        for words in (["status"], ["explain", "::1"]):
            assert cli.run(words) == 2
            said = capsys.readouterr().err
            assert said == "tunnelctl: several tunnels run: wg0, wg1; name one\n"
    assert cli.run(["status"]) == 5  # sockets that a crash left are no tunnels
    assert "no tunneld runs here" in capsys.readouterr().err


def test_help_names_the_commands_that_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("status", "stats", "reload", "down", "killswitch", "path", "explain", "leaktest"):
        assert f"  {name} " in shown
    assert "capture" not in shown
    assert cli.run([]) == 2


@pytest.mark.parametrize(
    ("age", "reason", "text"),
    [
        (None, "no endpoint", "none: no endpoint"),
        (None, None, "none"),
        (0.2, None, "now"),
        (59.9, None, "59 s ago"),
        (61, None, "1 min ago"),
        (7300, None, "2 h ago"),
    ],
)
def test_ages_in_words(age: float | None, reason: str | None, text: str) -> None:
    assert handshake(age, reason) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, ""),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 40, "3.0 TiB"),
    ],
)
def test_sizes_in_words(count: int | None, text: str) -> None:
    assert size(count) == text


def test_asking_needs_no_event_loop_and_json_no_table() -> None:
    program = (
        "import sys; from tunnel.daemon import cli; cli.run(['status', 'none-such', '--json']);"
        "print([m for m in ('asyncio', 'rich', 'cryptography') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n"
