"""PreUp, PostUp, PreDown and PostDown: shell commands, run as wg-quick runs them.

Each goes through bash with `set -e -o pipefail` and extended globs, with %i replaced by the
interface's name, in a session of its own. Its output goes to the log line by line, keys hidden.
A hook may leave something running behind it: the hook has ended when its shell has, and what the
rest still writes is logged until it closes its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from typing import Final

from tunnel.errors import MissingFacilityError, TunnelError
from tunnel.secret import redact

_SHELL: Final = ("bash", "-e", "-o", "pipefail", "-O", "extglob", "-c")
_READ_SIZE: Final = 1 << 16
_LINE_MAX: Final = 1000  # characters of a line that the log gets
_END_SECONDS: Final = 3.0  # between SIGTERM and SIGKILL for a hook that is cancelled


async def run_hooks(
    phase: str,
    commands: Sequence[str],
    interface: str,
    log: Callable[[str], None],
    *,
    keep_going: bool = False,
) -> list[TunnelError]:
    """Run the hooks of one phase ('PostUp') in order.

    The first failure is raised as TunnelError, which names the hook and the exit code. With
    `keep_going`, for the way down, failures are logged and returned and the rest is still run.
    Cancelling ends the running hook and all that it started.
    """
    failures = []
    for command in commands:
        try:
            await _run(phase, command.replace("%i", interface), log)
        except TunnelError as error:
            if not keep_going:
                raise
            log(str(error))
            failures.append(error)
    return failures


async def _run(phase: str, command: str, log: Callable[[str], None]) -> None:
    shown = redact(command)
    log(f"{phase}: {shown}")
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    output = _Output(read_end, lambda line: log(f"{phase}: {redact(line)}"))
    try:
        process = await asyncio.create_subprocess_exec(
            *_SHELL,
            command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=write_end,
            stderr=write_end,
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        output.close()
        raise MissingFacilityError(f"{phase}: bash is not there; install it") from error
    except BaseException:
        output.close()
        raise
    finally:
        os.close(write_end)
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        await _end(process)
        output.close()
        raise
    output.drain()
    if code:
        how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
        raise TunnelError(f"{phase}: '{shown}': {how}; correct the hook or remove it")


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the hook's session: its group first asked, then made."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await process.wait()
                return


class _Output:
    """The reading end of a pipe, cut into lines; closes itself at the end of the output."""

    def __init__(self, descriptor: int, line: Callable[[str], None]) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._line = line
        self._rest = b""
        asyncio.get_running_loop().add_reader(descriptor, self._readable)

    def drain(self) -> None:
        """Take what is there now; the rest comes through the loop."""
        self._readable()

    def close(self) -> None:
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _readable(self) -> None:
        if self._descriptor < 0:
            return
        try:
            data = os.read(self._descriptor, _READ_SIZE)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data or len(self._rest) > _LINE_MAX:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            if line.strip():
                self._line(line[:_LINE_MAX].decode("utf-8", "replace").rstrip())
        if not data:
            self.close()
