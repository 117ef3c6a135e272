"""--check: what would be applied is printed, and nothing is applied."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_service import KEY, conf
from tunnel.daemon import check, service
from tunnel.daemon.options import Options
from tunnel.daemon.plan import make_plan

__all__ = ["conf"]  # a fixture


def test_check_shows_the_configuration_and_the_machine_and_applies_nothing(
    conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(name for _, name in socket.if_nameindex())
    arguments = ["--config", str(conf), "--check", "--provider", "loopback", "--bind", "loopback"]
    assert service.run(arguments) == 0
    shown = capsys.readouterr().out.splitlines()
    assert sorted(name for _, name in socket.if_nameindex()) == before
    assert KEY not in "\n".join(shown)
    for start in (
        "interface: wg7",
        "address: 10.0.0.2/24",
        "binding loopback: tunneld's own traffic leaves ",
        "present: lo (loopback, by ",
        "path: ",
        "MTU on this path: ",
        "mark of tunneld's own packets: 0x",
        "rule ",
        "firewall: packets for 10.0.0.2 ",
        "kill switch: off",
    ):
        assert any(line.startswith(start) for line in shown), start


def test_check_into_a_pipe_that_nobody_reads_is_quiet(conf: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = "from tunnel.daemon.service import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", command, "--config", str(conf), "--check"],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_check_without_a_file_touches_no_route(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(Options(name="wg7", provider="loopback"))
    shown = check.check(plan)
    assert not [line for line in shown if line.startswith(("rule ", "route ", "MTU on"))]
