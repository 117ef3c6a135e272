"""BindingPolicy: which interfaces a tunnel's own traffic may use. A pure function of interfaces.

Three lists of terms. `permitted`, in order, is all that may be used; None means everything.
`prohibited` wins over it. `avoided` is used only when nothing else is there. A term is a type, an
attribute or a name. Three things are never chosen by accident: loopback and tunnels only where a
permitted term says so, ultra-constrained interfaces only where a permitted term names them.

As soon as any list restricts, the sockets are bound to the chosen interface (`Path.bound`): a
prohibition that left the choice to the routing table would hold only until the next route change.

Anything with the two methods of `PathPolicy` takes its place: given in code, or by a package that
registers it under the entry point group `tunnel.policies`. `Combined` lets several decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol, runtime_checkable

from tunnel.errors import ConfigError, TunnelError, UsageError, Where
from tunnel.policy.interface import Interface, InterfaceType
from tunnel.policy.path import Path, PathStatus

NAME_MAX = 15
"""Bytes of an interface name (IFNAMSIZ less the final zero)."""


class Attribute(Enum):
    """The attributes that --prohibit and --avoid know."""

    EXPENSIVE = "expensive"
    CONSTRAINED = "constrained"
    ULTRA_CONSTRAINED = "ultra-constrained"


@dataclass(frozen=True, slots=True)
class Term:
    """One word of a SPEC: a type, an attribute, or (a string) an interface's name."""

    value: InterfaceType | Attribute | str

    def matches(self, interface: Interface) -> bool:
        """Whether the interface is meant by this term."""
        match self.value:
            case InterfaceType():
                return interface.type is self.value
            case Attribute.EXPENSIVE:
                return interface.expensive
            case Attribute.CONSTRAINED:
                return interface.constrained
            case Attribute.ULTRA_CONSTRAINED:
                return interface.ultra_constrained
            case name:
                return interface.name == name

    def __str__(self) -> str:
        return self.value if isinstance(self.value, str) else self.value.value


_TYPES = {type_.value: type_ for type_ in InterfaceType}
_ATTRIBUTES = {attribute.value: attribute for attribute in Attribute}


def parse_spec(
    text: str | Iterable[str],
    present: Iterable[str],
    *,
    option: str = "--bind",
    where: Where | None = None,
) -> tuple[Term, ...]:
    """Parse a SPEC (contract.md): a comma list or its words, given the names of present interfaces.

    `option` is the option or key it belongs to. Raises UsageError, or ConfigError when `where`
    says that the words come from a file.
    """
    words = text.split(",") if isinstance(text, str) else list(text)
    names = frozenset(present)
    attributes_allowed = option.lstrip("-") != "bind"

    def wrong(problem: str, mend: str) -> TunnelError:
        if where is not None:
            return ConfigError(problem, where=where, key=option, mend=mend)
        return UsageError(f"{option}: {problem}; {mend}")

    terms: list[Term] = []
    for word in (word.strip() for word in words):
        if not word:
            raise wrong("an empty term", f"write a comma list of types ({', '.join(_TYPES)})")
        if word in _TYPES:
            terms.append(Term(_TYPES[word]))
        elif word in _ATTRIBUTES:
            if not attributes_allowed:
                raise wrong(f"{word} is an attribute", "use it with --prohibit or --avoid")
            terms.append(Term(_ATTRIBUTES[word]))
        elif word.startswith("if:"):
            name = word.removeprefix("if:")
            if not _is_name(name):
                raise wrong(
                    f"{word!r} names no possible interface", "write if:NAME, as in if:wwan0"
                )
            terms.append(Term(name))
        elif word in names:
            terms.append(Term(word))
        else:
            raise wrong(
                f"{word!r} is neither a type nor a present interface",
                f"the types are {', '.join(_TYPES)}; if:NAME names an interface that may be absent",
            )
    return tuple(dict.fromkeys(terms))


def _is_name(name: str) -> bool:
    return (
        0 < len(name.encode()) <= NAME_MAX
        and name not in (".", "..")
        and not any(c in "/:" or c.isspace() or not c.isprintable() for c in name)
    )


@runtime_checkable
class PathPolicy(Protocol):
    """What decides which interfaces a tunnel's own traffic may use. `str()` of it is shown.

    Both methods are pure functions of their arguments: they are called at each change of the
    network, and must give the same answer to the same question.
    """

    def decide(self, interfaces: Sequence[Interface]) -> Path:
        """Return the path: of the interfaces given those to use, by preference, or why none.

        Only usable ones may be in it. With `Path.bound` the sockets are bound to the first.
        """

    def refusal(self, interface: Interface) -> str:
        """Say why the policy refuses an interface, as in 'is prohibited'; '' if it does not."""


@dataclass(frozen=True, slots=True)
class Combined:
    """Several policies as one: each chooses among what those before it left; the last orders."""

    policies: tuple[PathPolicy, ...]

    def decide(self, interfaces: Sequence[Interface]) -> Path:
        """Return the path that all of them agree on; bound if any of them binds."""
        left = tuple(interfaces)
        path, bound = Path(PathStatus.UNSATISFIED, "no policy", (), True), False
        for policy in self.policies:
            given = {i.name: i for i in left}
            path = policy.decide(left)
            bound = bound or path.bound
            left = path.interfaces
            if any(given.get(i.name) != i for i in left):
                why = f"no permitted interface: {policy} chose one that was not given to it"
                path = Path(PathStatus.UNSATISFIED, why, (), True)
            if path.status is not PathStatus.SATISFIED:
                break
        return replace(path, bound=bound)

    def refusal(self, interface: Interface) -> str:
        """Say why the first that refuses does so."""
        return next(filter(None, (one.refusal(interface) for one in self.policies)), "")

    def __str__(self) -> str:
        return " and ".join(map(str, self.policies))


@dataclass(frozen=True, slots=True)
class BindingPolicy:
    """Permitted terms in order of preference (None: all), prohibited and avoided terms."""

    permitted: tuple[Term, ...] | None = None
    prohibited: tuple[Term, ...] = ()
    avoided: tuple[Term, ...] = ()

    def __str__(self) -> str:
        lists = (
            ("binding", self.permitted),
            ("prohibiting", self.prohibited),
            ("avoiding", self.avoided),
        )
        rules = [f"{verb} {', '.join(map(str, terms))}" for verb, terms in lists if terms]
        return " and ".join(rules) or "no binding"

    @property
    def binds(self) -> bool:
        """Whether the outer sockets are bound to the chosen interface."""
        return self.permitted is not None or bool(self.prohibited) or bool(self.avoided)

    def decide(self, interfaces: Sequence[Interface]) -> Path:
        """Return the path of the moment: usable interfaces by preference, or why there is none."""
        refused = {interface.name: self.refusal(interface) for interface in interfaces}
        allowed = [i for i in interfaces if not refused[i.name]]
        usable = sorted((i for i in allowed if i.usable), key=self._preference)
        if not usable:
            possible = any(interface.satisfiable for interface in allowed)
            status = PathStatus.SATISFIABLE if possible else PathStatus.UNSATISFIED
            return Path(status, self._why_none(interfaces, refused), (), self.binds)
        first = usable[0]  # avoided ones sort last: they stand by for when the others are gone
        rule = self._permitted_rank(first)
        because = (
            f"permitted by {self.permitted[rule]}" if self.permitted else "nothing else wanted"
        )
        if self._is_avoided(first):
            because = "avoided, but nothing else is there"
        elif not self.binds:
            because = "the default route"
        kind = f"{first.type.value}, {first.classification.evidence}"
        reason = f"{first.name} ({kind}): {because}"
        return Path(PathStatus.SATISFIED, reason, tuple(usable), self.binds)

    def refusal(self, interface: Interface) -> str:
        """Why the policy refuses the interface; empty when it does not."""
        for term in self.prohibited:
            if term.matches(interface):
                return "is prohibited"
        matching = [term for term in self.permitted or () if term.matches(interface)]
        if self.permitted is not None and not matching:
            return "is not permitted"
        if interface.ultra_constrained and Term(interface.name) not in matching:
            return "is ultra-constrained and not permitted by name"
        if not matching and interface.type is InterfaceType.LOOPBACK:
            return "is loopback"
        if not matching and interface.type is InterfaceType.TUNNEL and self.binds:
            return "is a tunnel and not named"
        return ""

    def _permitted_rank(self, interface: Interface) -> int:
        terms = self.permitted or ()
        return next((i for i, term in enumerate(terms) if term.matches(interface)), len(terms))

    def _is_avoided(self, interface: Interface) -> bool:
        return any(term.matches(interface) for term in self.avoided)

    def _preference(self, interface: Interface) -> tuple[bool, int, int, int]:
        rank = self._permitted_rank(interface)
        return self._is_avoided(interface), rank, interface.metric, interface.index

    def _why_none(self, interfaces: Sequence[Interface], refused: dict[str, str]) -> str:
        """Name what is nearest to being usable first; loopback and tunnels go unmentioned."""
        allowed = [i for i in interfaces if not refused[i.name]]
        others = [
            i
            for i in interfaces
            if refused[i.name] and i.type not in (InterfaceType.LOOPBACK, InterfaceType.TUNNEL)
        ]
        parts = [f"{_title(i)} {i.reason}" for i in sorted(allowed, key=self._preference)]
        parts += [f"{_title(i)} {refused[i.name]}" for i in sorted(others, key=lambda i: i.index)]
        shown = {i.name for i in allowed}
        absent = [
            f"{term} is absent"
            for term in self.permitted or ()
            if isinstance(term.value, str) and term.value not in {i.name for i in interfaces}
        ]
        head = "no permitted interface" if self.binds else "no interface with a default route"
        present = any(term.matches(i) for term in self.permitted or () for i in interfaces)
        if self.permitted and not shown and not absent and not present:
            wanted = ", ".join(str(term) for term in self.permitted)
            absent = [f"none is {wanted}"]
        details = "; ".join(absent + parts)
        return f"{head}: {details}" if details else head


def _title(interface: Interface) -> str:
    return f"{interface.name} ({interface.type.value})"
