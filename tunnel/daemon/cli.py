"""tunnelctl: asks a running tunneld, and shows its answers to people or programs (JSON).

What people read is coloured by rich, which is imported only for that. Exit codes are those of
contract.md.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final

import click

from tunnel.daemon import client
from tunnel.errors import TunnelError, UsageError

NOT_YET: Final = (
    "top",
    "capture",
    "doctor",
    "peers",
)

_ifname = click.argument("ifname", required=False)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}
_ANYTHING: Final = {**_SETTINGS, "ignore_unknown_options": True, "allow_extra_args": True}


@click.group(
    context_settings=_SETTINGS,
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 wrong configuration, 4 no privilege, "
    "5 no tunneld is running, or something else is missing.",
)
@click.version_option(package_name="tunneld", prog_name="tunnelctl", message="%(prog)s %(version)s")
def _group() -> None:
    """Ask or tell a running tunneld. IFNAME may be left out where only one runs."""


@_group.command()
@_ifname
@_as_json
def status(ifname: str | None, as_json: bool) -> None:
    """Show the tunnel's state, its path and its peers."""
    _show(client.ask(client.choose(ifname), "status"), as_json, _table("show_status"))


@_group.command(short_help="Show the counters: packets moved, and dropped by reason.")
@_ifname
@_as_json
def stats(ifname: str | None, as_json: bool) -> None:
    """Show the counters: packets moved, and packets dropped by reason."""
    _show(client.ask(client.choose(ifname), "stats"), as_json, _table("show_stats"))


@_group.command()
@_ifname
@_as_json
def reload(ifname: str | None, as_json: bool) -> None:
    """Read the configuration again; a wrong one changes nothing."""
    name = client.choose(ifname)
    answer = client.ask(name, "reload")
    _show(answer, as_json, lambda report: print(f"{name}: reloaded; {report['status']}"))


@_group.command("set")
@_ifname
@click.option("--bind", metavar="SPEC", help="Use only these interfaces, in this order.")
@click.option("--prohibit", metavar="SPEC", help="Never use these; wins over --bind.")
@click.option("--avoid", metavar="SPEC", help="Use these only when nothing else is there.")
@_as_json
def set_(
    ifname: str | None, bind: str | None, prohibit: str | None, avoid: str | None, as_json: bool
) -> None:
    """Change what a running tunnel may use, until the next reload. An empty SPEC lifts one."""
    name = client.choose(ifname)
    answer = client.ask(name, "set", bind=bind, prohibit=prohibit, avoid=avoid)
    _show(answer, as_json, lambda report: print(f"{name}: {report['path']['reason']}"))


@_group.command()
@_ifname
@_as_json
def down(ifname: str | None, as_json: bool) -> None:
    """Stop the tunnel and remove all that it made."""
    name = client.choose(ifname)
    answer = client.ask(name, "down", seconds=client.DOWN_SECONDS, until_closed=True)
    _show(answer, as_json, lambda report: print(f"{name}: {report['status']}"))


@_group.command()
@click.argument("words", nargs=-1, metavar="[on|off|confirm|portal IF] [IFNAME]")
@click.option("--allow-inbound", metavar="PROTO/PORT@IF", multiple=True, help="With on: stays so.")
@click.option("--confirm", metavar="SECONDS", help="With on: open again unless confirmed by then.")
@click.option("--user", metavar="USER", help="With portal: whom it is for.")
@click.option("--cgroup", metavar="PATH", help="With portal: or which control group.")
@click.option("--seconds", metavar="SECONDS", help="With portal: for how long.")
@_as_json
def killswitch(
    words: tuple[str, ...],
    allow_inbound: tuple[str, ...],
    confirm: str | None,
    user: str | None,
    cgroup: str | None,
    seconds: str | None,
    as_json: bool,
) -> None:
    """Show, close or open the kill switch; needs no running tunneld."""
    from tunnel.daemon.killswitchctl import ask

    report = ask(words, allow_inbound, confirm, user, seconds, cgroup)
    _show(report, as_json, _table("show_kill_switch"))


@_group.command()
@_ifname
@_as_json
def path(ifname: str | None, as_json: bool) -> None:
    """Show the path, and every interface with why it is used or not."""
    _show(client.ask(client.choose(ifname), "path"), as_json, _table("show_path", "prooftables"))


@_group.command(short_help="Say which way a packet to DEST would go, and why.")
@click.argument("dest")
@_ifname
@click.option("--port", type=click.IntRange(0, 65535), default=443, show_default=True)
@click.option("--udp", is_flag=True, help="A UDP packet, not a TCP one.")
@click.option("--from", "source", metavar="ADDR", help="The address it is sent from.")
@click.option("--mark", metavar="N", default="0", help="The mark of the socket that sends it.")
@click.option("--user", metavar="UID", type=click.IntRange(0), default=0, help="Who sends it.")
@click.option("--bound", metavar="IF", help="The interface that its socket is bound to.")
@_as_json
def explain(dest: str, ifname: str | None, mark: str, as_json: bool, **fields: Any) -> None:
    """Say which way a packet to DEST would go, and why: rule, route, source and firewall."""
    from tunnel.daemon.explain import Question, explain as explained

    try:
        number = int(mark, 0)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 32:
        raise UsageError(f"--mark: {mark!r} is no 32-bit number; write it as in 0x7400")
    device = fields.pop("bound")
    question = Question(dest, mark=number, device=device, **fields)
    report = explained(question, lambda: _path_of(ifname))
    _show(report, as_json, _table("show_explanation", "prooftables"))


@_group.command(short_help="Try to leak past the tunnel, and watch the links.")
@_ifname
@_as_json
def leaktest(ifname: str | None, as_json: bool) -> int:
    """Try to leak past the tunnel, and watch the links: exit code 0 nothing leaked, 1 something
    did, 5 it could not be proven.
    """
    from tunnel.daemon.leaktest import EXIT, leak_test

    report = leak_test(client.ask(client.choose(ifname), "path"))
    _show(report, as_json, _table("show_leaktest", "prooftables"))
    return EXIT[report["result"]]


def _path_of(ifname: str | None) -> Any:
    """Return a tunneld's path; None where none was named and none runs."""
    if ifname is None and not client.running():
        return None
    return client.ask(client.choose(ifname), "path")


def _refuse_later_commands() -> None:
    for name in NOT_YET:

        @_group.command(name, hidden=True, context_settings=_ANYTHING)
        @click.pass_context
        def later(context: click.Context) -> None:
            raise UsageError(f"{context.info_name} is not there yet; see README.md")


_refuse_later_commands()


def _table(name: str, module: str = "tables") -> Callable[[Any], None]:
    def show(answer: Any) -> None:
        getattr(import_module(f"tunnel.daemon.{module}"), name)(answer)

    return show


def _show(answer: Any, as_json: bool, show: Callable[[Any], None]) -> None:
    if as_json:
        print(json.dumps(answer, indent=2))
    else:
        show(answer)
    print(end="", flush=True)


def main() -> None:
    """Run tunnelctl; the console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors are one line."""
    try:
        if os.geteuid() == 0:
            from tunnel.policy.dnsapply.leftover import recover

            recover(lambda line: print(f"tunnelctl: {line}", file=sys.stderr))
        code = _group.main(list(arguments), prog_name="tunnelctl", standalone_mode=False)
        return code if isinstance(code, int) else 0  # --help and --version answer with a number
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return UsageError.exit_code
    except click.ClickException as error:
        message = error.format_message().rstrip(".")
        print(f"tunnelctl: {message}; see tunnelctl --help", file=sys.stderr)
        return UsageError.exit_code
    except TunnelError as error:
        print(f"tunnelctl: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 1
    except OSError as error:
        # Python writes what is left in the buffer when it ends, and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not isinstance(error, BrokenPipeError):  # else whoever read us has gone
            text = f"standard output: {error.strerror}; see where it goes"
            print(f"tunnelctl: {text}", file=sys.stderr)
        return 1
