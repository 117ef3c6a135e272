"""What a simulated path is like, in each direction.

Every option is one number for both directions or two, `UP/DOWN`; up is from the clients to `--to`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

DATAGRAM = 65_535 + 48  # bytes: the largest one, with its headers
FULL = 1500
DEFAULT_QUEUE = 0.1  # seconds at the link's rate


class SettingsError(ValueError):
    """One line: which option, what is wrong with it."""


@dataclass(frozen=True)
class Link:
    """One direction. A rate of 0 has no limit; a queue of 0 is what `DEFAULT_QUEUE` says."""

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    rate: float = 0.0
    queue: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0

    def words(self) -> list[str]:
        """Return it as relay.c reads it: nanoseconds, shares, nanoseconds a byte, bytes."""
        byte_ns = 8e3 / self.rate if self.rate else 0.0
        queue = self.queue or max(DATAGRAM, DEFAULT_QUEUE * self.rate * 1e6 / 8)
        return [
            repr(value)
            for value in (
                self.delay * 1e6,
                self.jitter * 1e6,
                self.loss / 100,
                byte_ns,
                queue,
                self.reorder / 100,
                self.duplicate / 100,
                self.corrupt / 100,
            )
        ]


@dataclass(frozen=True)
class Path:
    """Both directions."""

    up: Link = Link()
    down: Link = Link()


@dataclass(frozen=True)
class Option:
    """One that a link has: its unit, its highest value, and what it does."""

    name: str
    unit: str
    highest: float
    help: str


OPTIONS = (
    Option("delay", "ms", 60_000, "how long a datagram is under way"),
    Option("jitter", "ms", 60_000, "how far the delay wanders, up and down; keeps the order"),
    Option("loss", "percent", 100, "share that is lost"),
    Option("rate", "Mbit/s", 100_000, "of the link, IP and UDP headers counted; 0: no limit"),
    Option("queue", "bytes", 1e9, "what waits for the link at most; default: 100 ms of the rate"),
    Option("reorder", "percent", 100, "share held back, by up to half the delay and 5 ms"),
    Option("duplicate", "percent", 100, "share that comes twice"),
    Option("corrupt", "percent", 100, "share in which one bit is turned"),
)  # fmt: skip
assert [option.name for option in OPTIONS] == [field.name for field in fields(Link)]


def parse(option: Option, text: str) -> tuple[float, float]:
    """Return the values up and down of an option's text. Raises SettingsError."""
    parts = text.split("/")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if len(values) not in (1, 2):
        raise SettingsError(
            f"--{option.name} {text}: a number of {option.unit} is expected, or two as UP/DOWN"
        )
    for value in values:
        if not 0 <= value <= option.highest:  # false for nan, too
            raise SettingsError(
                f"--{option.name} {text}: from 0 to {option.highest:,.0f} {option.unit}"
            )
    return values[0], values[-1]


def changed(path: Path, given: dict[str, str]) -> Path:
    """Return a path with options as given, by name, in place of its own. Raises SettingsError."""
    for option in OPTIONS:
        if option.name in given:
            up, down = parse(option, given[option.name])
            path = Path(
                replace(path.up, **{option.name: up}), replace(path.down, **{option.name: down})
            )
    for link in (path.up, path.down):
        if link.jitter > link.delay:
            raise SettingsError(
                f"--jitter {link.jitter:g}: more than the delay of {link.delay:g} ms, and nothing"
                " arrives before it was sent; give a longer --delay"
            )
        if "queue" in given and not link.rate:
            raise SettingsError("--queue: nothing ever waits for a link without a --rate; give one")
        if 0 < link.queue < FULL:
            raise SettingsError(
                f"--queue {link.queue:g}: a datagram of {FULL} bytes must fit, else none passes"
            )
    return path


def describe(path: Path) -> str:
    """Return the options that do something, in words."""
    found = []
    for option in OPTIONS:
        up, down = getattr(path.up, option.name), getattr(path.down, option.name)
        if up or down:
            both = f"{up:.12g}" if up == down else f"{up:.12g}/{down:.12g}"
            found.append(f"{option.name} {both} {option.unit}")
    return ", ".join(found) or "a path that does nothing to its datagrams"
