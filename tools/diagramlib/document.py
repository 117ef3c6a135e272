"""The figures as Mermaid text, and the files that hold them between two marks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.diagramlib import machines
from tools.diagramlib.explore import Transitions

ROOT: Final = Path(__file__).parent.parent.parent
BEGIN: Final = "<!-- figures: generated from the code by tools/diagrams, do not edit -->"
END: Final = "<!-- end of figures -->"


@dataclass(frozen=True, slots=True)
class Figure:
    """One state machine with a heading and what to know about it."""

    title: str
    text: str
    machine: Callable[[], tuple[str, Transitions]]

    def markdown(self) -> str:
        """Return heading, text and figure."""
        return f"## {self.title}\n\n{self.text}\n\n{self.mermaid()}"

    def mermaid(self) -> str:
        """Return the figure as a Mermaid block."""
        first, transitions = self.machine()
        names = list(dict.fromkeys([first, *(name for pair in transitions for name in pair)]))
        ids = {name: f"s{number}" for number, name in enumerate(names)}
        lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {ids[first]}"]
        lines += [f'    state "{name}" as {ids[name]}' for name in names]
        lines += [
            f"    {ids[here]} --> {ids[there]}: {', or '.join(dict.fromkeys(events))}"
            for (here, there), events in transitions.items()
        ]
        return "\n".join([*lines, "```"])


SESSION: Final = Figure(
    "The session",
    "What `tunnelctl status` shows. A provider reports connecting, connected or reasserting; the "
    "rest is the session's. While there is no permitted interface, a connected provider counts as "
    "reasserting.",
    machines.session,
)
KILL_SWITCH: Final = Figure(
    "The kill switch",
    "With `--include-all-networks`, here with `--bind`. *blocked*: nothing leaves but what keeps "
    "the network alive. *connecting*: the tunnel's own packets to its server do as well. "
    "*connected*: so does everything, inside the tunnel. A crash (kill -9) leaves it as it is, "
    "and the next start takes it over.",
    machines.kill_switch,
)
MOVES: Final = Figure(
    "The path in use",
    "With `--bind wifi,cellular`. An interface that dies is left at once. A better one that comes "
    "back has to be steady first (damping), and is proven by a handshake over it before the old "
    "one is left (make before break).",
    machines.moves,
)


@dataclass(frozen=True, slots=True)
class Target:
    """A file, of which the part between the marks is generated."""

    path: Path
    figures: Callable[[], str]

    def wanted(self) -> str:
        """Return the file as it should be. Raises ValueError where it has no marks."""
        text = self.path.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, mark, after = rest.partition(END)
        if not mark:
            raise ValueError(f"{self.path} lacks the marks {BEGIN!r} and {END!r}")
        return f"{before}{BEGIN}\n{self.figures()}\n{END}{after}"

    def is_stale(self) -> bool:
        """Tell whether the code says something else by now."""
        return self.wanted() != self.path.read_text(encoding="utf-8")

    def write(self) -> None:
        """Bring the file up to date."""
        self.path.write_text(self.wanted(), encoding="utf-8")


TARGETS: Final = (
    Target(
        ROOT / "docs" / "states.md",
        lambda: "\n\n".join(figure.markdown() for figure in (SESSION, KILL_SWITCH, MOVES)),
    ),
    Target(ROOT / "README.md", KILL_SWITCH.mermaid),
)
