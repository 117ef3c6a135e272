"""A program of the lab that runs until the end, writing a log that others can wait on."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from pathlib import Path

from tools.demolib.errors import DemoError
from tools.demolib.output import PATIENCE, Output
from tools.netlab import Namespace


class Service:
    """A running program; its standard output and error go to `log`.

    The log is a file because the program may outlive this one (--keep); `tail` turns it into
    lines to wait for. It may also say that it is ready in the way of sd_notify(3).
    """

    def __init__(
        self, title: str, namespace: Namespace, command: list[str], log: Path, *, outlive: bool
    ) -> None:
        self.title = title
        self.log = log
        notices = log.with_suffix(".ready")
        notices.unlink(missing_ok=True)
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.bind(str(notices))
        with log.open("wb") as file:
            self._process = namespace.start(
                command,
                outlive=outlive,
                env={**os.environ, "NOTIFY_SOCKET": str(notices)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self._tail = namespace.start(
            ["tail", "--lines=+1", "--follow", f"--pid={self._process.pid}", str(log)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.output = Output(self._tail)

    def wait_ready(self) -> None:
        """Wait until it has notified that its start is over."""
        exit_notice = os.pidfd_open(self._process.pid)
        try:
            heard = select.select([self._notices.fileno(), exit_notice], [], [], PATIENCE)[0]
        finally:
            os.close(exit_notice)
        if self._notices.fileno() not in heard:
            code = self._process.poll()
            what = "was not ready in time" if code is None else f"ended with exit code {code}"
            raise DemoError(f"{self.title} {what}")
        notice = self._notices.recv(256)
        if notice != b"READY=1":
            raise DemoError(f"{self.title} notified {notice.decode()!r} instead of READY=1")

    def wait(self, pattern: str, what: str, *, after: int = 0) -> str:
        """Wait for a line of the log; a program that has ended first is an error that says so."""
        try:
            return self.output.wait(pattern, what, after=after).text
        except DemoError as error:
            code = self._process.poll()
            if code is None:
                raise
            raise DemoError(f"{self.title} ended with exit code {code}") from error

    def stop(self) -> int:
        """Ask it to end, wait until it has, and return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise DemoError(f"{self.title} did not end within {PATIENCE:.0f} s") from None
        self._notices.close()
        self._tail.wait()  # it has seen the end of the log
        return code

    def kill(self) -> None:
        """End it without notice, as a crash would."""
        self._process.kill()
        self._process.wait()
        self._notices.close()
        self._tail.wait()

    def tell(self) -> str:
        """Return its log, under a heading."""
        text = self.log.read_text(errors="replace").rstrip() if self.log.exists() else ""
        return f"---- {self.title} ----\n{text or '(it printed nothing)'}"
