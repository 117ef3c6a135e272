"""tunneld's command line, as a frozen value."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from tunnel.daemon.proxyplan import check_options
from tunnel.errors import UsageError
from tunnel.places import Forward, Place, expose, forward, place
from tunnel.settings import Inbound
from tunnel.values import BadValue, inbound, interface_name, number

DEFAULT_NAME: Final = "tunnel0"
LOG_LEVELS: Final = ("error", "warning", "info", "debug")
WORKERS_MAX: Final = 16
CONFIRM_MAX: Final = 86_400  # seconds
CRYPTO: Final = ("auto", "avx512ifma", "avx512", "avx2", "libcrypto")
WITHOUT: Final = (
    "tun-offload", "tun-uso", "connected-udp", "udp-segment", "udp-gro", "coalesce-tcp",
    "coalesce-udp", "uplink-queue",
)  # fmt: skip

T = TypeVar("T")

_many: Final = functools.partial(click.option, multiple=True)
_with_default: Final = functools.partial(click.option, show_default=True)


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for. `background` is for IFNAME as the only argument."""

    name: str
    config: Path | None = None
    bind: str | None = None
    prohibit: str | None = None
    avoid: str | None = None
    classify: tuple[tuple[str, str], ...] = ()
    provider: str = "wireguard"
    workers: int = 1
    crypto: str = "auto"
    without: tuple[str, ...] = ()
    realtime: bool = True
    check: bool = False
    log_level: str = "info"
    ephemeral_key: bool = False
    background: bool = False
    include_all_networks: bool = False
    exclude_local_networks: bool = False
    allow_inbound: tuple[Inbound, ...] = ()
    confirm: float | None = None
    lockdown_on_exit: bool = False
    userspace: bool = False
    socks5: Place | None = None
    http_proxy: Place | None = None
    proxy_credentials: Path | None = None
    forward: tuple[Forward, ...] = ()
    expose: tuple[Forward, ...] = ()


@click.command(
    name="tunneld",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Run a VPN tunnel on interface IFNAME.

    With IFNAME as the only argument tunneld goes to the background once the interface and its
    UAPI socket exist, as wg-quick(8) expects; otherwise it stays in the foreground.
    SPEC is a comma list of types (cellular, wifi, wired, bluetooth, loopback, tunnel, other),
    attributes (expensive, constrained, ultra-constrained; not in --bind) and interface names;
    if:NAME is an interface that may be absent. In --bind, policy:NAME lets an installed policy
    decide (entry points of the group tunnel.policies).""",
    epilog="Exit codes: 0 ended as asked, 1 failed while running, 2 wrong usage, 3 wrong "
    "configuration, 4 no privilege, 5 a device or facility is missing.",
)
@click.argument("ifname", required=False)
@click.option("--config", metavar="FILE", help="wg-quick's format (.conf) or TOML (.toml).")
@click.option("--bind", metavar="SPEC", help="Use only these interfaces, in this order.")
@click.option("--prohibit", metavar="SPEC", help="Never use these; wins over --bind.")
@click.option("--avoid", metavar="SPEC", help="Use these only when nothing else is there.")
@_many("--classify", metavar="IF=TYPE", help="What type IF is, where the guess is wrong.")
@click.option(
    "--include-all-networks", is_flag=True, help="Kill switch: all by the tunnel or not at all."
)
@click.option(
    "--exclude-local-networks", is_flag=True, help="With it: local networks stay reachable."
)
@_many("--allow-inbound", metavar="PROTO/PORT@IF", help="With it: this service stays reachable.")
@click.option("--confirm", metavar="SECONDS", help="With it: open again unless confirmed by then.")
@click.option(
    "--lockdown-on-exit", is_flag=True, help="With it: stay closed after an orderly stop."
)
@click.option("--userspace", is_flag=True, help="Without root: no interface, a stack of our own.")
@click.option("--socks5", metavar="ADDR:PORT", help="A SOCKS5 proxy into the tunnel.")
@click.option("--http-proxy", metavar="ADDR:PORT", help="An HTTP proxy into the tunnel.")
@click.option("--proxy-credentials", metavar="FILE", help="Who may use them: NAME:PASSWORD lines.")
@_many(
    "--forward", metavar="PROTO:LISTEN=DEST", help="Carry what comes to LISTEN here to DEST inside."
)
@_many(
    "--expose", metavar="PROTO:PORT=LOCAL", help="Carry what comes to PORT inside to LOCAL here."
)
@_with_default(
    "--provider",
    metavar="NAME",
    default="wireguard",
    help="Who makes the tunnel (entry points of the group tunnel.providers).",
)
@_with_default(
    "--workers", type=click.IntRange(1, WORKERS_MAX), default=1, help="Threads that move packets."
)
@_with_default(
    "--crypto",
    type=click.Choice(CRYPTO),
    default="auto",
    help="How packets are sealed; auto takes the best that the processor has.",
)
@_many(
    "--without",
    type=click.Choice(WITHOUT),
    help="Do without this facility, where the kernel or a driver has it wrong.",
)
@_with_default(
    "--realtime",
    type=click.Choice(("auto", "off")),
    default="auto",
    help="Move packets at real-time priority where permitted: less waiting under load.",
)
@click.option("--foreground", is_flag=True, help="Stay in the foreground.")
@click.option("--check", is_flag=True, help="Print what would be applied, and apply nothing.")
@_with_default(
    "--log-level",
    type=click.Choice(LOG_LEVELS),
    default="info",
    help="How much is told; debug adds tracebacks.",
)
@click.option("--ephemeral-key", is_flag=True, help="Without --config: a key that is not kept.")
@click.version_option(package_name="tunneld", prog_name="tunneld", message="%(prog)s %(version)s")
def _command(**values: Any) -> dict[str, Any]:
    return values


def parse(arguments: Sequence[str]) -> Options | None:
    """Parse tunneld's arguments; None when --help or --version was all that was asked.

    Raises UsageError, in one line.
    """
    try:
        values = _command.main(list(arguments), prog_name="tunneld", standalone_mode=False)
    except click.ClickException as error:
        message = error.format_message().rstrip(".")
        raise UsageError(f"{message}; see tunneld --help") from error
    if not isinstance(values, dict):
        return None
    if values["config"] == "":
        raise UsageError("--config: names no file; write its path")
    config = Path(values["config"]) if values["config"] else None
    if config is not None and config.name in ("", ".."):
        raise UsageError(f"--config: {config} is a directory; name a file in it")
    if config is not None and values["ephemeral_key"]:
        raise UsageError("--ephemeral-key is for a tunnel without --config; the file has the key")
    ifname = values["ifname"]
    options = Options(
        name=_name(ifname, config),
        config=config,
        bind=values["bind"],
        prohibit=values["prohibit"],
        avoid=values["avoid"],
        classify=tuple(_classify(word) for word in values["classify"]),
        provider=values["provider"],
        workers=values["workers"],
        crypto=values["crypto"],
        without=values["without"],
        realtime=values["realtime"] == "auto",
        check=values["check"],
        log_level=values["log_level"],
        ephemeral_key=values["ephemeral_key"],
        background=list(arguments) == [ifname],
        include_all_networks=values["include_all_networks"],
        exclude_local_networks=values["exclude_local_networks"],
        allow_inbound=tuple(
            _read("--allow-inbound", inbound, word) for word in values["allow_inbound"]
        ),
        confirm=_read("--confirm", _seconds, values["confirm"]),
        lockdown_on_exit=values["lockdown_on_exit"],
        userspace=values["userspace"],
        socks5=_read("--socks5", place, values["socks5"]),
        http_proxy=_read("--http-proxy", place, values["http_proxy"]),
        proxy_credentials=_file("--proxy-credentials", values["proxy_credentials"]),
        forward=tuple(_read("--forward", forward, word) for word in values["forward"]),
        expose=tuple(_read("--expose", expose, word) for word in values["expose"]),
    )
    check_options(options)
    return options


def _read(option: str, read: Callable[[str], T], word: str | None) -> T | Any:
    try:
        return None if word is None else read(word)
    except BadValue as error:
        raise UsageError(f"{option}: {error}") from error


def _file(option: str, word: str | None) -> Path | None:
    if word == "":
        raise UsageError(f"{option}: names no file; write its path")
    return None if word is None else Path(word)


def _name(ifname: str | None, config: Path | None) -> str:
    default = config.stem if config is not None else DEFAULT_NAME
    name = default if ifname is None else ifname
    try:
        return interface_name(name)
    except BadValue as error:
        hint = "" if ifname is not None else " (from the file's name; give IFNAME as well)"
        raise UsageError(f"IFNAME: {error}{hint}") from error


def _seconds(word: str) -> float:
    return float(number(word, 1, CONFIRM_MAX, what="seconds"))


def _classify(word: str) -> tuple[str, str]:
    name, equals, kind = word.partition("=")
    if not (name and equals and kind):
        raise UsageError(f"--classify: {word!r} is not IF=TYPE; write it as in wwan0=cellular")
    return name, kind
