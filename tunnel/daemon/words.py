"""What tunneld says to people: what is in force, and for --check what would be. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tunnel.config import Config
from tunnel.describe import describe
from tunnel.policy.binding import PathPolicy
from tunnel.policy.interface import Confidence, Interface
from tunnel.policy.path import Path
from tunnel.policy.routing import Desired
from tunnel.policy.rtnl import Dump, Route, Rule
from tunnel.settings import RoutingPolicy

OTHERS_ARE_FREE = "other programs are not restricted (that is --include-all-networks)"

ALL_IN_THE_TUNNEL = "all other programs' leaves through the tunnel or not at all"


def binding_line(policy: PathPolicy, path: Path, routing: RoutingPolicy) -> str:
    """Return the start line that says what tunneld's own traffic may use, and what it does not."""
    closed = routing.include_all_networks
    if not path.bound:
        rest = f"; {ALL_IN_THE_TUNNEL}" if closed else "; --bind SPEC restricts it"
        return f"no binding: tunneld's own traffic follows the routing table{rest}"
    used = path.interface
    where = "nowhere yet" if used is None else f"only on {title(used)}"
    others = ALL_IN_THE_TUNNEL if closed else OTHERS_ARE_FREE
    return f"{policy}: tunneld's own traffic leaves {where}; {others}"


def title(interface: Interface) -> str:
    """Return an interface's name with its type and the evidence for it."""
    kind = interface.classification
    evidence = kind.evidence if kind.evidence.startswith("as ") else f"by {kind.evidence}"
    doubt = ", a guess" if kind.confidence is Confidence.GUESS else ""
    return f"{interface.name} ({kind.type.value}, {evidence}{doubt})"


def check_lines(
    name: str,
    config: Config,
    policy: PathPolicy,
    interfaces: Sequence[Interface],
    path: Path,
    wanted: Desired,
    dump: Dump,
) -> list[str]:
    """Return what --check prints: the configuration, what each interface is for, the routing."""
    names = {link.index: link.name for link in dump.links}
    lines = [f"interface: {name}", *describe(config), binding_line(policy, path, config.routing)]
    lines += [f"present: {title(i)}: {_verdict(i, policy, path)}" for i in interfaces]
    lines.append(f"path: {path.status.value}: {path.reason}")
    if wanted.mtu:
        lines.append(f"MTU on this path: {wanted.mtu}")
    if wanted.mark:
        lines.append(f"mark of tunneld's own packets: {wanted.mark:#x}")
    lines += sorted(_route(route, names) for route in wanted.routes)
    lines += [
        _rule(r) for r in sorted(wanted.rules, key=lambda r: (r.version, r.preference, r.table))
    ]
    if wanted.guarded:
        guarded = ", ".join(str(address.ip) for address in wanted.guarded)
        lines.append(f"firewall: packets for {guarded} that do not come through {name} are dropped")
    return lines


def _verdict(interface: Interface, policy: PathPolicy, path: Path) -> str:
    refusal = policy.refusal(interface)
    if refusal:
        return f"not used: it {refusal}"
    if not interface.usable:
        return f"not used now: it {interface.reason}"
    if interface == path.interface:
        return "used first"
    return "used when those before it are gone" if interface in path.interfaces else "not used now"


def _route(route: Route, names: dict[int, str]) -> str:
    device = f" dev {names.get(route.index, route.index)}" if route.index else ""
    return f"route in table {route.table}: {route}{device}"


def _rule(rule: Rule) -> str:
    return f"rule {rule.preference} (IPv{rule.version}): {rule}"
