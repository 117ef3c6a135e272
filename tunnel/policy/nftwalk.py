"""A packet's way through nftables, on a listing (`nft --json list ruleset`). Pure.

Every table is walked, not only our own: what a packet meets is all of them. The hooks of a packet
of this machine's own are output and postrouting of inet, ip and ip6, then egress of the device.
In a hook, base chains come by priority; accept ends a chain and the next one has its say, drop and
reject end it all. A match that is not known here counts as not matching and makes the verdict
unsure, which is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, Final

from tunnel.policy.lookup import Packet

HOOKS: Final = ("output", "postrouting", "egress")
_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp"}
_CUT_OFF: Final = ("drop", "reject")
_SILENT: Final = ("counter", "log", "mangle", "notrack", "ct count", "comment", "xt")
_DEPTH: Final = 16


@dataclass(frozen=True, slots=True)
class Passage:
    """`verdict` is accept, drop or reject; `by` is the rule or policy that gave it, in words."""

    verdict: str
    by: str
    unsure: tuple[str, ...] = ()


@dataclass(slots=True)
class _Walk:
    facts: Mapping[str, Any]
    chains: Mapping[tuple[str, str, str], list[dict[str, Any]]]
    sets: Mapping[tuple[str, str, str], list[Any]]
    unsure: dict[str, None] = field(default_factory=dict)


def walk(items: Iterable[Mapping[str, Any]], packet: Packet, device: str) -> Passage:
    """Return what becomes of a packet of a new connection that leaves by `device`.

    `items` are those of a listing.
    """
    chains: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    sets: dict[tuple[str, str, str], list[Any]] = {}
    bases = []
    for item in items:
        if "chain" in item:
            chain = item["chain"]
            chains.setdefault((chain["family"], chain["table"], chain["name"]), [])
            if chain.get("hook") in HOOKS:
                bases.append(chain)
        elif "rule" in item:
            rule = item["rule"]
            chains.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule)
        elif "set" in item:
            one = item["set"]
            sets[one["family"], one["table"], one["name"]] = one.get("elem", [])
    state = _Walk(_facts(packet, device), chains, sets)
    accepted = ""
    families = {"inet", "ip" if packet.destination.version == 4 else "ip6", "netdev"}
    here = [c for c in bases if c["family"] in families and _on(c, device)]
    for chain in sorted(here, key=lambda c: (HOOKS.index(c["hook"]), c.get("prio", 0))):
        verdict, by = _chain(state, (chain["family"], chain["table"], chain["name"]))
        where = f"{chain['family']} {chain['table']} {chain['name']}"
        if verdict == "continue":
            verdict, by = chain.get("policy", "accept"), f"the policy of {where}"
        if verdict in _CUT_OFF:
            return Passage(verdict, by, tuple(state.unsure))
        if not by.startswith("the policy"):
            accepted = by
    return Passage("accept", accepted or "no rule is against it", tuple(state.unsure))


def _on(chain: Mapping[str, Any], device: str) -> bool:
    """Tell whether a chain sees packets of the device."""
    if chain["family"] != "netdev":
        return bool(chain["hook"] != "egress")
    devices: Any = chain.get("dev", [])
    return device in ([devices] if isinstance(devices, str) else devices)


def _facts(packet: Packet, device: str) -> dict[str, Any]:
    four = packet.destination.version == 4
    name, other = ("ip", "ip6") if four else ("ip6", "ip")
    protocol = _PROTOCOLS.get(packet.ip_protocol, packet.ip_protocol)
    facts: dict[str, Any] = {
        "meta oifname": device,
        "meta oif": device,
        "meta iifname": "",
        "meta mark": packet.mark,
        "meta nfproto": "ipv4" if four else "ipv6",
        "meta protocol": name,
        "meta l4proto": protocol,
        "meta skuid": packet.user,
        "meta pkttype": "host",
        "ct state": "new",
        "ct mark": 0,
        "ct direction": "original",
        f"{name} daddr": str(packet.destination),
        f"{name} saddr": None if packet.source is None else str(packet.source),
        "ip protocol" if four else "ip6 nexthdr": protocol,
        f"{other} daddr": None,
        f"{other} saddr": None,
        "ip6 nexthdr" if four else "ip protocol": None,
        "ether type": name,
    }
    for l4 in ("tcp", "udp", "th"):
        there = protocol in ("tcp", "udp") if l4 == "th" else protocol == l4
        facts[f"{l4} dport"] = packet.port if there else None
        facts[f"{l4} sport"] = packet.source_port if there else None
    for l4 in ("icmp", "icmpv6"):
        if protocol not in ("icmp", "ipv6-icmp"):
            facts[f"{l4} type"] = facts[f"{l4} code"] = None
    return facts


def _chain(walk: _Walk, key: tuple[str, str, str], depth: int = 0) -> tuple[str, str]:
    """Return (verdict, by); 'continue' where no rule decided."""
    for rule in walk.chains.get(key, ()):
        verdict, target = _rule(walk, rule, key)
        if verdict in ("jump", "goto") and depth < _DEPTH:
            inner, by = _chain(walk, (*key[:2], target), depth + 1)
            if inner not in ("continue", "return"):
                return inner, by
            if verdict == "goto":
                return "continue", ""
        elif verdict == "return":
            return "return" if depth else "continue", ""
        elif verdict:
            return verdict, f"{' '.join(key)}: {_words(rule)}"
    return "continue", ""


def _rule(walk: _Walk, rule: Mapping[str, Any], key: tuple[str, str, str]) -> tuple[str, str]:
    """Return the verdict of one rule and where a jump leads; ('', '') where it has none."""
    for expression in rule.get("expr", ()):
        ((kind, content),) = expression.items()
        if kind == "match":
            if not _matches(walk, content, key):
                return "", ""
        elif kind in ("accept", "drop", "return", "continue", "queue"):
            return ("" if kind == "continue" else kind), ""
        elif kind == "reject":
            return "reject", ""
        elif kind in ("jump", "goto"):
            return kind, content["target"]
        elif kind == "vmap":
            return _mapped(walk, content, key)
        elif kind not in _SILENT:
            walk.unsure[_words(rule)] = None
            return "", ""
    return "", ""


def _mapped(walk: _Walk, content: Mapping[str, Any], key: tuple[str, str, str]) -> tuple[str, str]:
    data = content["data"]
    pairs = walk.sets.get((*key[:2], data[1:]), []) if isinstance(data, str) else data["set"]
    for value, verdict in pairs:
        if _matches(walk, {"op": "==", "left": content["key"], "right": value}, key):
            ((kind, target),) = verdict.items()
            return kind, target["target"] if isinstance(target, Mapping) else ""
    return "", ""


def _matches(walk: _Walk, match: Mapping[str, Any], key: tuple[str, str, str]) -> bool:
    """Tell whether a packet fits; what is not known is noted, and does not."""
    left, mask = match["left"], None
    if isinstance(left, Mapping) and "&" in left:
        left, mask = left["&"]
    name = _name(left)
    if name is None or name not in walk.facts or (mask is not None and not isinstance(mask, int)):
        walk.unsure[f"{name or 'something'} {match['op']} {match['right']}"] = None
        return False
    value = walk.facts[name]
    if value is None:
        return False
    if mask is not None and isinstance(value, int):
        value &= mask
    right = match["right"]
    if isinstance(right, str) and right.startswith("@"):
        right = {"set": walk.sets.get((*key[:2], right[1:]), [])}
    same = _equal(value, right)
    match match["op"]:
        case "==" | "in":
            return same
        case "!=":
            return not same
        case "<" | ">" | "<=" | ">=" as op if isinstance(value, int) and isinstance(right, int):
            return {"<": value < right, ">": value > right, "<=": value <= right}.get(
                op, value >= right
            )
    walk.unsure[f"{name} {match['op']} {right}"] = None
    return False


def _name(left: Any) -> str | None:
    match left:
        case {"meta": {"key": key}}:
            return f"meta {key}"
        case {"payload": {"protocol": protocol, "field": name}}:
            return f"{protocol} {name}"
        case {"ct": {"key": key}}:
            return f"ct {key}"
    return None


def _equal(value: Any, right: Any) -> bool:
    match right:
        case {"set": members}:
            return any(_equal(value, member) for member in members)
        case {"elem": {"val": inner}}:
            return _equal(value, inner)
        case {"range": [low, high]}:
            at = _at(value)
            return isinstance(at, int) and bool(_at(low) <= at <= _at(high))
        case {"prefix": {"addr": address, "len": length}}:
            try:
                return ip_address(value) in ip_network(f"{address}/{length}", strict=False)
            except ValueError:
                return False
        case list():
            return any(_equal(value, member) for member in right)
        case str() if right.endswith("*") and isinstance(value, str):
            return value.startswith(right[:-1])
    if isinstance(right, str) and isinstance(value, str) and ":" in right + value:
        return bool(_at(value) == _at(right))
    return str(value) == str(right)


def _at(value: Any) -> Any:
    """Return a number or an address as something that can be compared."""
    if isinstance(value, int):
        return value
    try:
        return int(ip_address(value))
    except ValueError:
        return value


def _words(rule: Mapping[str, Any]) -> str:
    """Return a rule in words: its comment, else what it looks at."""
    if rule.get("comment"):
        return str(rule["comment"])
    parts: list[str] = []
    for expression in rule.get("expr", ()):
        ((kind, content),) = expression.items()
        if kind == "match":
            op = "" if content["op"] in ("==", "in") else f"{content['op']} "
            parts.append(f"{_name(content['left']) or '...'} {op}{_value(content['right'])}")
        elif kind not in _SILENT:
            parts.append(kind)
    return " ".join(parts) or f"rule {rule.get('handle')}"


def _value(right: Any) -> str:
    match right:
        case {"set": members} | ([*_] as members):
            return "{" + ", ".join(map(_value, members)) + "}"
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case {"range": [low, high]}:
            return f"{low}-{high}"
    return str(right)
