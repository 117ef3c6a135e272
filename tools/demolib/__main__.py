"""The program behind tools/demo: make the lab, tell the story, report, take the lab away."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from tools.demolib import remove
from tools.demolib.errors import DemoError
from tools.demolib.lab import SERVER, DemoLab
from tools.demolib.report import render
from tools.demolib.story import Story
from tools.demolib.tunnels import BIN, Tunnels
from tools.netlab import Lab

PRIVILEGE, MISSING = 4, 5  # exit codes of contract.md
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="tools/demo",
        description="Show a WireGuard tunnel that stays on cellular while Wi-Fi is up and "
        "preferred, moves without a loss when asked to, and lets nothing out beside it, in network "
        "namespaces that are made for it and removed afterwards.",
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--keep", action="store_true", help="leave the lab up, and say how to enter"
    )
    choice.add_argument("--remove", action="store_true", help="remove labs that were left up")
    options = parser.parse_args(arguments)
    if os.geteuid():
        return _refuse("needs root, to make network namespaces; run it again as root", PRIVILEGE)
    if options.remove:
        return _remove_all()
    if not Path("/dev/net/tun").exists():
        return _refuse("/dev/net/tun is missing; load the kernel's tun module", MISSING)
    for sign in _SIGNALS:
        signal.signal(sign, _interrupted)
    return _demonstrate(keep=options.keep)


def _refuse(problem: str, code: int) -> int:
    print(f"tools/demo: {problem}", file=sys.stderr)
    return code


def _interrupted(number: int, frame: FrameType | None) -> None:
    for sign in _SIGNALS:  # removing the lab is not to be interrupted
        signal.signal(sign, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # the terminal may be what went away
        print(f"\ntools/demo: {signal.Signals(number).name}: removing the lab", file=sys.stderr)
    raise SystemExit(128 + number)


def _remove_all() -> int:
    tags = remove.tags()
    for tag in tags:
        remove.remove(tag)
        print(f"removed {tag}")
    if not tags:
        print("no lab is up")
    return 0


def _demonstrate(*, keep: bool) -> int:
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - start:5.1f} s] {text}", flush=True)

    for tag in remove.tags():
        say(f"note: another lab, {tag}, is up; tools/demo --remove removes it")
    tag = f"demo{os.getpid()}"
    left_up = False
    try:
        done = _run(tag, keep, say)
        left_up = keep
        return done
    finally:
        for sign in _SIGNALS:
            signal.signal(sign, signal.SIG_IGN)
        if not left_up:
            remove.remove(tag)


def _run(tag: str, keep: bool, say: Callable[[str], None]) -> int:
    """Tell the story in a new lab and print the report; return the exit code."""
    say("making a network of namespaces: a client with wlan0 and wwan0, a gateway, a server")
    tunnels = Tunnels(remove.prepare(tag), tag, outlive=keep)
    story, failures = None, []
    try:
        story = Story(DemoLab(Lab(tag)), tunnels, say)
        story.tell()
        if keep:
            story.leave_bound()
    except (DemoError, RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
        failures.append(str(error))
    if story:
        failures += story.findings.failures()
        if failures:
            print("\nThe logs of what ran:\n")
            print("\n\n".join(service.tell() for service in story.services))
            for frame in story.others():
                print(f"a frame that should not have been there: {frame.hex()}")
        print("", render(story.findings), "", sep="\n")
    if keep:
        print(_how_to_enter(tunnels), end="\n\n")
    if failures:
        print("FAILED:", *(f"    {line}" for line in failures), sep="\n")
        print("The logs are above, under the names of the programs that wrote them.")
        return 1
    print("Everything held: no packet left where it should not.")
    return 0


def _how_to_enter(tunnels: Tunnels) -> str:
    """Say what can be done with a lab that is left up."""
    client = f"{tunnels.tag}-client"
    return f"""\
The lab is left up; tunneld runs in the client with --bind cellular.
    ip netns exec {client} bash                  a shell in the client
    ip netns exec {client} ping {SERVER}
    ip netns exec {client} {BIN}/tunnelctl status {tunnels.client_interface}
    ls {tunnels.folder}              configuration, logs
    tools/demo --remove                                   removes it"""


if __name__ == "__main__":
    sys.exit(main())
