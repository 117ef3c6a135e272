"""Going to the background, being hard to read, telling systemd."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tunnel.daemon import background


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )


def test_the_command_returns_when_the_daemon_is_ready_and_the_daemon_lives_on(
    tmp_path: Path,
) -> None:
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    done = run_python(
        "import os, sys\n"
        "from tunnel.daemon.background import in_background\n"
        "def work(ready):\n"
        "    print('before', flush=True)\n"
        "    ready()\n"
        "    print('lost', flush=True)\n"
        f"    with open({str(fifo)!r}, 'w') as fifo:\n"
        "        print(os.getpid(), os.getsid(0), os.getcwd(), os.isatty(0), file=fifo)\n"
        "    return 7\n"
        "sys.exit(in_background(work))"
    )
    # subprocess waits for the end of the output too: only a closed one lets it return.
    assert (done.returncode, done.stdout, done.stderr) == (0, "before\n", "")
    with open(fifo) as alive:
        pid, session, directory, terminal = alive.read().split()
    assert (pid != session, directory, terminal) == (True, "/", "False")


def test_a_daemon_that_fails_gives_its_exit_code_to_the_command() -> None:
    program = "import sys; from tunnel.daemon.background import in_background as b;"
    assert run_python(f"{program} sys.exit(b(lambda ready: 3))").returncode == 3
    died = run_python(f"import os; {program} sys.exit(b(lambda ready: os._exit(9)))")
    assert died.returncode == 1


def test_a_hardened_process_dumps_no_core_and_makes_private_files(tmp_path: Path) -> None:
    done = run_python(
        "import ctypes, os, resource\n"
        "from tunnel.daemon.background import harden\n"
        "harden()\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),"
        " oct(os.umask(0)))"
    )
    assert done.stdout == "(0, 0) 0 0o77\n"


def test_closed_streams_are_opened_before_anything_gets_their_numbers() -> None:
    program = (
        "import os; from tunnel.daemon.background import open_streams; os.close(0); os.close(2);"
        "open_streams(); print([os.path.samefile(os.devnull, f'/proc/self/fd/{n}')"
        " for n in (0, 1, 2)], os.dup(1))"
    )
    assert run_python(program).stdout == "[True, False, True] 3\n"


def test_systemd_is_told_where_it_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(str(tmp_path / "notify"))
        inbox.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        background.notify("READY=1")
        assert inbox.recv(100) == b"READY=1"
    background.notify("READY=1")  # nobody listens any more
    monkeypatch.delenv("NOTIFY_SOCKET")
    background.notify("READY=1")
