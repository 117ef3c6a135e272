"""The program behind tools/relay: options, signals, statistics."""

from __future__ import annotations

import argparse
import json
import secrets
import signal
import sys
from collections.abc import Sequence
from typing import Any

from tools.compiled import CompileError
from tools.relaylib.profiles import PROFILES
from tools.relaylib.relay import CLIENTS, IDLE, Relay, parse_address
from tools.relaylib.report import render
from tools.relaylib.settings import OPTIONS, Path, SettingsError, changed, describe

FAILED, USAGE = 1, 2  # exit codes of contract.md
_ENDS = {signal.SIGINT, signal.SIGTERM}
_HEARD = {*_ENDS, signal.SIGUSR1, signal.SIGCHLD}
_EPILOG = """\
profiles, whose figures the options above replace:
{profiles}

A datagram meets, in this order: loss, the queue, the link's rate, the delay. Clients are told apart
by their addresses; all share the path. SIGUSR1 prints the statistics, SIGINT and SIGTERM end it and
print them too. The same seed makes the same decisions about the same datagrams.

    tools/relay --listen 127.0.0.1:51821 --to 192.0.2.1:51820 --profile satellite
    tools/relay --listen [::1]:51821 --to [2001:db8::1]:51820 --delay 25 --loss 0.1 --rate 20/100
"""


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, PROFILES))
    lines = [f"  {one.name:{width}}  {one.about}" for one in PROFILES.values()]
    parser = argparse.ArgumentParser(
        prog="tools/relay",
        description="Carry UDP datagrams over a simulated path, so that a tunnel can be tried over"
        " a satellite at a desk: its packets go to --listen instead of its peer, and from here to"
        " --to. Values are for both directions, or two: UP/DOWN, up being towards --to.",
        epilog=_EPILOG.format(profiles="\n".join(lines)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--listen", metavar="ADDR:PORT", required=True, help="where clients send; port 0: any")
    add("--to", metavar="ADDR:PORT", required=True, help="where their datagrams go")
    add("--profile", metavar="NAME", help=f"a path by name: {', '.join(PROFILES)}")
    for option in OPTIONS:
        add(f"--{option.name}", metavar=option.unit.upper(), help=option.help.replace("%", "%%"))
    add("--seed", metavar="N", help="makes the decisions repeatable (default: chosen, and said)")
    add("--clients", metavar="N", default=str(CLIENTS), help=f"at once (default {CLIENTS})")
    add("--idle", metavar="SECONDS", default=str(IDLE), help=f"a client is forgotten ({IDLE:g})")
    add("--stats", metavar="SECONDS", nargs="?", const="10", help="print statistics so often, too")
    add("--json", action="store_true", help="print statistics as JSON, one object a line")
    return parser


def _number(option: str, text: str, lowest: float, highest: float, kind: type = int) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not lowest <= value <= highest:
        raise SettingsError(f"{option} {text}: a number from {lowest:g} to {highest:g} is expected")
    return value


def _settings(words: argparse.Namespace) -> tuple[Path, Relay, int, float | None]:
    """Return path, relay, seed and how often statistics are printed. Raises SettingsError."""
    path = Path()
    if words.profile is not None:
        if words.profile not in PROFILES:
            raise SettingsError(f"--profile {words.profile}: not one of {', '.join(PROFILES)}")
        path = PROFILES[words.profile].path
    given = {one.name: getattr(words, one.name) for one in OPTIONS}
    path = changed(path, {name: text for name, text in given.items() if text is not None})
    seed = secrets.randbits(32)
    if words.seed is not None:
        seed = _number("--seed", words.seed, 0, 2**64 - 1)
    every = None if words.stats is None else _number("--stats", words.stats, 0.1, 1e6, float)
    relay = Relay(
        parse_address("--listen", words.listen, lowest_port=0),
        parse_address("--to", words.to),
        path,
        seed=seed,
        clients=_number("--clients", words.clients, 1, 65_536),
        idle=_number("--idle", words.idle, 0.1, 1e6, float),
    )
    return path, relay, seed, every


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the relay until it is told to end; return the exit code."""
    words = _parser().parse_args(arguments)

    def show(found: dict[str, Any]) -> None:
        print(json.dumps({"schema": 1, **found}) if words.json else render(found), flush=True)

    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    try:
        path, relay, seed, every = _settings(words)
    except SettingsError as error:
        print(f"tools/relay: {error}", file=sys.stderr)
        return USAGE
    host, port = relay.address
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        with relay:
            says = f"{where} to {words.to}: {describe(path)}; seed {seed}"
            print(f"tools/relay: {says}", file=sys.stderr, flush=True)
            while True:
                heard = signal.sigtimedwait(_HEARD, every or 1e6)
                if heard and heard.si_signo in _ENDS:
                    show(relay.stop())
                    return 0
                if heard and heard.si_signo == signal.SIGCHLD and relay.alive:
                    continue  # that was the compiler
                show(relay.report())  # where the packet path has ended, this says so
    except (CompileError, OSError, RuntimeError) as error:
        print(f"tools/relay: {error}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
