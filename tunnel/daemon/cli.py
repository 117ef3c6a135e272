"""tunnelctl: asks a running tunneld, and shows its answers to people or programs (JSON).

What people read is coloured by rich, which is imported only for that. Exit codes are those of
contract.md.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from tunnel.daemon import client
from tunnel.errors import TunnelError, UsageError

NOT_YET: Final = (
    "path",
    "explain",
    "leaktest",
    "set",
    "top",
    "capture",
    "doctor",
    "peers",
)

_ifname = click.argument("ifname", required=False)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}
_ANYTHING: Final = {**_SETTINGS, "ignore_unknown_options": True, "allow_extra_args": True}


@click.group(context_settings=_SETTINGS)
@click.version_option(package_name="tunneld", prog_name="tunnelctl", message="%(prog)s %(version)s")
def _group() -> None:
    """Ask or tell a running tunneld. IFNAME may be left out where only one runs."""


@_group.command()
@_ifname
@_as_json
def status(ifname: str | None, as_json: bool) -> None:
    """Show the tunnel's state, its path and its peers."""
    _show(client.ask(client.choose(ifname), "status"), as_json, _table("show_status"))


@_group.command()
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


@_group.command()
@_ifname
@_as_json
def down(ifname: str | None, as_json: bool) -> None:
    """Stop the tunnel and remove all that it made."""
    name = client.choose(ifname)
    answer = client.ask(name, "down", seconds=client.DOWN_SECONDS, until_closed=True)
    _show(answer, as_json, lambda report: print(f"{name}: {report['status']}"))


@_group.command()
@click.argument("words", nargs=-1, metavar="[on|off|confirm] [IFNAME]")
@click.option("--allow-inbound", metavar="PROTO/PORT@IF", multiple=True, help="With on: stays so.")
@click.option("--confirm", metavar="SECONDS", help="With on: open again unless confirmed by then.")
@_as_json
def killswitch(
    words: tuple[str, ...], allow_inbound: tuple[str, ...], confirm: str | None, as_json: bool
) -> None:
    """Show, close or open the kill switch; needs no running tunneld."""
    from tunnel.daemon.killswitchctl import ask

    _show(ask(words, allow_inbound, confirm), as_json, _table("show_kill_switch"))


def _refuse_later_commands() -> None:
    for name in NOT_YET:

        @_group.command(name, hidden=True, context_settings=_ANYTHING)
        @click.pass_context
        def later(context: click.Context) -> None:
            raise UsageError(f"{context.info_name} is not there yet; see README.md")


_refuse_later_commands()


def _table(name: str) -> Callable[[Any], None]:
    def show(answer: Any) -> None:
        from tunnel.daemon import tables

        getattr(tables, name)(answer)

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
