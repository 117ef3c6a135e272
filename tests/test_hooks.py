"""Hooks run as wg-quick runs them; their output is logged, their failures are named."""

from __future__ import annotations

import asyncio
import base64
import os
import select
from pathlib import Path

import pytest

from tests.loops import Runner
from tunnel.errors import MissingFacilityError, TunnelError
from tunnel.hooks import run_hooks


def test_hooks_run_in_order_with_the_interface_in_place(run: Runner) -> None:
    log: list[str] = []
    run(run_hooks("PostUp", ["echo %i is %i", "echo err >&2; printf 'no end'"], "wg7", log.append))
    assert log == [
        "PostUp: echo wg7 is wg7",
        "PostUp: wg7 is wg7",
        "PostUp: echo err >&2; printf 'no end'",
        "PostUp: err",
        "PostUp: no end",
    ]


@pytest.mark.parametrize(
    ("command", "how"),
    [
        ("exit 7", "exit code 7"),
        ("false; echo not reached", "exit code 1"),
        ("false | true", "exit code 1"),
        ("kill -9 $$", "ended by signal 9"),
        ("no-such-command-here", "exit code 127"),
        ("if", "exit code 2"),
    ],
)
def test_a_failure_is_raised_with_hook_and_code(run: Runner, command: str, how: str) -> None:
    log: list[str] = []
    with pytest.raises(TunnelError) as caught:
        run(run_hooks("PreUp", [command, "echo after"], "wg7", log.append))
    assert str(caught.value) == f"PreUp: '{command}': {how}; correct the hook or remove it"
    assert caught.value.exit_code == 1
    assert not any("after" in line or "not reached" in line.split(": ")[1:] for line in log)


def test_on_the_way_down_failures_do_not_stop_the_rest(run: Runner) -> None:
    log: list[str] = []
    failures = run(
        run_hooks("PostDown", ["exit 3", "echo cleaned"], "wg7", log.append, keep_going=True)
    )
    assert [str(error) for error in failures] == [
        "PostDown: 'exit 3': exit code 3; correct the hook or remove it"
    ]
    assert "PostDown: cleaned" in log
    assert str(failures[0]) in log


def test_extended_globs_and_a_plain_locale(run: Runner) -> None:
    log: list[str] = []
    run(run_hooks("PreUp", ['x=aab; echo "${x##+(a)}" $LC_ALL'], "wg7", log.append))
    assert log[1:] == ["PreUp: b C"]


def test_a_hook_reads_nothing_from_our_input(run: Runner) -> None:
    log: list[str] = []
    run(run_hooks("PreUp", ["read line || echo closed"], "wg7", log.append))
    assert log[1:] == ["PreUp: closed"]


def test_keys_in_hooks_and_their_output_stay_out_of_the_log(run: Runner) -> None:
    key = base64.b64encode(bytes(range(32))).decode()
    log: list[str] = []
    with pytest.raises(TunnelError) as caught:
        run(run_hooks("PreUp", [f"echo {key} | tee /dev/stderr; exit 1"], "wg7", log.append))
    assert key.rstrip("=") not in "\n".join([*log, str(caught.value)])
    assert "PreUp: (hidden)" in log


def test_long_and_broken_output_is_taken_in_pieces(run: Runner) -> None:
    log: list[str] = []
    run(run_hooks("PreUp", ["printf '\\xff%.0s' {1..2500}; echo"], "wg7", log.append))
    pieces = [line.removeprefix("PreUp: ") for line in log[1:]]
    assert all(0 < len(piece) <= 1000 and set(piece) == {"\ufffd"} for piece in pieces)


def test_what_a_hook_leaves_running_does_not_hold_the_tunnel(run: Runner, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def scenario() -> list[str]:
        log: list[str] = []
        said = asyncio.Event()

        def note(line: str) -> None:
            log.append(line)
            if line == "PostUp: late":
                said.set()

        await run_hooks("PostUp", [f"(read x <{fifo}; echo late) & echo early"], "wg7", note)
        assert log[1:] == ["PostUp: early"]
        await asyncio.to_thread(fifo.write_text, "go\n")
        await asyncio.wait_for(said.wait(), 30)
        return log

    assert run(scenario())[-1] == "PostUp: late"


def test_cancelling_ends_the_hook_and_what_it_started(run: Runner, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    ready = tmp_path / "ready"
    os.mkfifo(ready)

    async def scenario() -> None:
        hook = f"sleep 1000 & echo $! $$ >{pids}; echo >{ready}; wait"
        task = asyncio.create_task(run_hooks("PreUp", [hook], "wg7", lambda line: None))
        await asyncio.to_thread(ready.read_text)
        handles.extend(os.pidfd_open(int(pid)) for pid in pids.read_text().split())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    handles: list[int] = []
    run(scenario())
    for handle in handles:  # readable once its process has ended
        assert select.select([handle], [], [], 60)[0]
        os.close(handle)


def test_a_machine_without_bash(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingFacilityError, match="PreUp: bash is not there; install it"):
        run(run_hooks("PreUp", ["true"], "wg7", lambda line: None))
